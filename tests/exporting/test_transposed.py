"""Transposed convolutions in a bundle: every way to execute them, and files that say what cannot be."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

import wenable as we
from tests.helpers.references import mask, shuffled_order
from wenable.runtime.bundle import Bundle, BundleError
from wenable.runtime.bundle_file import read_bundle_file
from wenable.runtime.graph import CONVOLUTION, TRANSPOSED
from wenable.runtime.implementations import (
    Implementation,
    implementations_of,
    merged_transposed_weight,
)
from wenable.runtime.session import Session

MODES = ["full", "1/2", "1/4"]


@pytest.mark.parametrize("option", [2, 4])
@pytest.mark.parametrize("shuffle", [1, 2, 4])
def test_merged_weights_are_masked_ones(option: int, shuffle: int):
    weight = np.arange(1.0, 1 + 8 * 16 * 3).reshape(8, 16, 3)
    order = shuffled_order(8, shuffle)
    masked = weight * mask(16, 8, option, order).T.numpy()[..., None]
    for groups in [n for n in (1, 2, 4) if n <= option]:
        given = None if shuffle == 1 else np.array(order)
        merged = merged_transposed_weight(weight, option, groups, given)
        assert merged.shape == (8, 16 // groups, 3)
        dense = np.zeros_like(masked)
        for place in range(8):
            row = place if groups == 1 else order[place]
            group, width = place * groups // 8, 16 // groups
            dense[row, group * width : (group + 1) * width] = merged[place]
        np.testing.assert_array_equal(dense, masked)


@pytest.fixture(scope="module", params=[1, 2, 3])
def net(request: pytest.FixtureRequest) -> we.DynamicNetwork:
    kind: Any = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[request.param - 1]
    norm: Any = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[request.param - 1]
    torch.manual_seed(0)
    model = nn.Sequential(
        kind(4, 8, 2), norm(8), nn.ReLU(), kind(8, 8, 3, stride=2, padding=1, output_padding=1, dilation=2),
        nn.ReLU(), kind(8, 4, 1),
    )  # fmt: skip
    method = we.WeightEnabling((1, 2, 4), shuffle="all", classifier=True)
    made = we.convert(model, torch.zeros(1, 4, *(5, 4, 3)[: request.param]), method=method)
    assert [layer.shuffle is not None for layer in made.switchable_layers] == [False, True, True]
    we.calibrate(made, MODES, [torch.randn(8, 4, *(5, 4, 3)[: request.param])])
    return made.eval()


@pytest.fixture(scope="module")
def path(net, tmp_path_factory):
    return we.export(net, MODES, tmp_path_factory.mktemp("transposed") / "net.wen")


def test_every_implementation_gives_the_answers_of_the_extracted_network(net, path):
    x = torch.randn(2, *net.example_batch[0].shape[1:])
    for number in range(7):  # the most ways that one option has here

        def choose(layer: Any, option: int, number: int = number) -> Implementation:
            ways = implementations_of(layer, option)
            return ways[number % len(ways)]

        with Session(path, engine="onnxruntime", threads=1, choose=choose) as session:
            for mode in MODES:
                with torch.no_grad():
                    expected = we.extract(net, mode).eval()(x).numpy()
                np.testing.assert_allclose(session.run(x.numpy(), mode=mode), expected, atol=2e-5)


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "output_padding of another rank": lambda node: node["attributes"].update(
        output_padding=[1] * 7
    ),
    "output_padding below 0": lambda node: node["attributes"].update(output_padding=[-1]),
    "dilations of another rank": lambda node: node["attributes"].update(dilations=[1] * 9),
    "a huge dilation": lambda node: node["attributes"].update(dilations=[2**20]),
    "a stride of 0": lambda node: node["attributes"].update(strides=[0] * 3),
    "groups of its own": lambda node: node["attributes"].update(group=2),
    "another input": lambda node: node["attributes"].update(input=[3, 3]),
    "no input": lambda node: node["attributes"].pop("input"),
    "a layer it lacks": lambda node: node.update(layer="9"),
    "no transposed one, with a padding of what it makes": lambda node: node.update(
        op=CONVOLUTION, attributes={**node["attributes"], "output_padding": [0, 0]}
    ),
    "no weight": lambda node: node.update(inputs=node["inputs"][:1]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_says_what_cannot_be_is_refused(path, tmp_path, change):
    manifest, tensors = read_bundle_file(path)
    manifest = json.loads(json.dumps(manifest))
    node = [each for each in manifest["graphs"][0]["nodes"] if each["op"] == TRANSPOSED][1]
    CHANGES[change](node)
    text = json.dumps(manifest)
    digest = hashlib.sha256(text.encode()).hexdigest()
    save_file(dict(tensors), tmp_path / "net.wen", {"wenable": text, "sha256": digest})
    with pytest.raises(BundleError):
        Bundle(tmp_path / "net.wen")
