"""Image size as a knob: the layer, its costs, its refusals, and all that a mode goes through."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import wenable as we
from tests.helpers.networks import SmallResNet, Tokens, give_norms_a_past, small_resnet
from wenable.graph import run_counted
from wenable.layers.image_size import SmallerImages, SmallerImagesFirst
from wenable.methods import method_from_json
from wenable.network.image_sizes import maps_that_shrink
from wenable.training import sample_modes
from wenable.training.step import train_step

VECTORS = json.loads((Path(__file__).parents[1] / "helpers/resampling.json").read_text())
SHAPE = (2, 3, 12, 16)
LABELS = torch.arange(24) % 5


def images(count: int = 24, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, *SHAPE[1:], generator=torch.Generator().manual_seed(seed))


def smaller(x: torch.Tensor, size: int) -> torch.Tensor:
    """The images by torch's own function, which knows nothing of our matrices."""
    sides = (size, size * SHAPE[3] // SHAPE[2])
    return F.interpolate(x, sides, mode="bilinear", antialias=True, align_corners=False)


def converted(model: nn.Module | None = None, sizes=(12, 9, 6), x: torch.Tensor | None = None):
    model = small_resnet() if model is None else model
    return we.convert(model, images(2) if x is None else x, method=we.ImageSize(sizes))


# --- the layer ------------------------------------------------------------------------------------


def test_the_layer_gives_the_figures_that_are_written_down():
    image, expected = (torch.tensor(VECTORS[name])[None, None] for name in ("image", "smaller"))
    layer = SmallerImages((12, 8), (5, 6))
    torch.testing.assert_close(layer(image), expected, rtol=0, atol=1e-6)
    assert layer(expected) is expected
    with pytest.raises(ValueError, match=r"images of 11x8\) must be 12x8, .*, or 5x6, the present"):
        layer(image[:, :, 1:])


def test_autocast_does_not_make_images_coarser():
    layer, x = SmallerImages((12, 16), (6, 8)), images(1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), layer(x.clone()))
        assert layer(x).dtype == torch.float32


# --- modes ----------------------------------------------------------------------------------------


def test_the_full_mode_gives_the_bits_of_the_network():
    model = small_resnet()
    net, x = converted(model), images()
    assert torch.equal(net(x), model(x))
    assert set(dict(net.named_parameters())) == set(dict(model.named_parameters()))
    assert type(we.extract(net, "12")) is SmallResNet
    assert isinstance(net, SmallResNet)


@pytest.mark.parametrize("size", [9, 6])
def test_a_mode_is_the_network_on_smaller_images(size: int):
    model = small_resnet()
    net, x = converted(model), images()
    net.set_mode(str(size))
    with torch.no_grad():
        expected = model(smaller(x, size))
        torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-5)
        assert torch.equal(net(net.of_present_size((x,))[0]), net(x))


@pytest.mark.parametrize("size", [12, 9, 6])
def test_macs_are_those_counted_on_an_image_of_that_size(size: int):
    model = small_resnet()
    net, x = converted(model), images(1)
    assert net.macs(str(size)) == run_counted(model, (smaller(x, size),))[1]
    assert net.parameter_count(str(size)) == sum(p.numel() for p in model.parameters())


def test_statistics_belong_to_the_size():
    plain = small_resnet()
    net, x = converted(plain), images()
    we.calibrate(net, ["9", "6"], [x])
    assert net.is_calibrated("9")
    assert {str(mode) for mode in net.calibrated_modes} == {"12", "9", "6"}
    net.set_mode("6")
    norm = net.switchable_norms()["stem.1"]
    with torch.no_grad():
        seen = plain.stem[0](smaller(x, 6))  # pyright: ignore
    torch.testing.assert_close(
        norm.present_statistics().mean, seen.mean((0, 2, 3)), atol=1e-5, rtol=0
    )


def test_extracted_saved_and_copied_modes_compute_the_same(tmp_path: Path):
    net, x = converted(), images()
    we.calibrate(net, ["9", "6"], [x])
    loaded = we.load(we.save(net, tmp_path / "net.safetensors"), small_resnet())
    assert (loaded.conversion_method, loaded.space) == (net.conversion_method, net.space)
    for mode in ("12", "9", "6"):
        plain = we.extract(net, mode)
        assert isinstance(plain, SmallerImagesFirst) == (mode != "12")
        with torch.no_grad(), net.using(mode):
            expected = net(x)
            torch.testing.assert_close(plain(x), expected)
            for other in (loaded, copy.deepcopy(net)):
                with other.using(mode):
                    assert torch.equal(other(x), expected)
        assert we.evaluate(net, mode, [(x, LABELS)]).count == 24


