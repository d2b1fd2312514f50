"""What is exported gives the answers of the extracted network, on every engine, in every implementation."""

import os
import random
import resource
import signal
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import onnx
import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn

import wenable as we
from tests.helpers.engines import SESSION_ENGINES
from tests.helpers.networks import Dense, Tokens, converted, give_norms_a_past, small_resnet
from tests.helpers.processes import exit_status
from tests.helpers.references import masked_weight, shuffled_order
from wenable.core.preprocessing import Preprocessing
from wenable.core.readings import Reading
from wenable.exporting import writing
from wenable.exporting.plain_networks import check_exportable
from wenable.exporting.tracing import bundle_graph
from wenable.runtime.bundle import Bundle
from wenable.runtime.engines import installed_engines
from wenable.runtime.graph import CONVOLUTION, LINEAR, NORM
from wenable.runtime.implementations import Implementation, implementations_of, merged_weight
from wenable.runtime.session import Session

ENGINES = installed_engines()


def calibrated(model: nn.Module | None = None, **method) -> tuple[we.DynamicNetwork, list[we.Mode]]:
    """A converted network with its uniform modes and one other, all with statistics of their own."""
    net = converted(model, **method).eval()
    modes = list(dict.fromkeys([*net.space.uniform_modes(), net.space.sample(random.Random(3))]))
    shape = net.example_batch[0].shape[1:]
    we.calibrate(net, modes, [torch.randn(16, *shape, generator=torch.Generator().manual_seed(5))])
    return net, modes


@cache
def exported(
    model: Callable[[], nn.Module], shuffle: str = "first"
) -> tuple[we.DynamicNetwork, list[we.Mode], Path]:
    """One that was calibrated, its modes and its bundle; written once for all engines."""
    torch.manual_seed(0)
    net, modes = calibrated(give_norms_a_past(model()).eval(), shuffle=shuffle)
    return net, modes, we.export(net, modes, Path(mkdtemp()) / "net.wen")


@cache
def extracted(net: we.DynamicNetwork, mode: we.Mode) -> nn.Module:
    """The network of a mode; of those that are written once, and change no more."""
    return we.extract(net, mode).eval()


def expected_of(net: we.DynamicNetwork, mode: we.Mode, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return extracted(net, mode)(torch.from_numpy(x)).numpy()


def images(net: we.DynamicNetwork, count: int = 3) -> np.ndarray:
    shape = net.example_batch[0].shape[1:]
    return np.random.default_rng(0).standard_normal((count, *shape), dtype=np.float32)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=2e-5)


@pytest.mark.parametrize("engine", SESSION_ENGINES)
@pytest.mark.parametrize("shuffle", ["first", "all", "none"])
def test_every_mode_gives_the_answers_of_the_extracted_network(engine, shuffle):
    net, modes, path = exported(small_resnet, shuffle)
    session = Session(path, engine=engine)
    assert session.modes == tuple(map(str, modes))
    for count in (1, 3):  # any batch
        x = images(net, count)
        for mode in modes:
            close(session.run(x, mode=mode), expected_of(net, mode, x))
    answers = [session.run(x, mode=mode) for mode in modes]
    assert all(not np.allclose(one, answers[0], atol=1e-3) for one in answers[1:])


@pytest.mark.parametrize("engine", SESSION_ENGINES)
def test_the_check_before_writing_runs_on_any_engine(tmp_path, engine):
    net, modes = calibrated(Dense())
    assert Bundle(we.export(net, modes, tmp_path / "net.wen", engine=engine)).modes


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("model", [small_resnet, Dense, Tokens])
def test_every_implementation_gives_the_same_answers(engine, model):
    net, modes, path = exported(model, "all")
    x, layers = images(net), Bundle(path).layers
    expected = {mode: expected_of(net, mode, x) for mode in modes}
    most = {
        mode: max(len(implementations_of(layer, mode[name])) for name, layer in layers.items())
        for mode in modes
    }
    for number in range(max(most.values())):

        def choose(layer, option, number=number) -> Implementation:
            ways = implementations_of(layer, option)
            return ways[number % len(ways)]

        session = Session(path, engine=engine, choose=choose)
        for mode in modes:
            if number < most[mode]:
                close(session.run(x, mode=mode), expected[mode])


