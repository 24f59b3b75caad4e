"""Training: one step, one loop, checkpoints that notice damage, exact resume."""
