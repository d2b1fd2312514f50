"""Energy meters: one file for each kind, and which of them a machine has."""
