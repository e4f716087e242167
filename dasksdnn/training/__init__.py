"""Training: losses, optimizers, the epoch loop, checkpoints."""
