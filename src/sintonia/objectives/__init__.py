"""What to learn: each objective is one small file, and the folder is the registry."""
