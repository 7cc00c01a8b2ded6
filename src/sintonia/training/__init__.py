"""One training loop: optimizer, checkpoints, resume, and the command that runs it."""
