"""Products of a row block with a panel: a plain reference, and compiled kernels that agree with it."""
