"""Saved networks: the same answers after loading, and one clear error for a damaged file."""

import json
import random
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save
from torch import nn

import wenable as we
from tests.helpers.networks import IMAGES, SmallResNet, converted, small_resnet
from wenable.saving.network_file import VERSION
from wenable.zoo import build


def trained() -> we.DynamicNetwork:
    net = converted(groups=(1, 2, 4), shuffle="all")
    generator = torch.Generator().manual_seed(5)
    batch = (torch.randn(8, *IMAGES[1:], generator=generator), torch.arange(8) % 5)
    we.train(net, [batch], we.TrainConfig(passes=3, epochs=2))
    modes = [net.space.full, net.space.uniform(4), net.space.sample(random.Random(0))]
    we.calibrate(net, modes, [batch])
    return net


def test_every_calibrated_mode_gives_the_same_bits_after_loading(tmp_path: Path):
    net = trained()
    path = we.save(net, tmp_path / "net.safetensors")
    loaded = we.load(path, SmallResNet())
    x = torch.randn(IMAGES)
    assert loaded.space == net.space
    assert loaded.conversion_method == net.conversion_method
    assert set(loaded.calibrated_modes) == set(net.calibrated_modes)
    assert not loaded.training
    for mode in (*net.calibrated_modes, net.space.uniform(2)):
        with net.using(mode), loaded.using(mode):
            assert torch.equal(net(x), loaded(x))
    assert all(torch.equal(t, loaded.state_dict()[n]) for n, t in net.state_dict().items())


def test_networks_built_by_name_load_by_path_alone(tmp_path: Path):
    model = build("wenable.zoo:digits_resnet", width=32)
    net = we.convert(model, torch.zeros(2, 1, 8, 8))
    loaded = we.load(we.save(net, tmp_path / "net.safetensors"))
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(net.eval()(x), loaded(x))
    assert loaded.is_calibrated("full")
    assert not loaded.is_calibrated("1/2")


def test_other_types_are_saved_and_the_model_handed_in_is_untouched(tmp_path: Path):
    net = we.convert(
        small_resnet().to(torch.float64), torch.zeros(IMAGES, dtype=torch.float64)
    ).eval()
    model = SmallResNet()
    loaded = we.load(we.save(net, tmp_path / "net.safetensors"), model)
    x = torch.randn(IMAGES, dtype=torch.float64)
    assert torch.equal(loaded(x), net(x))
    assert model.fc.weight.dtype == torch.float32


def test_networks_that_read_whole_numbers_are_saved(tmp_path: Path):
    def words() -> nn.Module:
        return nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

    net = we.convert(words(), torch.zeros(1, 3, dtype=torch.long))
    loaded = we.load(we.save(net, tmp_path / "net.safetensors"), words())
    tokens = torch.tensor([[1, 2, 8]])
    assert torch.equal(loaded(tokens), net(tokens))


def test_the_weights_are_plain_safetensors_under_their_own_names(tmp_path: Path):
    net = trained()
    stored = load_file(we.save(net, tmp_path / "net.safetensors"))
    assert {n for n in stored if not n.startswith("wenable.")} == set(net.state_dict())


