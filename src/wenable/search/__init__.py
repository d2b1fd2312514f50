"""Runs a search on a real network, and reuses what it can."""

from wenable.search.greedy import search_greedily as search_greedily
from wenable.search.work import SearchEstimate as SearchEstimate
from wenable.search.work import Work as Work
from wenable.search.work import estimate_search as estimate_search
from wenable.search.work import plain_macs as plain_macs