@pytest.mark.parametrize("option", [2, 4, 8])
@pytest.mark.parametrize("shuffle", [1, 2, 4])
def test_merged_weights_are_masked_ones(option: int, shuffle: int):
    weight = torch.arange(1.0, 1 + 16 * 8 * 3).view(16, 8, 3)
    order = shuffled_order(8, shuffle)
    masked = masked_weight(weight, option, order).numpy()
    for groups in [n for n in (1, 2, 4, 8) if n <= option]:
        given = None if shuffle == 1 else np.array(order)
        merged = merged_weight(weight.numpy(), option, groups, given)
        assert merged.shape == (16, 8 // groups, 3)
        dense = np.zeros_like(masked)
        for row in range(16):
            group, width = row * groups // 16, 8 // groups
            read = [order[group * width + i] for i in range(width)]
            dense[row, read if groups > 1 else slice(None)] = merged[row]
        np.testing.assert_array_equal(dense, masked)


def test_the_graph_marks_every_switchable_layer_and_norm():
    net, _ = calibrated()
    graph, tensors = bundle_graph(net)
    marked = [node.layer for node in graph.nodes if node.op in (CONVOLUTION, LINEAR)]
    assert marked == [layer.name for layer in net.switchable_layers]
    norms = {node.layer for node in graph.nodes if node.op == NORM}
    assert norms == set(net.switchable_norms())
    for layer in net.switchable_layers:
        weight = net.get_parameter(f"{layer.name}.weight").detach().numpy()
        np.testing.assert_array_equal(tensors[f"{layer.name}.weight"], weight)
    assert graph.inputs[0].shape == (None, *net.example_batch[0].shape[1:])


def test_models_are_valid_onnx_by_its_own_checker(tmp_path):
    net, modes = calibrated(Dense(), shuffle="all")
    session = Session(we.export(net, modes, tmp_path / "net.wen"))
    for number in range(len(modes)):
        model = onnx.load_from_string(session.model(number))
        onnx.checker.check_model(model, full_check=True)
        assert {node.op_type for node in model.graph.node}.isdisjoint({CONVOLUTION, LINEAR, NORM})


def test_a_norm_behind_a_convolution_is_folded_and_another_is_not(tmp_path):
    net, modes = calibrated()
    session = Session(we.export(net, modes, tmp_path / "net.wen"))
    operations = [n.op_type for n in onnx.load_from_string(session.model(0)).graph.node]
    assert "Mul" not in operations  # every norm follows a convolution here
    net, modes = calibrated(Dense())
    session = Session(we.export(net, modes, tmp_path / "dense.wen"))
    assert "Mul" in [n.op_type for n in onnx.load_from_string(session.model(0)).graph.node]


@pytest.mark.parametrize("count", [1, 40, 200])
def test_the_file_holds_the_weights_once_however_many_modes(tmp_path, monkeypatch, count):
    net = converted().eval()
    rng, chosen = random.Random(0), {net.space.full: None}
    while len(chosen) < count:
        chosen[net.space.sample(rng)] = None
    modes = list(chosen)
    we.calibrate(net, modes, [images_of(net, 16)])
    # That every mode answers right is tested above; for 200 of them it takes a minute.
    monkeypatch.setattr(writing, "_check", lambda *_: None)
    path = we.export(net, modes, tmp_path / "net.wen")
    weights = 4 * sum(p.numel() for p in we.extract(net, "full").parameters())
    channels = sum(norm.num_features for norm in net.switchable_norms().values())
    # 64 KiB a mode are allowed; the graph and the manifest need them once.
    assert path.stat().st_size <= 1.05 * weights + count * (8 * channels + 1024) + 65536
    assert len(Bundle(path).modes) == count


def images_of(net: we.DynamicNetwork, count: int) -> torch.Tensor:
    return torch.from_numpy(images(net, count))


def test_readings_and_preprocessing_travel_along(tmp_path):
    net, modes = calibrated()
    reading = Reading(0.9, "top-1", low=0.8, high=0.95, count=100, source="test")
    net.preprocessing = Preprocessing(6, (0.5,) * 3, (0.2,) * 3, labels=("a", "b"))
    path = we.export(net, modes, tmp_path / "net.wen", readings={"1/2": {"accuracy": reading}})
    bundle = Bundle(path)
    assert bundle.preprocessing == net.preprocessing
    assert bundle.modes[bundle.number_of("1/2")].readings["accuracy"] == reading
    assert bundle.modes[0].readings["macs"].value == net.macs("full")
    assert set(bundle.modes[0].readings) == {"macs"}


READING = we.Reading(0.5, "top-1")


@pytest.mark.parametrize(
    ("modes", "settings", "message"),
    [
        ([], {}, "`modes` is empty"),
        (["1", "full"], {}, "names a mode twice"),
        (["nonsense"], {}, "nonsense"),
        (["1"], {"readings": {"1/2": {}}}, "`readings` has mode 1/2, which is not among `modes`"),
        (
            ["1"],
            {"readings": {"1": {"top-1": READING}}},
            "under 'top-1'; the runtime chooses by \"acc",
        ),
        (
            ["1"],
            {"readings": {"1": [READING]}},
            "`readings` of mode 1 is a list of 1; allowed: a dict",
        ),
        (["1"], {"readings": {"1": READING}}, "`readings` of mode 1 is a Reading; allowed: a dict"),
        (
            ["1"],
            {"readings": {"1": {"accuracy": 0.5}}},
            "holds 'accuracy': a float; allowed: a dict",
        ),
        (
            ["1"],
            {"readings": {"1": {5: READING}}},
            "holds 5: a Reading; allowed: a dict of readings",
        ),
        (["1"], {"readings": [READING]}, "`readings` is a list of 1; allowed: a dict of modes"),
        (["1"], {"engine": "tflite"}, r"`engine` \(='tflite'\) is unknown; allowed: onnxruntime"),
    ],
)
def test_what_cannot_be_exported_is_refused(tmp_path, modes, settings, message):
    net, _ = calibrated()
    with pytest.raises(ValueError, match=message) as refused:
        we.export(net, modes, tmp_path / "net.wen", **settings)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["code", "graph"])