def test_tied_weights_can_be_saved(tmp_path: Path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.c(self.b(self.a(x)))

    net = we.convert(Tied(), torch.zeros(1, 8), method=we.WeightEnabling(classifier=True))
    loaded = we.load(we.save(net, tmp_path / "net.safetensors"), Tied())
    assert loaded.a.weight is loaded.b.weight
    x = torch.randn(3, 8)
    assert torch.equal(loaded(x), net(x))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return we.save(trained(), tmp_path / "net.safetensors")


def refused(path: Path, message: str, model: nn.Module | None = None) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        we.load(path, SmallResNet() if model is None else model)
    assert "\n" not in str(caught.value)


def rewrite(path: Path, change) -> None:
    """Write the file again with its header changed and its hash left as it is."""
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["wenable"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(header, tensors)
    path.write_bytes(save(tensors, {"wenable": json.dumps(header)}))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(saved: Path, share: float):
    saved.write_bytes(saved.read_bytes()[: int(share * saved.stat().st_size)])
    refused(saved, "is truncated or no safetensors file")


def test_any_altered_byte_is_refused(saved: Path):
    content = saved.read_bytes()
    length = int.from_bytes(content[:8], "little")
    rng = random.Random(0)
    for position in [
        *(rng.randrange(8, 8 + length) for _ in range(20)),
        *(rng.randrange(8 + length, len(content)) for _ in range(20)),
    ]:
        altered = bytearray(content)
        altered[position] ^= 1 << rng.randrange(8)
        saved.write_bytes(altered)
        refused(saved, "altered|truncated|no header|not a network|made for")


def test_headers_that_were_tampered_with_are_refused(saved: Path):
    rewrite(saved, lambda header, _: header["method"].update(shuffle="none"))
    refused(saved, "was altered after it was saved")


def test_a_newer_version_is_refused_by_its_number(saved: Path):
    rewrite(saved, lambda header, _: header.update(version=VERSION + 1))
    refused(saved, f"has format version {VERSION + 1}, .* reads up to {VERSION}: upgrade it")


def test_other_files_are_refused(tmp_path: Path, saved: Path):
    refused(_written(tmp_path / "a", save({"x": torch.ones(1)})), "no header")
    rewrite(saved, lambda header, _: header.update(format="other"))
    refused(saved, "format 'other'")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        we.load(tmp_path / "absent")


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_another_architecture_is_refused_by_its_first_difference(saved: Path):
    refused(
        saved, r"'fc.weight' is \(5, 32\) in the file and \(7, 32\) in the", SmallResNet(classes=7)
    )
    refused(
        saved,
        "made for another architecture: '0.weight' is absent in the file",
        nn.Sequential(
            nn.Conv2d(3, 8, 1),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 1),
            nn.Flatten(),
            nn.Linear(288, 2),
        ),
    )


def test_a_network_of_equal_shapes_that_computes_something_else_is_refused(saved: Path):
    class Other(SmallResNet):
        def forward(self, x):
            return super().forward(torch.sigmoid(x))

    strided = SmallResNet()
    strided.block2.conv2.dilation = strided.block2.conv2.padding = (2, 2)
    for model in (Other(), strided):
        refused(saved, "gives other answers than were saved with them", model)


def test_a_space_that_differs_is_refused(saved: Path):
    model = SmallResNet()
    model.block1.conv1.register_forward_hook(lambda *_: None)  # a hook keeps it from switching
    refused(saved, "switches 8 layers from|is absent in the|made for another architecture", model)


def test_masks_of_infinity_are_saved(tmp_path: Path):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
            self.register_buffer("mask", torch.tensor([float("-inf")] * 4 + [0.0] * 4))

        def forward(self, x):
            return self.b((self.a(x) + self.mask).softmax(-1))

    net = we.convert(Masked(), torch.zeros(1, 8))
    assert we.load(we.save(net, tmp_path / "net.safetensors"), Masked()).mask[0] == float("-inf")


def test_paths_that_cannot_serve_are_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*none to write net into"):
        we.save(trained(), tmp_path / "none" / "net")
    with pytest.raises(FileNotFoundError, match="is a folder, not a file"):
        we.load(tmp_path)
    path = tmp_path / "odd"
    path.write_bytes(save({"x": torch.ones(1)}, {"wenable": "[1]"}))
    refused(path, "no header")


def test_a_file_that_does_not_say_how_it_is_built_needs_the_model(saved: Path):
    with pytest.raises(ValueError, match="does not say how its SmallResNet is built; pass"):
        we.load(saved)


def test_nothing_outside_the_known_libraries_is_imported(tmp_path: Path):
    model = build("wenable.zoo:digits_resnet", width=16)
    for name in ("os:system", "tests.helpers.networks:small_resnet", "wenable.zoo:build"):
        object.__setattr__(model.wenable_source, "name", name)
        path = we.save(we.convert(model, torch.zeros(1, 1, 8, 8)), tmp_path / "net.safetensors")
        with pytest.raises(ValueError, match=r"wants to build|is no reference network"):
            we.load(path)


def test_nan_is_not_saved_and_the_old_file_stands(saved: Path):
    before, net = saved.read_bytes(), trained()
    net.fc.bias.data[0] = float("nan")
    with pytest.raises(
        ValueError, match=r"NaN or infinite values in 'fc.bias'; nothing was written"
    ):
        we.save(net, saved)
    assert saved.read_bytes() == before


def test_a_small_resnet_can_be_loaded_into_a_model_with_other_weights(saved: Path):
    assert we.load(saved, small_resnet()).is_calibrated("full")


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_weights_that_are_not_finite_are_refused_though_their_hash_is_right(
    saved: Path, value: float, monkeypatch: pytest.MonkeyPatch
):
    net = trained()
    net.block1.conv1.weight.data[0, 0] = value
    monkeypatch.setattr(
        "wenable.saving.network_file.torch.Tensor.isfinite",
        lambda each: torch.ones_like(each).bool(),
    )
    monkeypatch.setattr(
        "wenable.saving.network_file.torch.Tensor.isnan", lambda each: torch.zeros_like(each).bool()
    )
    path = we.save(net, saved)
    monkeypatch.undo()
    refused(path, "NaN or infinite weights in 'block1.conv1.weight'")


class Odd(nn.Module):
    """A network that answers something that is no finite number beside its scores."""

    def __init__(self, value: float, sign: int = 1) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)
        self.value, self.sign = value, sign

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.sign * self.last(self.first(x))
        return torch.cat([y, torch.full_like(y, self.value)], 1)


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_networks_with_answers_that_are_not_finite_are_loaded(tmp_path: Path, value: float):
    net = we.convert(Odd(value), torch.zeros(2, 8), method=we.WeightEnabling((1, 2)))
    path = we.save(net.eval(), tmp_path / "net.safetensors")
    loaded, x = we.load(path, Odd(value)), torch.randn(2, 8)
    assert torch.equal(loaded(x)[:, :4], net(x)[:, :4])
    with pytest.raises(ValueError, match="gives other answers"):  # the finite ones tell
        we.load(path, Odd(value, sign=-1))


