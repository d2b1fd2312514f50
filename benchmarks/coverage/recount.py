"""Counts the MACs of a network again, without converting and checking it: from its trace alone."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

import wenable as we
from benchmarks.coverage.check import ENOUGH, Outcome, note_left_alone
from benchmarks.coverage.networks import Candidate
from wenable.graph import TracedGraph, trace
from wenable.methods.plan import Plan


def recounted(outcome: Outcome, candidate: Candidate) -> Outcome:
    """Return an outcome with its MACs, knobs and shares counted anew; what was checked stays.

    The network is traced with one example, and nothing is computed, so that it takes seconds.
    """
    model, graph = _traced(candidate)
    plan = we.WeightEnabling().plan(copy.deepcopy(model), graph)
    share = _switched(plan) / outcome.groupable_macs
    with_attention, settings = None, ""
    if any("attention" in layer.reason for layer in plan.left_alone):
        every = we.WeightEnabling(attention=True).plan(copy.deepcopy(model), graph)
        with_attention = _switched(every) / outcome.groupable_macs
        if share < ENOUGH <= with_attention:
            plan, settings = every, "attention=True"
    full = sum(product.macs for product in graph.products) // graph.examples
    saved = sum(layer.macs - layer.macs_at(layer.options[-1]) for layer in plan.layers)
    found = replace(
        outcome,
        share_by_default=share,
        share_with_attention=with_attention,
        settings=settings,
        knobs=len(plan.space.knobs),
        full_macs=full,
        smallest_macs=full - saved,
        switched_macs=_switched(plan),
    )
    note_left_alone(found, plan.left_alone)
    return found


def _switched(plan: Plan) -> int:
    return sum(layer.macs for layer in plan.layers)


def _traced(candidate: Candidate) -> tuple[nn.Module, TracedGraph]:
    """Return a network and its trace: without weights, which takes no time, where that can be."""
    with contextlib.suppress(Exception):  # a few read values while they are built or run
        with torch.device("meta"):
            model = candidate.build()
        return model, trace(model, _example(candidate, "meta"))
    model = candidate.build()
    return model, trace(model, _example(candidate, "cpu"))


def _example(candidate: Candidate, device: str) -> tuple[Any, ...]:
    return (torch.zeros(1, *candidate.input_size, device=device),)
