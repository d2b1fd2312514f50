"""What benchmarks and experiments measured, one record a line, and what reads and writes it.

The pages under `docs/results` are made of these records and of nothing else.
"""
