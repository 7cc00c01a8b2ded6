"""Tokens in, tokens out: the engine process, its client and the engines."""
