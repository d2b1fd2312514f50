"""The quick ones of `python -m benchmarks.chain`; `WENABLE_CHAIN=all` takes every one of its networks."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.chain.networks import NETWORKS, QUICK, Network, by_name
from benchmarks.chain.steps import STEPS, Way, chain
from benchmarks.chain.table import page
from wenable.runtime.engines import installed_engines


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


class Steep(nn.Module):
    """Takes a difference of large numbers, so that its last digits become the answer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + 16384.0) - 16384.0


def way(plain: nn.Module, folder: Path) -> Way:
    made = Way(Network("steep", "own", "none", lambda: plain, ((8,),)), folder, {"passed": []})
    made.plain = {"1": plain.eval()}
    return made


def exact(inputs: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
    return [inputs[0].numpy()]


def test_only_the_tolerance_is_allowed_where_rounding_hardly_moves_a_network(tmp_path: Path):
    made, inputs = way(nn.Identity(), tmp_path), (torch.linspace(-1, 1, 32).reshape(4, 8),)
    made.hold("onnxruntime", "1", inputs, lambda x: [x[0].numpy() * np.float32(1.00009)])
    assert "rounding" not in made.row
    with pytest.raises(ValueError, match=r"differs by 1\.1e-04 .* the network itself by 0\.0e\+00"):
        made.hold("onnxruntime", "1", inputs, lambda x: [x[0].numpy() * np.float32(1.00011)])
    with pytest.raises(ValueError, match="differs by inf"):
        made.hold("onnxruntime", "1", inputs, lambda x: [x[0].numpy()[:, :1]])


@pytest.mark.parametrize("engine", installed_engines())
def test_where_rounding_moves_the_network_itself_the_row_tells_how_far(engine: str, tmp_path: Path):
    made, inputs = way(Steep(), tmp_path), (torch.linspace(-1, 1, 32).reshape(4, 8),)
    made.hold(engine, "1", inputs, exact)
    found = made.row["rounding"]
    assert (found["engine"], found["mode"]) == (engine, "1")
    assert found["difference"] == pytest.approx(found["network"], rel=1e-3) != 0
    # The session given here computes exactly, and OpenVINO leaves out the sum and the difference.
    assert found["session"] == [0, 0]
    lost = [0, 0] if engine == "openvino" else found["torch"]
    assert found["plain export"] == pytest.approx(lost)
    assert 1e-5 < found["torch"][0] <= found["torch"][1] < 1e-2
    with pytest.raises(ValueError, match="rounding moves the network itself by"):
        made.hold(engine, "1", inputs, lambda x: [x[0].numpy() * np.float32(1.1)])


def test_the_page_shows_such_a_row():
    row = {
        "network": "n", "source": "own", "task": "t", "passed": list(STEPS), "detail": "",
        "rounding": {
            "engine": "openvino", "mode": "1/4", "difference": 1.1e-4, "network": 4e-5,
            "session": [3e-5, 9e-5], "plain export": [2e-5, 8e-5], "torch": [1e-5, 7e-5],
        },
    }  # fmt: skip
    results = {"networks": [row], "commit": "a", "versions": {}, "command": "c", "machine": "m"}
    line = "| n | openvino | `1/4` | 1.1e-04 | 3.0e-04 | 3.0e-05 (9.0e-05) | 2.0e-05 (8.0e-05) |"
    assert f"{line} 1.0e-05 (7.0e-05) |" in page(results)
    del row["rounding"]
    assert "rounding is in the way" not in page(results)
