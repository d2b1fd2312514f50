"""Bundles that take images of several sizes, at each of which every mode is the extracted network."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

import wenable as we
from tests.helpers.engines import NEEDS_KERNELS
from wenable.cli.bundles import run_export
from wenable.runtime.bundle import Bundle, BundleError
from wenable.runtime.bundle_file import read_bundle_file
from wenable.runtime.engine import EngineError
from wenable.runtime.session import Session


class AnySize(nn.Module):
    """A U-Net of one scale, whose transposed convolution switches too."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.low = nn.Conv2d(8, 8, 3, padding=1, stride=2)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.join, self.head = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.down(x)
        return self.head(torch.relu(self.join(torch.cat([x, self.up(torch.relu(self.low(x)))], 1))))


MODES = ["full", "1/2", "1/4"]
SIZES = [(8, 8), (6, 10), (12, 4)]


@pytest.fixture(scope="module")
def net() -> we.DynamicNetwork:
    torch.manual_seed(0)
    made = we.convert(AnySize(), torch.zeros(1, 2, 8, 8), method=we.WeightEnabling((1, 2, 4)))
    assert "up" in {layer.name for layer in made.switchable_layers}
    we.calibrate(made, MODES, [torch.randn(16, 2, 8, 8)])
    return made.eval()


@pytest.fixture(scope="module")
def path(net, tmp_path_factory):
    return we.export(net, MODES, tmp_path_factory.mktemp("sizes") / "net.wen", image_sizes=SIZES)


def test_the_command_line_takes_sizes(net, tmp_path, capsys):
    saved, out = we.save(net, tmp_path / "net.safetensors"), tmp_path / "net.wen"
    own, modes = "tests.exporting.test_several_sizes:AnySize", "full;1/4"

    def exported(sizes: str, engine: str = "onnxruntime") -> None:
        run_export(saved, own, modes, None, out, engine, True, sizes)

    for words in ("6x", "8 6", "6x10x3", "-6", "0", "8,,6", "²"):
        with pytest.raises(ValueError, match=r"allowed: height x width in pixels"):
            exported(words)
    with pytest.raises(ValueError, match="`--image-sizes` is for a bundle; an ExecuTorch file"):
        exported("6x10", "executorch")
    assert not out.exists()
    exported("6x10, 12")
    assert json.loads(capsys.readouterr().out)["modes"] == ["1", "1/4"]
    with Session(out, engine="onnxruntime", threads=1) as session:
        assert session.image_sizes == ("8x8", "6x10", "12x12")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "auto"])
def test_every_mode_answers_at_every_size(net, path, engine):
    with Session(path, engine=engine, threads=1) as session:
        assert session.image_sizes == ("8x8", "6x10", "12x4")  # that of the example first
        for mode in MODES:
            plain = we.extract(net, mode).eval()
            for batch, size in ((2, (6, 10)), (1, (8, 8)), (3, (12, 4)), (2, (6, 10))):
                x = torch.randn(batch, 2, *size)
                with torch.no_grad():
                    expected = plain(x).numpy()
                found = session.run(x.numpy(), mode=mode)
                np.testing.assert_allclose(found, expected, atol=2e-5)
        assert set(session.prepared_modes) == set(session.modes)


def test_maps_say_nothing_of_how_sure_a_mode_is(path):
    with (
        Session(path, engine="onnxruntime", threads=1) as session,
        pytest.raises(
            ValueError, match=r"of 4 dimensions; how sure it is can be told of one output"
        ),
    ):
        session.escalate(np.zeros((1, 2, 8, 8), np.float32), 0.5)


@NEEDS_KERNELS
def test_our_kernels_refuse_a_transposed_convolution_by_name(path):
    x, words = (
        np.zeros((1, 2, 8, 8), np.float32),
        r"ConvTranspose makes .* there is no kernel for it",
    )
    with (
        Session(path, engine="native", threads=1) as session,
        pytest.raises(EngineError, match=words),
    ):
        session.run(x)


def test_deadlines_are_kept_by_the_times_of_their_size(path):
    with Session(path, engine="onnxruntime", threads=1) as session:
        session.warm_up(image_size=(6, 10))
        for size in SIZES[:2]:
            for _ in range(3):
                found = session.run(np.zeros((1, 2, *size), np.float32), deadline_ms=1000.0)
                assert found.shape == (1, 3, *size)
        counts = [session.controller(image_size=size).counters.within for size in SIZES[:2]]
        assert counts == [3, 3]
        session.prepare("1/4", image_size=(12, 4))
        with pytest.raises(
            ValueError, match=r"`image_size` \(=\(9, 9\)\) is none .* allowed: 8x8, 6x10"
        ):
            session.prepare("1/4", image_size=(9, 9))
        with pytest.raises(ValueError, match=r"must have shape .*\(N, 2, 6, 10\)"):
            session.run(np.zeros((1, 2, 9, 9), np.float32))