def test_a_part_with_a_name_of_torch_export_is_refused(tmp_path, name):
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module(name, nn.Conv2d(8, 8, 3))
            self.head = nn.Conv2d(8, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.get_submodule(name)(x))

    net = we.convert(Named(), torch.zeros(1, 8, 6, 6), method=we.WeightEnabling((1, 2)))
    with pytest.raises(ValueError, match=f"has a part called '{name}', a name that torch.export"):
        we.export(net, ["full"], tmp_path / "net.wen")
    # Inside another module it is nobody else's.
    inside = we.convert(
        nn.Sequential(Named()), torch.zeros(1, 8, 6, 6), method=we.WeightEnabling((1, 2))
    )
    assert check_exportable(inside, "a bundle").are_positions


class Stages(nn.Module):
    """A backbone whose first output is what its next layers read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = nn.functional.hardswish(self.first(x))
        return {"first": x, "norm": self.norm(x), "second": self.second(x)}


def test_outputs_that_layers_inside_read_are_exported(tmp_path):
    method = we.WeightEnabling((1, 2), classifier=True)
    net = we.convert(Stages(), torch.zeros(1, 3, 6, 6), method=method).eval()
    we.calibrate(net, ["1/2"], [torch.randn(8, 3, 6, 6)])
    path = we.export(net, ["full", "1/2"], tmp_path / "net.wen")
    x = torch.randn(2, 3, 6, 6)
    with Session(path, engine="onnxruntime", threads=1) as session:
        for mode in ("1", "1/2"):
            with torch.no_grad(), net.using(mode):
                wanted = net(x)
            found = session.run(x.numpy(), mode=mode)
            assert list(found) == ["first", "norm", "second"]
            assert all(np.allclose(found[name], wanted[name].numpy(), atol=1e-5) for name in found)


def test_an_uncalibrated_mode_is_told_of(tmp_path):
    net, _ = calibrated()
    net.forget_calibrations()
    with pytest.warns(we.UncalibratedWarning, match="exported"):
        we.export(net, ["1/2"], tmp_path / "net.wen")


def test_a_mode_that_differs_is_not_written(tmp_path, monkeypatch):
    net, modes = calibrated()
    norms_of = writing._norms_of

    def wrong(net: we.DynamicNetwork, mode: we.Mode) -> tuple[np.ndarray, dict[str, int]]:
        numbers, channels = norms_of(net, mode)
        return 1.01 * numbers, channels

    monkeypatch.setattr(writing, "_norms_of", wrong)
    path = tmp_path / "net.wen"
    path.write_text("the old file")
    with pytest.raises(RuntimeError, match=r"mode 1 differs on onnxruntime .* nothing was written"):
        we.export(net, modes, path)
    assert path.read_text() == "the old file"


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    net, modes = calibrated()
    path = we.export(net, modes[:1], tmp_path / "net.wen")
    before = path.read_bytes()
    write_whole = writing.write_whole

    def full(target: Path, content: bytes) -> Path:
        with monkeypatch.context() as patch:
            if target == path:
                patch.setattr("os.fsync", _no_space)
            return write_whole(target, content)

    monkeypatch.setattr(writing, "write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        we.export(net, modes, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def export_on_a_full_disk(path: str, said: str) -> None:
    """On a real disk that takes no more: the kernel refuses the write in the middle."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
    writing._check = lambda *_: None  # the check before, of the same content, lies elsewhere
    try:
        we.export(converted().eval(), ["full"], path)
    except OSError as error:
        Path(said).write_text(str(error))


