"""Finds and reads image files, in one way for training and for devices; no torch."""

from wenable.images.reading import UnreadableImageError as UnreadableImageError
from wenable.images.reading import read_image as read_image
