"""Exports of this room take less time."""

from tests.helpers.quick_exports import parse_library_once

parse_library_once()