def test_each_size_is_counted_as_what_it_takes(net, tmp_path):
    large = we.export(net, ["full"], tmp_path / "net.wen", image_sizes=[(8, 8), (64, 64)])
    counted = {}
    for size in ((8, 8), (64, 64)):
        with Session(large, engine="onnxruntime", threads=1) as session:
            session.run(np.zeros((1, 2, *size), np.float32))
            counted[size] = session.prepared_mb
            bundle = session.bundle if size == (8, 8) else session.bundle.at_other_sizes[0]
            # Input and output of the first layer, 2 and 8 channels in float32, live at once.
            assert bundle.computed_bytes(1, 0) >= 4 * (2 + 8) * size[0] * size[1]
    with Session(large, engine="onnxruntime", threads=1) as session:
        for size in counted:
            session.run(np.zeros((1, 2, *size), np.float32))
        small, of_64 = session.bundle, session.bundle.at_other_sizes[0]
        # Both compute in one place, which is as large as the larger needs.
        once = sum(counted.values()) - small.computed_bytes(1, 0) / 2**20
        assert session.prepared_mb == pytest.approx(once)
    with Session(large, engine="onnxruntime", threads=1, memory_budget_mb=100) as session:
        for size in counted:
            session.run(np.zeros((1, 2, *size), np.float32))
        assert session.prepared_mb == pytest.approx(sum(counted.values()))
    assert of_64.computed_bytes(1, 0) == 64 * small.computed_bytes(1, 0)  # as the positions


def test_a_budget_holds_for_all_sizes_together(path):
    with Session(path, engine="onnxruntime", threads=1) as session:
        session.run(np.zeros((1, 2, 8, 8), np.float32))
        one = session.prepared_mb
    with Session(path, engine="onnxruntime", threads=1, memory_budget_mb=1.5 * one) as session:
        for size in SIZES:
            session.run(np.zeros((1, 2, *size), np.float32))
            assert session.prepared_mb <= 1.5 * one


def test_8_bits_are_checked_and_answer_at_every_size(tmp_path):
    torch.manual_seed(0)
    net = we.convert(
        AnySize(), torch.zeros(1, 2, 8, 8), method=we.SwitchablePrecision((32, 8))
    ).eval()
    we.calibrate(net, ["8-bit"], [torch.randn(16, 2, 8, 8)])
    path = we.export(net, ["8-bit"], tmp_path / "net.wen", image_sizes=[(6, 10)])
    plain = we.extract(net, "8-bit").eval()
    with Session(path, engine="onnxruntime", threads=1) as session:
        for size in ((8, 8), (6, 10)):
            x = torch.randn(2, 2, *size)
            with torch.no_grad():
                expected = plain(x).numpy()
            most = np.abs(expected).max()
            np.testing.assert_allclose(session.run(x.numpy()), expected, atol=0.05 * most)


def test_the_weights_stand_in_the_file_once(net, path, tmp_path):
    single = we.export(net, MODES, tmp_path / "one.wen")
    _, tensors = read_bundle_file(path)
    _, alone = read_bundle_file(single)
    assert {name for name in tensors if name.startswith("weights")} == {
        name for name in alone if name.startswith("weights")
    }
    assert Bundle(single).at_other_sizes == ()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([(8,)], "`image_sizes` holds .* pairs of a height and a width"),
        ([(0, 4)], "whole numbers above 0"),
        ([(7, 7)], r"`image_sizes` holds \(7, 7\), and the network does not run on images of 7x7"),
        ([(8, 2 * i) for i in range(1, 66)], "65 sizes; allowed: up to 64"),
    ],
)
def test_sizes_that_cannot_be_are_refused_before_anything_is_written(net, tmp_path, sizes, message):
    with pytest.raises(ValueError, match=message):
        we.export(net, MODES, tmp_path / "net.wen", image_sizes=sizes)
    assert not (tmp_path / "net.wen").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sizes: sizes[0].update(graphs=[0, 0, 99]), "must be a number from 0 to 2 for each"),
        (lambda sizes: sizes[0].update(graphs=[1]), "`graphs` of a size must be a list"),
        (
            lambda sizes: sizes[0].update(graphs=[1, 1, 2]),
            "is no smaller image|has inputs of other|inputs",
        ),
        (lambda sizes: sizes.append(dict(sizes[0])), "lists a size of images twice"),
        (lambda sizes: sizes[0].update(graphs=[0, 0, 0]), "lists a size of images twice"),
        (lambda sizes: sizes.extend([dict(sizes[0])] * 64), "`sizes` has more than 64 entries"),
    ],
)
def test_a_file_that_says_what_cannot_be_of_sizes_is_refused(path, tmp_path, change, message):
    import hashlib

    manifest, tensors = read_bundle_file(path)
    manifest = json.loads(json.dumps(manifest))
    change(manifest["sizes"])
    text = json.dumps(manifest)
    digest = hashlib.sha256(text.encode()).hexdigest()
    save_file(dict(tensors), tmp_path / "net.wen", {"wenable": text, "sha256": digest})
    with pytest.raises(BundleError, match=message):
        Bundle(tmp_path / "net.wen")
