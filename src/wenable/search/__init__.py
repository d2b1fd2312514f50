"""Algorithm 2 with the work left out that cannot change its path, and with a journal on disk."""

from wenable.search.greedy import Strategy as Strategy
from wenable.search.greedy import explore_affordably as explore_affordably
from wenable.search.work import SearchEstimate as SearchEstimate
from wenable.search.work import Work as Work
from wenable.search.work import estimate_search as estimate_search
from wenable.search.work import plain_macs as plain_macs
