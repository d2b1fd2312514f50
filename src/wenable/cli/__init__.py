"""The command line: arguments to calls. Nothing imports it."""
