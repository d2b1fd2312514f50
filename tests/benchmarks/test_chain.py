"""The quick ones of `python -m benchmarks.chain`; `WENABLE_CHAIN=all` takes every one of its networks."""

import os
from dataclasses import replace

import pytest
from torch import nn

from benchmarks.chain.networks import NETWORKS, QUICK, Network, by_name
from benchmarks.chain.steps import STEPS, chain


def two_stages_of_segformer() -> nn.Module:
    """The first and the last of its four: the attention between them differs in nothing but its size."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    stages = {
        "num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [16, 32], "sr_ratios": [4, 1],
        "patch_sizes": [7, 3], "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [4, 4],
    }  # fmt: skip
    config = SegformerConfig(**stages, decoder_hidden_size=32, num_labels=5)
    return SegformerForSemanticSegmentation(config)


def quick(name: str) -> Network:
    found = by_name(name)
    return replace(found, build=two_stages_of_segformer) if name == "SegFormer" else found


EVERY = os.environ.get("WENABLE_CHAIN") == "all"


@pytest.mark.parametrize(
    "network", NETWORKS if EVERY else [*map(quick, QUICK)], ids=lambda it: it.name
)
def test_a_network_goes_the_whole_way(network: Network):
    row = chain(network)
    assert row["passed"] == list(STEPS), row["detail"]
    assert row["smallest"] < 1
    assert row["switched"] > 0


def test_the_chain_holds_the_networks_of_many_tasks():
    assert len(NETWORKS) >= 25
    assert len({each.name for each in NETWORKS}) == len(NETWORKS)
    assert {each.source for each in NETWORKS} >= {
        "own", "torchvision", "segmentation-models-pytorch", "transformers",
    }  # fmt: skip
