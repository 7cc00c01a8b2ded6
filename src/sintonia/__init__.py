"""Sintonia: make GPT-style language models your own."""
