"""Differentiable RANSAC: scene coordinates learned through the pose that they give (DSAC, Brachmann et al. 2017)."""
