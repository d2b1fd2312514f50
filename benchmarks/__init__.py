"""Measurements whose results stand in the documentation; each is one command."""
