"""Weights in half their bytes: the file says so, and modes are those of the rounded network."""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

import wenable as we
from tests.helpers.networks import small_resnet
from wenable.exporting.half_weights import with_rounded_weights
from wenable.runtime.bundle import Bundle, BundleError
from wenable.runtime.bundle_file import VERSION, read_bundle_file
from wenable.runtime.engines import installed_engines
from wenable.runtime.half_weights import halved, widened
from wenable.runtime.implementations import as_written
from wenable.runtime.session import Session

MODES = ["full", "1/4", "1/4,size=4", "1,size=4,precision=8-bit"]
KINDS = {"float16": torch.float16, "bfloat16": torch.bfloat16}
ENGINES = installed_engines()


@pytest.fixture(scope="module")
def net() -> we.DynamicNetwork:
    torch.manual_seed(0)
    method = [we.WeightEnabling((1, 2, 4)), we.ImageSize((6, 4)), we.SwitchablePrecision((32, 8))]
    made = we.convert(small_resnet(), torch.zeros(1, 3, 6, 6), method=method)
    we.calibrate(made, MODES, [torch.randn(16, 3, 6, 6)])
    return made.eval()


@pytest.fixture(scope="module")
def whole(net, tmp_path_factory) -> Path:
    """The same modes with weights in float32."""
    return we.export(net, MODES, tmp_path_factory.mktemp("whole") / "net.wen")


@pytest.fixture(scope="module", params=KINDS)
def exported(request, net, tmp_path_factory):
    folder = tmp_path_factory.mktemp("half")
    before = {name: each.clone() for name, each in net.named_parameters()}
    path = we.export(net, MODES, folder / "net.wen", weights=request.param)
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, before[name])  # the network itself is not rounded
    return request.param, path


@pytest.mark.filterwarnings(
    "ignore::wenable.UncalibratedWarning"
)  # the statistics of exact weights
def test_modes_are_those_of_the_rounded_network_on_every_engine(exported, net):
    kind, path = exported
    rounded = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in rounded.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.to(KINDS[kind]).float())
    x = torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    for engine in ENGINES:
        with Session(path, engine=engine, threads=1) as session:
            for mode in MODES:
                with torch.no_grad():
                    expected = we.extract(rounded, mode)(x)
                    exact = we.extract(net, mode)(x)
                found = torch.from_numpy(session.run(x.numpy(), mode=mode))
                most = expected.abs().max()
                allowed = 0.02 if "8-bit" in mode else 2e-5
                assert (found - expected).abs().max() < allowed * most, mode
                if "8-bit" not in mode:
                    assert (exact - expected).abs().max() > 1e-4 * most  # rounding shows


def test_the_file_is_smaller_says_so_and_is_plain_safetensors(exported, net, whole):
    kind, path = exported
    stored = safetensors.torch.load_file(path)  # torch's own reader knows bfloat16
    halves = Bundle(path).halves
    assert halves
    for name, tensor in stored.items():
        weight = name.startswith("weights.") and tensor.ndim > 1
        assert (tensor.dtype == KINDS[kind]) == weight == (name in halves)
        if weight:
            expected = net.get_parameter(name.removeprefix("weights.")).to(KINDS[kind])
            assert torch.equal(tensor, expected)
    manifest, tensors = read_bundle_file(path)
    assert manifest["version"] == VERSION
    assert set(manifest["halves"].values()) == {kind}
    assert all(each.dtype != np.float16 for each in tensors.values())
    saved = sum(2 * tensors[name].size for name in halves)
    assert whole.stat().st_size - path.stat().st_size > 0.9 * saved - 100 * len(halves)
    assert not Bundle(whole).halves


def test_joined_files_keep_them(exported, whole, tmp_path):
    _, path = exported
    pair = we.join({"a": whole, "b": path}, tmp_path / "pair.wen")
    assert len(Bundle(pair).halves) == len(Bundle(path).halves)
    x = np.zeros((1, 3, 6, 6), np.float32)
    # Which of two ways is faster is timed for each file by itself, and their last bits differ.
    alike: Any = {"engine": "onnxruntime", "threads": 1, "choose": as_written}
    with Session(pair, **alike) as both:
        with Session(path, **alike) as own:
            expected = own.run(x, mode="1/4")
        np.testing.assert_array_equal(both.run(x, mode="network=b,1/4"), expected)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=6))
def test_halves_are_torchs(values):
    array = np.array(values, np.float32).reshape(1, -1)
    for kind, dtype in KINDS.items():
        rounded = torch.from_numpy(array).to(dtype)
        exact = rounded.float().numpy()
        stored = halved(exact, kind)
        assert stored.nbytes * 2 == array.nbytes
        assert np.array_equal(stored.view(np.int16), rounded.view(torch.int16).numpy())
        assert np.array_equal(widened(stored, kind), exact)
        if not np.array_equal(exact, array):
            with pytest.raises(ValueError, match="which has not all of their numbers"):
                halved(array, kind)


def test_what_cannot_be_stored_is_refused(net, tmp_path):
    with pytest.raises(
        ValueError, match=r"\(='int8'\) must be a type .* allowed: float32, float16"
    ):
        we.export(net, ["full"], tmp_path / "net.wen", weights="int8")
    large = copy.deepcopy(net)
    with torch.no_grad():
        large.get_parameter("fc.weight")[0, 0] = 1e5
    with pytest.raises(
        ValueError, match=r"has no number as large as 100000 in 'fc\.weight'; allowed"
    ):
        with_rounded_weights(large, "float16")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("halves", "message"),
    [
        ([], "`halves` .* must be names of weights"),
        ({"weights.fc.weight": "float8"}, "`halves` .* must be names of weights"),
        ({"norms.0": "float16"}, "`halves` .* must be names of weights"),
        ({"weights.fc.weight": "float16"}, r"'weights\.fc\.weight' has type F32, not float16"),
    ],
)
def test_files_that_say_what_is_not_so_are_refused(whole, tmp_path, halves, message):
    manifest, tensors = read_bundle_file(whole)
    text = json.dumps({**manifest, "halves": halves})
    plain = {name: np.array(each) for name, each in tensors.items()}
    path = tmp_path / "net.wen"
    path.write_bytes(
        save(plain, {"wenable": text, "sha256": hashlib.sha256(text.encode()).hexdigest()})
    )
    with pytest.raises(BundleError, match=message):
        Bundle(path)
