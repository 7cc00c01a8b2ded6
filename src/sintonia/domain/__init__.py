"""The facts: frozen dataclasses and enums, standard library only."""
