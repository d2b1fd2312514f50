"""The dynamic network, and what is done to it: converted, calibrated, evaluated, extracted."""
