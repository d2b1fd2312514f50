"""Chooses by the input: cheap answers where they are confident, costly ones for the rest."""
