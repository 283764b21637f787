"""Training that any family with a network shares: pictures decoded once, one loop, its checkpoints and optimizers."""
