"""Weights: loading, forest attention, adapters. The only layer below training that has torch."""
