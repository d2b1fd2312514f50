"""Plain values that every room speaks, and the files they are kept in. Imports no torch."""
