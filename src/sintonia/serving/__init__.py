"""Answering with models: a name becomes weights and a renderer, messages become tokens and back."""
