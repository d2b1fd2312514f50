"""What cannot run narrower: refused by name and with the reason, before anything is changed."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import wenable as we
from tests.helpers.networks import IMAGES, SmallResNet, Tokens

WIDTHS = (1.0, 0.75, 0.5, 0.25)


def converted(model: nn.Module, method: we.Slimmable | None = None) -> we.DynamicNetwork:
    method = we.Slimmable(WIDTHS, divisor=2) if method is None else method
    return we.convert(model, torch.zeros(IMAGES), method=method)


def _net(forward, **modules: nn.Module) -> nn.Module:
    """A stem of 16 channels, then `forward`, then a classifier of 16."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 1)
            for name, module in modules.items():
                self.add_module(name, module)
            self.head = nn.Linear(16, 5)
            self.scale = nn.Parameter(torch.ones(16, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(forward(self, self.stem(x)).mean((2, 3)))

    return Network()


class Shuffle(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(1, (2, 8)).transpose(1, 2).flatten(1, 2)


class Padded(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(self.inner(x), (0, 0, 0, 0, 4, 4))


def _square(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, 16)  # as many rows and columns as channels


def _hooked(model: nn.Module) -> nn.Module:
    model.get_submodule("a").register_forward_hook(lambda *_: None)
    return model


REFUSED = {
    "channels beside rows": (
        _net(lambda m, x: m.a(torch.cat([_square(x), _square(x).transpose(1, 3)], 1)),
             a=nn.Conv2d(32, 16, 1)),
        "concatenates channels of one tensor with rows of another",
    ),
    "a sum of unlike parts": (
        _net(lambda m, x: m.c(torch.cat([x, m.a(x)], 1) + m.b(x)), a=nn.Conv2d(16, 16, 1),
             b=nn.Conv2d(16, 32, 1), c=nn.Conv2d(32, 16, 1)),
        "'add' joins 32, 24, 16, 8 channels with 32, 24, 16, 8 channels of other parts",
    ),
    "groups across parts": (
        _net(lambda m, x: m.a(torch.cat([x, x], 1)), a=nn.Conv2d(32, 16, 1, groups=2)),
        "'a' cannot run narrower: its 2 groups read 16 channels each, and 12 of 32 channels are no",
    ),
    "padding behind a concatenation": (
        _net(lambda m, x: m.a(torch.cat([x, x], 1))[:, :16], a=Padded(nn.Identity())),
        "'a' cannot run narrower: it pads channels by number, behind a concatenation",
    ),
    "layer norm": (Tokens(), "'norm' cannot run narrower: its layer norm is over a fixed number"),
    "group norm": (
        _net(lambda m, x: m.a(x), a=nn.GroupNorm(4, 16)), "'a' .*its group norm is over a fixed"
    ),
    "instance norm": (
        _net(lambda m, x: m.a(x), a=nn.InstanceNorm2d(16, affine=True)), "'a' .*weights for each"
    ),
    "statistics of each batch": (
        _net(lambda m, x: m.a(x), a=nn.BatchNorm2d(16, track_running_stats=False)),
        r"'a' cannot run narrower: it has no running statistics \(`track_running_stats=False`\)",
    ),
    "shuffle": (_net(lambda m, x: m.a(x), a=Shuffle()), "'a' cannot.*splits or mixes its channels"),
    "split": (_net(lambda m, x: x.chunk(2, 1)[0].repeat(1, 2, 1, 1)), "'chunk' splits its chan"),
    "unbound": (_net(lambda m, x: torch.stack(x.unbind(2), 2)), "'unbind' is not known to fit"),
    "by number": (_net(lambda m, x: x[:, 1:2] + x * 0), "takes part of its channels by number"),
    "one by number": (_net(lambda m, x: x * x[:, 3].unsqueeze(1)), "takes one of its"),
    "moved": (_net(lambda m, x: x.flip(1)), "'flip' moves its channels"),
    "groups": (
        _net(lambda m, x: m.a(x), a=nn.Conv2d(16, 16, 1, groups=2)),
        "'a' cannot run narrower: its 2 groups read 8 channels each, and 12 of 16 channels are no",
    ),
    "sizes that do not agree": (
        _net(lambda m, x: x + m.a(x).pixel_shuffle(1), a=nn.Conv2d(16, 16, 1)), "pixel_shuffle"
    ),
    "prelu": (_net(lambda m, x: m.a(x), a=nn.PReLU(16)), "'a' .*has a weight for each channel"),
    "parameter": (_net(lambda m, x: x * m.scale), "joins 16, 12, 8, 4 channels with the parameter"
                  " 'scale' that keeps 16"),
    "fixed tensor": (_net(lambda m, x: x + torch.ones(16, 1, 1)), "joins .* that keeps 16 in every"),
    "a subclass of a transposed one": (
        _net(lambda m, x: m.a(x), a=type("MyUp", (nn.ConvTranspose2d,), {})(16, 16, 1)),
        "'a' cannot run narrower: it is a MyUp, not a plain",
    ),
    "a subclass": (
        _net(lambda m, x: m.a(x), a=type("MyConv", (nn.Conv2d,), {})(16, 16, 1)),
        "'a' cannot run narrower: it is a MyConv, not a plain",
    ),
    "hooks": (
        _hooked(_net(lambda m, x: m.a(x), a=nn.Conv2d(16, 16, 1))), "'a' .*hooks, which would be"
    ),
    "along rows": (
        _net(lambda m, x: m.a(x.transpose(1, 3)).transpose(1, 3), a=nn.Conv2d(6, 6, 1)),
        "'a' .*the dimension that it multiplies along is not that of the channels",
    ),
    "pooled channels": (
        _net(lambda m, x: F.max_pool2d(x.transpose(1, 3), 1).transpose(1, 3)), "along the channels"
    ),
    "norm along rows": (
        _net(lambda m, x: m.a(x.transpose(1, 3)).transpose(1, 3), a=nn.BatchNorm2d(6)),
        "'a' .*normalises along another dimension",
    ),
    "padding that goes on": (
        _net(lambda m, x: F.pad(x, (0, 0, 0, 0, 4, 4)).mean(1, keepdim=True) + x),
        "network's own forward .*it pads channels by number, and more follows",
    ),
    "padding beside weights": (
        _net(lambda m, x: m.b(m.a(x)), a=nn.Conv2d(16, 8, 1), b=Padded(nn.Conv2d(8, 8, 1))),
        "'b' cannot run narrower: it pads channels by number, beside weights of its own",
    ),
    "computed bias": (
        _net(lambda m, x: x * F.conv2d(torch.ones(1, 3, 1, 1), m.a.weight, x.mean((0, 2, 3))),
             a=nn.Conv2d(3, 16, 1)), "weights are computed from channels that become fewer"
    ),
    "twice": (
        _net(lambda m, x: m.b(m.a(m.a(x)).mean((2, 3), keepdim=True) + 0 * x[:, :1]),
             a=nn.Conv2d(16, 16, 1), b=nn.Conv2d(16, 16, 1)), "by number"
    ),
    "attention": (
        _net(lambda m, x: (x.flatten(2) @ x.flatten(2).transpose(1, 2))[..., None] + 0 * x[:, :, :1]),
        "'matmul' is not known to fit fewer channels",
    ),
    "only the classifier": (nn.Sequential(nn.Flatten(), nn.Linear(108, 5)), "nothing to switch"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_fewer_channels_is_refused_by_name(name: str):
    model, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        converted(model, method=we.Slimmable(WIDTHS, divisor=4))


def test_an_only_channel_that_would_be_dropped_is_refused():
    def gated(drop):
        return _net(
            lambda m, x: x * drop(m.a(x.mean((2, 3), keepdim=True))), a=nn.Conv2d(16, 16, 1)
        )

    model = gated(lambda scale: scale.squeeze()[..., None, None])
    with pytest.raises(
        ValueError, match=r"forward cannot .* drops every dimension of size 1, and at"
    ):
        converted(model, method=we.Slimmable((1.0, 1 / 16), divisor=1))
    converted(model, method=we.Slimmable((1.0, 1 / 8), divisor=1))
    by_name = gated(lambda scale: scale.squeeze(-1).squeeze(-1)[..., None, None])
    converted(by_name, method=we.Slimmable((1.0, 1 / 16), divisor=1))


def test_a_module_that_pads_what_is_narrower_and_what_is_not_is_refused():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pad = nn.ConstantPad3d((0, 0, 0, 0, 4, 4), 0.5)
            self.stem, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(24, 5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            image = self.pad(x).mean(1, keepdim=True)
            return (self.head(self.pad(self.stem(x))) + image).mean((2, 3))

    with pytest.raises(
        ValueError, match=r"'pad' cannot run narrower: its module pads .* in several"
    ):
        converted(Both(), method=we.Slimmable(WIDTHS, divisor=4))


def test_shared_weights_are_refused():
    model = _net(lambda m, x: m.b(m.a(x)), a=nn.Conv2d(16, 16, 1), b=nn.Conv2d(16, 16, 1))
    model.get_submodule("b").weight = model.get_submodule("a").weight
    with pytest.raises(ValueError, match="'a' cannot run narrower: it shares its weight with"):
        converted(model)


def test_a_number_of_channels_in_the_code_is_found_before_the_network_is_handed_back():
    class Fixed(SmallResNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.block2(self.block1(torch.relu(self.stem(x)))).mean((2, 3))
            return self.fc(x.view(-1, 32))

    with pytest.raises(ValueError, match="does not run in its smallest mode: 'fc' reads 16 chan"):
        we.convert(Fixed(), torch.zeros(2, 3, 6, 6), method=we.Slimmable((1.0, 0.5)))
    with pytest.raises(ValueError, match="does not run in its smallest mode: shape"):
        we.convert(Fixed(), torch.zeros(1, 3, 6, 6), method=we.Slimmable((1.0, 0.5)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: we.Slimmable((0.5, 1.0)), "must start at 1.0"),
        (lambda: we.Slimmable((1.0, 0.5, 0.5)), "descend, each once"),
        (lambda: we.Slimmable((1.0, 0.0)), "above 0"),
        (lambda: we.Slimmable(()), "must start at 1.0"),
        (lambda: we.Slimmable(divisor=0), "`divisor` \\(=0\\) must be a whole number above 0"),
        (
            lambda: we.UniversallySlimmable(lowest=0),
            "`lowest` \\(=0\\) must be above 0 and below 1",
        ),
        (lambda: we.UniversallySlimmable(step=0), "`step` \\(=0\\) must be at least 0.001"),
        (lambda: we.UniversallySlimmable(step=1e-9), "`step` \\(=1e-09\\) must be at least"),
        (lambda: we.UniversallySlimmable(step="0.1"), "`step` \\(='0.1'\\) must be a number"),
        (lambda: we.UniversallySlimmable(None), "`lowest` \\(=None\\) must be a number"),
        (lambda: we.Slimmable(0.5), "`widths` \\(=0.5\\) must be a sequence of numbers"),
        (lambda: we.Slimmable((1.0, None)), "`widths` .* must be a sequence of numbers"),
        (lambda: we.Slimmable("1.0"), "`widths` \\(='1.0'\\) must be a sequence of numbers"),
        (lambda: we.UniversallySlimmable(0.5, 0.6), "at most 1 - `lowest` \\(=0.5\\)"),
        (lambda: we.UniversallySlimmable(divisor=2.0), "`divisor` \\(=2.0\\)"),
        (lambda: we.Slimmable.from_json({"method": "width"}), "is not 'slimmable'"),
        (lambda: we.Slimmable.from_json({"method": "slimmable"}), "not the JSON form"),
        (lambda: we.UniversallySlimmable.from_json({}), "is not 'universally-slimmable'"),
        (
            lambda: we.UniversallySlimmable.from_json({"method": "universally-slimmable"}),
            "not the JSON form",
        ),
    ],
)
def test_bad_settings_are_refused(build, message: str):
    with pytest.raises(ValueError, match=message):
        build()


class OwnConv(nn.Conv1d):
    """A convolution that may do more than torch's."""


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (
            nn.Sequential(
                OwnConv(4, 16, 3), nn.ReLU(), OwnConv(16, 16, 3), nn.ReLU(), OwnConv(16, 4, 3)
            ),
            (2, 4, 12),
            "'0' keeps its channels, since it is a OwnConv, not a plain torch.nn.Conv1d to Conv3d,"
            r" ConvTranspose1d to ConvTranspose3d or Linear \(and 2 layers more",
        ),
        (
            nn.Sequential(nn.Linear(8, 4)),
            (2, 8),
            "only read the network's input or write its output",
        ),
        (
            nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)),
            (2, 4),
            r"rounded to multiples of `divisor` \(=8\), all its layers keep .* a smaller `divisor`",
        ),
        (nn.Sequential(nn.ReLU(), nn.LayerNorm(4)), (2, 4), "no convolution and no dense layer"),
    ],
)
def test_why_nothing_can_be_narrower_is_told_truly(model: nn.Module, shape, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        we.convert(model, torch.zeros(shape), method=we.Slimmable())
    assert "\n" not in str(caught.value)


class WithAuxiliary(nn.Module):
    """A classifier beside the network that runs in training alone, as in GoogLeNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last, self.head = (
            nn.Conv2d(3, 16, 1),
            nn.Conv2d(16, 16, 1),
            nn.Linear(16, 5),
        )
        self.beside = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = torch.relu(self.stem(x))
        answer = self.head(torch.relu(self.last(features)).mean((2, 3)))
        if not self.training:
            return (answer,)
        return answer, self.beside(features.mean((2, 3)))


class Narrowing(nn.Sequential):
    """Images of 8 pixels come out as one place, images of 16 as four."""

    def __init__(self) -> None:
        layers = [nn.Conv2d(3, 16, 3, 4, 1), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, 2, 1)]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)]
        super().__init__(*layers, nn.BatchNorm2d(16), *head)


@pytest.mark.parametrize("first", [we.WeightEnabling((1, 2, 4)), we.Slimmable((1.0, 0.5))])
def test_one_example_is_enough_though_norms_in_training_want_two(first):
    method = [first, we.ImageSize((16, 8))]
    net = we.convert(Narrowing(), torch.zeros(1, 3, 16, 16), method=method)
    with net.using(net.space.smallest):
        assert net.train()(torch.randn(2, 3, 16, 16)).shape[0] == 2


def test_what_runs_in_training_alone_is_found_before_the_network_is_handed_back():
    refused = r"smallest mode in training: .*; 'beside' does not run in"
    with pytest.raises(ValueError, match=refused):
        converted(WithAuxiliary(), method=we.Slimmable(WIDTHS, divisor=4))
    model = WithAuxiliary()
    model.last = nn.Sequential(nn.Conv2d(16, 16, 1), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(16))
    with pytest.raises(ValueError, match=refused):  # with one example its full mode would not run
        we.convert(model, torch.zeros(1, *IMAGES[1:]), method=we.Slimmable(WIDTHS, divisor=4))
    grouped = we.convert(WithAuxiliary(), torch.zeros(IMAGES), method=we.WeightEnabling((1, 2)))
    assert len(grouped.train()(torch.zeros(IMAGES))) == 2
