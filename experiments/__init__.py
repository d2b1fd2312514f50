"""The experiments of the paper and ours beside them: one command each, results under `docs`."""
