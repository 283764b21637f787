"""Pose regression: a network from a picture to the pose it was taken from, the whole PoseNet line by settings."""
