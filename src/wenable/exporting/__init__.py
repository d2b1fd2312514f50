"""From a dynamic network to a bundle that runs without torch."""

from wenable.exporting.writing import export as export
