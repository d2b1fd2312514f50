"""The paper's experiments and ours: one command each, records under `results/reproduction`."""
