"""Chooses modes: from readings to a front. Touches no device and imports no torch."""

from wenable.strategies.greedy import greedy as greedy
