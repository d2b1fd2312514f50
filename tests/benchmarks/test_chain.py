"""The quick ones of `python -m benchmarks.chain`; `WENABLE_CHAIN=all` takes every one of its networks."""

import os

import pytest

from benchmarks.chain.networks import NETWORKS, QUICK, by_name
from benchmarks.chain.steps import STEPS, chain

NAMES = [each.name for each in NETWORKS] if os.environ.get("WENABLE_CHAIN") == "all" else QUICK


@pytest.mark.parametrize("name", NAMES)
def test_a_network_goes_the_whole_way(name: str):
    row = chain(by_name(name))
    assert row["passed"] == list(STEPS), row["detail"]
    assert row["smallest"] < 1
    assert row["switched"] > 0


def test_the_chain_holds_the_networks_of_many_tasks():
    assert len(NETWORKS) >= 25
    assert len({each.name for each in NETWORKS}) == len(NETWORKS)
    assert {each.source for each in NETWORKS} >= {
        "own", "torchvision", "segmentation-models-pytorch", "transformers",
    }  # fmt: skip
