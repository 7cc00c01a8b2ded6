"""How the learning rate changes: each schedule is one small file, the folder the registry.

A member is a module with ``factor(step, total_steps, settings)``: which part of the way from the
floor to the peak the rate of ``step`` (from 1, after the warm-up) is, from 0 to 1.
"""
