"""Runs the modes of a bundle on a device, with numpy and one engine; imports no torch."""
