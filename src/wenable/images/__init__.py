"""Finds and reads image files, in one way for training and for devices; no torch."""

from wenable.images.finding import Found as Found
from wenable.images.finding import find_images as find_images
from wenable.images.reading import UnreadableImageError as UnreadableImageError
from wenable.images.reading import read_image as read_image