def test_each_part_of_a_network_keeps_its_type(tmp_path: Path):
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.middle = nn.Linear(8, 16), nn.Linear(16, 16).double()
            self.last = nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.middle(self.first(x).double()).float())

    net = we.convert(Mixed(), torch.zeros(2, 8), method=we.WeightEnabling((1, 2))).eval()
    loaded, x = (
        we.load(we.save(net, tmp_path / "net.safetensors"), Mixed().half()),
        torch.randn(2, 8),
    )
    assert torch.equal(loaded(x), net(x))
    assert all(loaded.state_dict()[n].dtype == t.dtype for n, t in net.state_dict().items())


class Filtered(nn.Module):
    """Multiplies the spectrum of its features by complex weights, as Fourier networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 4)
        self.middle = nn.Linear(8, 8)
        self.spectrum = nn.Parameter(torch.randn(5, dtype=torch.complex64))
        self.register_buffer("scale", torch.ones(1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft(self.middle(self.first(x))) * self.spectrum
        return self.last(torch.fft.irfft(spectrum, 8) * self.scale)


def test_complex_parameters_stay_complex(tmp_path: Path):
    x = torch.randn(3, 8)
    net = we.convert(Filtered().eval(), x, method=we.WeightEnabling((1, 2)))
    loaded = we.load(we.save(net, tmp_path / "net.safetensors"), Filtered())
    assert torch.equal(loaded.spectrum, net.spectrum)
    for mode in ("full", "1/2"):
        with net.using(mode), loaded.using(mode), torch.no_grad():
            assert torch.equal(loaded(x), net(x))
