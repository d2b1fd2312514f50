"""Algorithm 2 with the work left out that cannot change its path, and with a journal on disk."""

from wenable.affordable_search.exploring import Strategy as Strategy
from wenable.affordable_search.exploring import explore_affordably as explore_affordably
from wenable.affordable_search.work import SearchEstimate as SearchEstimate
from wenable.affordable_search.work import Work as Work
from wenable.affordable_search.work import estimate_search as estimate_search
from wenable.affordable_search.work import plain_macs as plain_macs
