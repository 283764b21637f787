"""Scene coordinates: every pixel says where in the world it looks, and RANSAC makes a pose of that."""
