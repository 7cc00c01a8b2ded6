"""Batches at work: the runner of this process, what leads one batch, and its answers on disk."""
