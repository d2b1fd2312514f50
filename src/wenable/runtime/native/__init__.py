"""Plans a mode of a bundle for our own kernels: which steps, on which planes, with which weights."""
