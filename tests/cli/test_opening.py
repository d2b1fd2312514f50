"""Networks as commands open them: by name, one's own, with weights, with the classes of the data."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import wenable as we
from tests.data.test_data import write_images
from wenable.cli.main import app
from wenable.cli.opening import Wanted, open_network
from wenable.cli.starting import image_settings, network_and_data
from wenable.data import ImageSettings, image_folder
from wenable.training.recipes import recipe_named
from wenable.zoo import build, load_weights, made_for, read_weights

OWN = """
from torch import nn

def net(num_classes=7):
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes),
    )

def for_images(num_classes=7):
    made = net(num_classes)
    made.input_size = (3, 20, 20)
    return made

def stubborn():
    return net(4)
"""


def run(*arguments: object, fails: bool = False):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(each) for each in arguments])
    assert (result.exit_code != 0) == fails, (result.output, result.stderr, result.exception)
    return result


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's own: a module, and images of two classes, 12x12."""
    (tmp_path / "my_networks.py").write_text(OWN)
    write_images(tmp_path / "data", {"train": 6, "test": 2})
    for path in tmp_path.glob("data/*/dog/*"):  # dogs are bright, so that they can be learnt
        Image.new("RGB", (12, 12), "white").save(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")  # as in a console, so that nothing is left behind
    return tmp_path


def train(*arguments: object, data: str = "data", fails: bool = False):
    common = ("--epochs", 1, "--batch-size", 4, "--passes", 2, "--groups", "1,2", "--workers", 0)
    return run("train", *arguments, "--data", data, "--out", "out", *common, fails=fails)


def test_a_network_of_ones_own_goes_the_whole_way(here: Path):
    shown = words(train("--model", "my_networks:net").stderr)
    assert "my_networks:net: 2 classes (those of data), images of 12x12 pixels" in shown
    assert "(the size of the images)" in shown
    own = ("--model", "my_networks:net")
    refused = run("export", "out/net.safetensors", "--out", "net.wen", fails=True)
    assert "if you trust it, hand the function" in words(refused.stderr)
    assert "(on the command line: --model my_networks:net)" in words(refused.stderr)
    run("export", "out/net.safetensors", "--out", "net.wen", *own, "--modes", "full")
    assert Path("net.wen").exists()
    found = json.loads(run("inspect", "out/net.safetensors", *own, "--json").stdout)
    assert [mode["mode"] for mode in found["uniform_modes"]] == ["1", "1/2"]
    # 3x3 kernels on 12x12 pixels: 3 to 16 and 16 to 16 channels; then 16 to 2.
    assert found["macs_full"] == 144 * 9 * (3 * 16 + 16 * 16) + 16 * 2
    run(
        "explore", "out/net.safetensors", *own, "--data", "data", "--min-accuracy", 0.01, "--out", "front"
    )  # fmt: skip
    assert "front.json" in [path.name for path in Path("front").iterdir()]
    run("export", "front/net.safetensors", "--out", "again.wen", *own, "--modes", "full")


def test_a_saved_network_is_opened_by_the_function_that_builds_it(here: Path):
    import my_networks

    model = build("my_networks:net", num_classes=3)
    net = we.convert(model, torch.zeros(1, 3, 8, 8), method=we.WeightEnabling((1, 2)))
    path = we.save(net, "net.safetensors")
    x = torch.randn(2, 3, 8, 8)
    loaded = we.load(path, my_networks.net)
    assert loaded(x).shape == (2, 3)
    torch.testing.assert_close(loaded(x), net.eval()(x))
    with pytest.raises(ValueError, match=r"`model` cannot be called with \{'num_classes': 3\}"):
        we.load(path, my_networks.stubborn)
    with pytest.raises(ValueError, match="`model` must be a network or return one, and returned a"):
        we.load(path, lambda num_classes: num_classes)
    with pytest.raises(ValueError, match="made for another architecture"):
        we.load(path, lambda num_classes: my_networks.net(5))


def test_a_model_is_named_once(here: Path):
    for arguments in (("inspect",), ("inspect", "resnet18", "--model", "resnet18")):
        assert "a network must be named once: as MODEL, or by --model" in words(
            run(*arguments, fails=True).stderr
        )


def test_networks_know_their_input(here: Path):
    for name, size in {
        "wenable.zoo:cifar_resnet20": (3, 32, 32), "wenable.zoo:digits_resnet": (1, 8, 8),
        "my_networks:for_images": (3, 20, 20), "timm:mobilenetv3_small_050": (3, 224, 224),
        "timm:resnet10t": (3, 176, 176), "torchvision:efficientnet_b1": (3, 240, 240),
        "torchvision:mobilenet_v2": (3, 224, 224),
    }.items():  # fmt: skip
        told = made_for(build(name))
        assert told is not None
        assert told.input_size == size, name
    assert made_for(build("my_networks:net")) is None
    assert made_for(nn.LSTM(4, 8)) is None  # whose input_size is a number of features
    small = made_for(build("timm:mobilenetv3_small_050"))
    assert (small.mean, small.interpolation, small.crop_pct) == (
        (0.485, 0.456, 0.406), "bicubic", 0.875,
    )  # fmt: skip
    large = made_for(build("torchvision:efficientnet_b1"))  # resized to 255, as its page says
    assert (large.crop_pct, large.interpolation) == (240 / 255, "bilinear")
    # The 40.6 million of He et al.'s table, with the shortcuts without weights.
    found = json.loads(run("inspect", "wenable.zoo:cifar_resnet20", "--json").stdout)
    assert 40.5e6 < found["macs_full"] < 40.9e6


@pytest.mark.parametrize(
    ("name", "asked", "size", "why"),
    [
        ("my_networks:net", None, 12, "the size of the images"),
        ("my_networks:for_images", None, 20, "what the network was made for"),
        ("my_networks:for_images", 16, 16, "as asked for"),
        ("torchvision:squeezenet1_1", None, 224, "what the network was made for"),
        ("timm:vit_tiny_patch16_224", 32, 32, "as asked for"),
    ],
)
def test_images_have_the_size_that_the_network_was_made_for(here: Path, name, asked, size, why):
    start = network_and_data(
        name, "data", recipe_named("cifar"), Wanted(image_size=asked), recipe_named=False
    )
    assert start.data.example.shape == (1, 3, size, size)
    assert start.data.preprocessing.size == size
    assert (
        f"{name}: 2 classes (those of data), images of {size}x{size} pixels ({why})" in start.lines
    )
    assert start.model.eval()(start.data.example).shape == (1, 2)


def test_images_are_prepared_as_the_network_was_made_for(here: Path):
    opened = open_network("timm:vit_tiny_patch16_224", Wanted(classes=2))
    splits = image_folder("data")
    settings, _ = image_settings(opened, splits, None, None)
    assert (settings.size, settings.mean, settings.std) == (224, (0.5,) * 3, (0.5,) * 3)
    assert (settings.interpolation, settings.crop_pct, settings.crops) == (
        "bicubic", 0.9, "resized",
    )  # fmt: skip
    recipe = ImageSettings(64)
    assert image_settings(opened, splits, None, recipe) == (recipe, "of the recipe")
    assert image_settings(opened, splits, 48, recipe)[0].size == 48


def test_the_reference_network_is_trained_as_by_its_recipe(here: Path):
    recipe = recipe_named("cifar")
    start = network_and_data(
        "wenable.zoo:cifar_resnet20", "data", recipe, Wanted(), recipe_named=False
    )
    assert start.recipe == recipe


def test_what_does_not_fit_is_refused_before_anything_is_built(here: Path):
    Image.fromarray(np.zeros((9, 5, 3), np.uint8)).save("data/train/cat/odd.png")
    for arguments, message in (
        (("my_networks:net",), "the images differ in size: name one by --image-size, or give"),
        (
            ("wenable.zoo:digits_resnet",),
            "reads inputs of shape (1, 8, 8); images of a folder have 3",
        ),
        (
            ("resnet18", "--num-classes", 1),
            "`--num-classes` (=1) must be at least the 2 classes of da",
        ),
        (("resnet18", "--image-size", 0), "`--image-size` (=0) must be at least 1"),
        (("resnet18", "--pretrained", "--weights", "x.pth"), "were both given; name one of them"),
        (("resnet18", "--leave-out", "fc.*"), "`--leave-out` needs `--weights`"),
        (
            ("my_networks:net", "--pretrained"),
            "my_networks:net has no argument called pretrained or weights; name a file",
        ),
        (("timm:resnet18", "--weights", "no.pth"), "no.pth does not exist"),
    ):
        assert message in words(train(*arguments, fails=True).stderr)
        assert not Path("out").exists()
    refused = train("wenable.zoo:digits_resnet", "--image-size", 8, data="digits", fails=True)
    assert "`--image-size` (=8) is for folders of images" in words(refused.stderr)


def test_a_network_that_takes_no_classes_says_so(here: Path):
    opened = open_network("my_networks:stubborn", Wanted(classes=3))
    assert opened.notes == ["my_networks:stubborn takes no `num_classes`: it keeps the outputs that it"
                            " has"]  # fmt: skip


# --- weights ----------------------------------------------------------------------------------------


@pytest.fixture
def files(here: Path) -> Path:
    """Weights of one network in every form that people keep them in."""
    torch.manual_seed(3)
    model = build("my_networks:net", num_classes=5)
    state = dict(model.state_dict())
    save_file(state, "plain.safetensors")
    torch.save(state, "plain.pth")
    torch.save({"epoch": 3, "model": state, "optimizer": {"lr": 0.1}}, "checkpoint.pth")
    torch.save({"state_dict": {f"module.{name}": each for name, each in state.items()}}, "ddp.tar")
    torch.save({f"_orig_mod.{name}": each for name, each in state.items()}, "compiled.bin")
    torch.save(model, "whole.pth")
    net = we.convert(model, torch.zeros(1, 3, 8, 8), method=we.WeightEnabling((1, 2)))
    we.save(net, "saved.safetensors")
    Path("text.pth").write_text("no weights")
    torch.save([1, 2], "list.pth")
    torch.save({"epoch": 3}, "empty.pth")
    return here


@pytest.mark.parametrize(
    "name",
    ["plain.safetensors", "plain.pth", "checkpoint.pth", "ddp.tar", "compiled.bin", "saved.safetensors"],
)  # fmt: skip
def test_weights_are_taken_from_every_usual_file(files: Path, name: str):
    wanted = Wanted(classes=5, weights=Path(name))
    opened = open_network("my_networks:net", wanted)
    assert opened.notes == [f"weights: {name}"]
    expected = read_weights("plain.pth")
    for key, tensor in opened.model.state_dict().items():
        assert torch.equal(tensor, expected[key]), key


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "whole.pth",
            "holds more than weights, or is none of PyTorch's files; nothing else is read",
        ),
        ("text.pth", "holds more than weights, or is none of PyTorch's files"),
        ("list.pth", "holds a list, not a state dict"),
        ("empty.pth", "holds no state dict: it holds epoch"),
        ("my_networks.py", "none of PyTorch's files"),
        ("data", "is a folder, not a file"),
    ],
)
def test_files_that_hold_no_weights_are_refused(files: Path, name: str, message: str):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_weights(name)


