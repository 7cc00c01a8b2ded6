"""Moving in: what another server holds is read through its API and kept here under its ids."""