def export_until_killed(path: str, said: str) -> None:
    """Killed in the middle of the write, where the new file is to be forced to the disk."""
    fsync = os.fsync

    def killed(descriptor: int) -> None:
        if Path(path).name in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)

    os.fsync = killed
    we.export(converted().eval(), ["full"], path)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux")
@pytest.mark.parametrize(
    ("export", "status", "said"),
    [(export_until_killed, -9, ""), (export_on_a_full_disk, 0, "File too large")],
)
def test_an_export_that_ends_midway_leaves_the_old_file(tmp_path, export, status, said):
    net, modes = calibrated()
    path = we.export(net, modes[:2], tmp_path / "net.wen")
    before, words = path.read_bytes(), tmp_path / "said"
    words.touch()
    assert exit_status(export, str(path), str(words)) == status
    assert said in words.read_text()
    assert path.read_bytes() == before
    assert Session(path, engine="onnxruntime", threads=1).modes == tuple(map(str, modes[:2]))
    if said:
        assert sorted(tmp_path.iterdir()) == [path, words]


def test_where_nothing_can_be_written_is_told_before_the_work(tmp_path, monkeypatch):
    net, modes = calibrated()
    monkeypatch.setattr(writing, "_bundle", None)  # it would be called
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere to write net\.wen"):
        we.export(net, modes, tmp_path / "nowhere" / "net.wen")
    with pytest.raises(IsADirectoryError, match="is a folder; name a file"):
        we.export(net, modes, tmp_path)
    monkeypatch.setattr("os.access", lambda *_: False)  # the superuser may write anywhere
    with pytest.raises(PermissionError, match="cannot be written into"):
        we.export(net, modes, tmp_path / "net.wen")
    assert not list(tmp_path.iterdir())


def _no_space(_: int) -> None:
    raise OSError(28, "No space left on device")


def test_exporting_leaves_the_network_as_it_was(tmp_path):
    net, modes = calibrated()
    net.set_mode("1/2")
    net.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    calibrated_before = net.calibrated_modes
    with warnings.catch_warnings():
        we.export(net, modes, tmp_path / "net.wen")
    assert net.training
    assert net.mode == net.space.uniform(2)
    assert net.calibrated_modes == calibrated_before
    assert all(torch.equal(before[name], each) for name, each in net.state_dict().items())


class Split(nn.Module):
    """Splits what it reads in all the ways that torch writes as a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 1)
        self.second = nn.Conv2d(48, 16, 1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        left, right = x.chunk(2, dim=1)
        one, _, three = x.split([8, 20, 4], dim=-3)
        *_, rest = x.split(12, dim=1)
        both = torch.cat([left, right.relu(), one, three, rest[:, :4]], 1)
        return self.head(self.second(both).mean((2, 3)))


@pytest.mark.parametrize("engine", SESSION_ENGINES)
def test_a_network_that_splits_its_channels(engine):
    net, modes, path = exported(Split)
    session = Session(path, engine=engine)
    x = images(net)
    for mode in modes:
        close(session.run(x, mode=mode), expected_of(net, mode, x))


class Sorted(nn.Module):
    """Makes something whose size is known only when it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.unique(self.layer(x).mean((2, 3)).round(), dim=0)


def test_sizes_that_depend_on_the_input_are_refused_at_export(tmp_path):
    net, modes = calibrated(Sorted())
    with pytest.raises(ValueError, match="the network cannot be exported"):
        we.export(net, modes, tmp_path / "net.wen")
    assert not list(tmp_path.iterdir())


class ConvNormAct(nn.Module):
    """A norm of timm, whose activation is part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3), BatchNormAct2d(16), nn.Conv2d(16, 32, 1),
            BatchNormAct2d(32, act_layer=nn.SiLU), nn.Conv2d(32, 16, 1), BatchNormAct2d(16),
        )  # fmt: skip
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x).mean((2, 3)))


def timm_efficientnet() -> nn.Module:
    """The smallest of timm's own that has such norms, with squeeze-and-excitation between them."""
    return timm.create_model("test_efficientnet", num_classes=10)


@pytest.mark.parametrize("engine", SESSION_ENGINES)
@pytest.mark.parametrize("model", [ConvNormAct, timm_efficientnet])
def test_norms_with_an_activation_of_their_own(model, engine):
    net, modes, path = exported(model)
    session = Session(path, engine=engine)
    x = images(net)
    for mode in modes:
        close(session.run(x, mode=mode), expected_of(net, mode, x))
