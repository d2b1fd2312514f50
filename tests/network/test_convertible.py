"""What cannot be converted is refused at once, in one line that says what to do instead."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

import wenable as we
from tests.helpers.networks import IMAGES, small_resnet

X = torch.randn(2, 8)


def dense() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def quantised() -> nn.Module:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(dense(), {nn.Linear}, dtype=torch.qint8)


def torchao_quantised() -> nn.Module:
    torchao = pytest.importorskip("torchao.quantization")
    model = dense()
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    return model


def in_peft() -> nn.Module:
    """A stand-in: what tells peft's classes is the package that they are from."""
    kind = type("PeftModel", (nn.Sequential,), {"__module__": "peft.peft_model"})
    return kind(*dense())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.DataParallel(dense()), "is wrapped in DataParallel; convert model.module"),
        (
            lambda: torch.compile(dense()),
            "`model` is compiled by torch.compile; convert the network",
        ),
        (
            lambda: nn.Sequential(torch.compile(dense()[0]), *dense()[1:]),
            "'0' of `model` is compiled by torch.compile",
        ),
        (in_peft, r"is a PeftModel of peft, .* convert model.merge_and_unload\(\)"),
        (quantised, r"'0' of `model` is a layer that torch has quantised \(Linear\)"),
        (torchao_quantised, "holds '0.weight' as a Int8Tensor, no plain tensor"),
        (lambda: torch.jit.ScriptModule(), "is a scripted module; convert the network"),
        (lambda: nn.Sequential(nn.LazyLinear(4)), "has a lazy layer, whose '0.weight' has no size"),
        (lambda: nn.Sequential(nn.Linear(8, 4, device="meta")), "lies on the meta device"),
        (lambda: we.convert(dense(), X), "is already dynamic"),
        (
            lambda: nn.Sequential(we.convert(dense(), X)),
            "'0' of `model` is a dynamic network itself",
        ),
        (lambda: torch.relu, "is a builtin_function_or_method; allowed: a torch.nn.Module"),
    ],
)
def test_wrapped_and_quantised_networks_are_refused(make, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        we.convert(make(), X)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_a_network_that_compiles_itself_converts():
    model = dense()
    model.compile(backend="eager")
    net = we.convert(model, X)
    assert torch.equal(net(X), dense()(X))


class Chooses(nn.Module):
    """What detectors do: a part that computes, and a part that decides by values."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.choice = dense(), nn.Linear(4, 4)

    def forward(self, x):
        x = self.backbone(x)
        return self.choice(x) if x.sum() > 0 else x


def test_an_untraceable_network_is_told_which_part_to_convert(capfd):
    model = Chooses()
    with pytest.raises(ValueError, match="`model` \\(=Chooses\\) cannot be traced") as caught:
        we.convert(model, X)
    assert "\n" not in str(caught.value)
    assert "model.backbone = wenable.convert(model.backbone, " in str(caught.value)
    assert capfd.readouterr() == ("", "")  # nothing of torch's is printed before
    expected = model(X)
    model.backbone = we.convert(model.backbone, X)
    assert torch.equal(model(X), expected)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ([X], r"`example_input` is a list; allowed: a tensor \(N, ...\), or a tuple"),
        ({"x": X}, "`example_input` names 'x'; the network's forward has places for input"),
        ((X, [X]), r"`example_input\[1\]` is a list"),
        ((X, {"mask": X}), r"`example_input\[1\]` is a dict"),
        (X.numpy(), "`example_input` is a ndarray"),
        ((), "must hold a tensor"),
        (None, r"`example_input` \(=None\) must hold a tensor"),
        (X[:0], "must hold at least one example"),
        (torch.randn(2, 9), r"\(=Sequential\) does not run on this `example_input`: mat1 and mat2"),
    ],
)
def test_examples_are_refused_by_name(example, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        we.convert(dense(), example)
    assert "\n" not in str(caught.value)


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = dense()

    def forward(self, x, mask=None, scale=1.0, kind="sum"):
        x = self.parts(x) * scale
        x = x if mask is None else x * mask
        return x if kind == "sum" else -x


@pytest.mark.parametrize("rest", [(None,), (None, 2.0), (None, 2, "negated"), (torch.ones(2, 4),)])
def test_inputs_that_are_no_tensors_are_kept_as_they_are(rest, tmp_path: Path):
    model = Masked()
    net = we.convert(model, (X, *rest), method=we.WeightEnabling(groups=(1, 2)))
    assert [type(each) for each in net.example_batch] == [torch.Tensor, *map(type, rest)]
    loaded = we.load(we.save(net, tmp_path / "net.safetensors"), Masked())
    for mode in ("full", "1/2"):
        net.set_mode(mode)
        loaded.set_mode(mode)
        assert torch.equal(loaded(X, *rest), net(X, *rest))
        plain = we.extract(net, mode)
        assert torch.allclose(plain(X, *rest), net(X, *rest), atol=1e-6)
    net.set_mode("full")
    assert torch.equal(net(X, *rest), model(X, *rest))


def test_a_dynamic_network_says_how_it_is_written(tmp_path: Path):
    net = we.convert(small_resnet(), torch.zeros(IMAGES))
    with pytest.raises(TypeError, match=r"cannot be pickled.*wenable.save\(net, path\)"):
        torch.save(net, tmp_path / "net.pt")
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(net)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps({"net": net})


def test_copies_are_networks_of_their_own_or_share_everything():
    net = we.convert(dense(), X, method=we.WeightEnabling(groups=(1, 2)))
    deep, shallow = copy.deepcopy(net), copy.copy(net)
    net.set_mode("1/2")
    assert (str(deep.mode), str(shallow.mode)) == ("1", "1/2")
    assert torch.equal(shallow(X), net(X))
    with torch.no_grad():
        net[0].weight.mul_(2)
    assert torch.equal(shallow(X), net(X))
    net.set_mode("full")
    assert torch.equal(deep(X), dense()(X))


def test_a_network_that_copies_itself_in_its_own_way_keeps_it():
    class Copying(nn.Sequential):
        def __deepcopy__(self, memo):
            copied = type(self).__new__(type(self))
            copied.__setstate__(
                {key: copy.deepcopy(each, memo) for key, each in vars(self).items()}
            )
            copied.__dict__["copied"] = True
            return copied

    net = we.convert(Copying(*dense()), X)
    assert copy.deepcopy(net).copied
    assert torch.equal(copy.deepcopy(net)(X), net(X))