def test_a_step_is_the_sandwich_written_by_hand():
    """The full size, the smallest and one that is drawn, each on images by torch's own function."""
    x = images()
    net = converted(give_norms_a_past(SmallResNet()), x=images(2))
    plain = small_resnet().train()
    plain.load_state_dict(net.state_dict())
    config = we.TrainConfig(passes=3, epochs=1, learning_rate=0.1, momentum=0.0, weight_decay=0.0)
    modes = sample_modes(net, config, 0, 1)
    assert [str(mode) for mode in modes[:2]] == ["12", "6"]
    drawn = {str(sample_modes(net, config, step, 50)[2]) for step in range(50)}
    assert drawn == {"12", "9", "6"}
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    train_step(net.train(), (x, LABELS), modes, nn.CrossEntropyLoss(), optimizer, config)
    for mode in modes:
        F.cross_entropy(plain(smaller(x, int(str(mode)))), LABELS).backward()
    for (name, parameter), by_hand in zip(net.named_parameters(), plain.parameters(), strict=True):
        assert by_hand.grad is not None
        torch.testing.assert_close(
            parameter, by_hand - 0.1 * by_hand.grad, atol=1e-5, rtol=1e-4, msg=name
        )


def test_images_of_other_sizes_are_refused():
    net = converted()
    for mode, words in (
        ("12", r"must be 12x16, .* converted for$"),
        ("6", "or 6x8, the present mode's"),
    ):
        net.set_mode(mode)
        with pytest.raises(ValueError, match=rf"images of 9x12\) .*{words}"):
            net(smaller(images(1), 9))


def test_images_by_name_are_made_smaller_too():
    net, x = converted(), images(2)
    net.set_mode("6")
    assert torch.equal(net(x=x), net(x))
    assert torch.equal(net(x=smaller(x, 6)), net(smaller(x, 6)))


# --- networks -------------------------------------------------------------------------------------


class Maps(nn.Module):
    """Gives back maps that shrink with the image, and one vector."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = self.conv(x)
        return {"maps": maps, "mean": maps.mean((2, 3))}


def test_maps_may_shrink_and_are_listed():
    net = converted(Maps().eval())
    assert maps_that_shrink(net) == ("maps",)
    assert maps_that_shrink(converted()) == ()
    net.set_mode("6")
    assert net(images(1))["maps"].shape == (1, 5, 3, 4)


class Positions(nn.Module):
    """One number for each position of a row, as it stands."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, torch.ones(1, 3, 1, 1)).flatten(1)


def flattening() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 10 * 14, 5))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (flattening(), r"does not run on images of 9x12, a size of `sizes`: .* made for 12x16: "),
        (Tokens(), r"does not run on images of 9x12"),
        (
            Positions(),
            r"'output' of `model` .* has shape \(2, 108\) on .*; allowed: one shape at every",
        ),
    ],
)
def test_networks_that_are_made_for_one_size_are_refused(model: nn.Module, message: str):
    x = images(2)
    if isinstance(model, Tokens):  # its positions are three by three
        x, sizes = torch.randn(2, 3, 6, 6), (6, 4)
        message = message.replace("9x12", "4x4")
    else:
        sizes = (12, 9, 6)
    with pytest.raises(ValueError, match=message):
        converted(model.eval(), sizes, x)


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(), (12,), (6, 12), (12, 12), (12, 0), (12, 6.5)])
def test_sizes_that_make_no_sense_are_refused(sizes):
    with pytest.raises(ValueError, match="must be two or more whole numbers above 0 that descend"):
        we.ImageSize(sizes)


def test_sizes_that_the_example_does_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"must start at the shorter side .* are 12x16: give"):
        converted(sizes=(16, 12))
    with pytest.raises(ValueError, match=r"holds 7, at which images of 12x16 .* 9.333 pixels"):
        converted(sizes=(12, 7))
    with pytest.raises(ValueError, match=r"`example_input` \(of shape \(2, 8\)\) must hold images"):
        converted(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)), x=torch.ones(2, 8))


def test_settings_survive_json():
    method = we.ImageSize((12, 9))
    assert method_from_json(json.loads(json.dumps(method.to_json()))) == method
    with pytest.raises(ValueError, match="is not 'image-size'"):
        we.ImageSize.from_json({"method": "width"})
    with pytest.raises(ValueError, match="not the JSON form"):
        we.ImageSize.from_json({"method": "image-size"})
