"""Judging models: statistics, and later comparisons, costs and reports."""