def test_a_damaged_file_of_weights_is_refused(files: Path):
    for name in ("plain.safetensors", "plain.pth"):
        Path(name).write_bytes(Path(name).read_bytes()[:300])
        with pytest.raises(ValueError, match=f"{name} is (damaged|no file of weights)"):
            read_weights(name)


def test_the_tensors_that_differ_are_named_and_a_head_can_be_left_out(files: Path):
    refused = words(train("my_networks:net", "--weights", "plain.pth", fails=True).stderr)
    assert (
        "`--weights` (=plain.pth) does not fit the network: of the tensors 2 of another shape"
        in refused
    )
    assert "(8.weight (5, 16) for (2, 16), 8.bias (5,) for (2,))" in refused
    assert "to start them anew, leave out '8.*'" in refused
    shown = words(train("my_networks:net", "--weights", "plain.pth", "--leave-out", "8.*").stderr)
    assert "weights: plain.pth; started anew: 8.weight, 8.bias" in shown
    model = build("my_networks:net", num_classes=5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = read_weights("plain.pth")
    tensors["extra.weight"] = tensors.pop("0.weight")
    with pytest.raises(
        ValueError, match=r"1 missing \(0\.weight\), 1 unexpected \(extra\.weight\)$"
    ):
        load_weights(model, tensors)
    with pytest.raises(ValueError, match=r"`leave_out` \(='fc\.\*'\) fits no tensor"):
        load_weights(model, tensors, leave_out=("fc.*",))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_older_files_without_the_counts_of_norms_fit(files: Path):
    tensors = {n: t for n, t in read_weights("plain.pth").items() if "num_batches" not in n}
    save_file(tensors, "old.safetensors")
    opened = open_network("my_networks:net", Wanted(classes=5, weights=Path("old.safetensors")))
    assert opened.notes == ["weights: old.safetensors"]


def test_pretrained_weights_of_torchvision_keep_all_but_the_head(monkeypatch: pytest.MonkeyPatch):
    from torchvision.models import MobileNet_V3_Small_Weights

    given = build("mobilenet_v3_small").state_dict()
    monkeypatch.setattr(MobileNet_V3_Small_Weights, "get_state_dict", lambda *_, **__: given)
    opened = open_network("mobilenet_v3_small", Wanted(pretrained=True, classes=3))
    assert opened.notes == [
        "weights: the pretrained ones; started anew: classifier.3.weight, classifier.3.bias"
    ]
    found = opened.model.state_dict()
    assert found["classifier.3.weight"].shape == (3, 1024)
    head = ("classifier.3.weight", "classifier.3.bias")
    assert all(torch.equal(found[name], given[name]) for name in given if name not in head)
    whole = open_network("mobilenet_v3_small", Wanted(pretrained=True))
    assert whole.notes == ["weights: the pretrained ones"]


def test_pretrained_weights_that_cannot_be_had_are_one_line(monkeypatch: pytest.MonkeyPatch):
    from torchvision.models import MobileNet_V3_Small_Weights

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host\nat all")

    monkeypatch.setattr(MobileNet_V3_Small_Weights, "get_state_dict", unreachable)
    with pytest.raises(ValueError, match="of torchvision:mobilenet_v3_small could not be had: no route to"
                       " host; fetch them elsewhere"):  # fmt: skip
        open_network("mobilenet_v3_small", Wanted(pretrained=True))
    with pytest.raises(ValueError, match="timm has no weights for coatnet_0_224"):
        open_network("timm:coatnet_0_224", Wanted(pretrained=True))


def test_pretrained_weights_of_ones_own_function(here: Path):
    Path("pretrained_net.py").write_text(
        "import torch\nfrom my_networks import net\n"
        "def tuned(pretrained=False, num_classes=4):\n"
        "    made = net(num_classes)\n"
        "    if pretrained:\n"
        "        torch.nn.init.constant_(made[0].weight, 0.5)\n"
        "    return made\n"
    )
    opened = open_network("pretrained_net:tuned", Wanted(pretrained=True, classes=3))
    assert bool((opened.model[0].weight == 0.5).all())
    assert opened.model[8].out_features == 3
