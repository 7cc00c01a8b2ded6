"""The worker: claims jobs, prepares their runs, launches trainers and follows them.

It meets the trainer only in the run directory, and starts without torch.
"""
