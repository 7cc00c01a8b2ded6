"""The endpoints: one module for each family, each with a ``router``."""
