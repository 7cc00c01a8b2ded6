"""Base models on disk: fetched, checked, converted once, sealed with a manifest."""
