"""Layers that are called several times, norms of all kinds, and what `convert` warns of."""

import warnings

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

import wenable as we
from tests.helpers.references import masked_weight


class Shared(nn.Module):
    """One head over two scales, behind one switchable layer each; a layer called on other ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.fine, self.coarse = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 2, 2)
        self.head = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.mix = nn.Linear(8, 8)
        self.last = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        scales = [self.norm(self.head(each(x))) for each in (self.fine, self.coarse)]
        pooled = [self.mix(each.flatten(2).mT).mean(1) for each in scales]
        return self.last(self.mix(pooled[0] + pooled[1]))


IMAGES = (2, 3, 8, 8)


def test_a_head_over_several_scales_switches_and_counts_every_call():
    net = we.convert(
        Shared(), torch.zeros(IMAGES), method=we.WeightEnabling((1, 2, 4), shuffle="all")
    )
    layers = {layer.name: layer for layer in net.switchable_layers}
    assert layers["head"].macs == 8 * 8 * 9 * (64 + 16)
    assert layers["head"].shuffle is not None
    assert layers["head"].shuffle.groups == 4  # both calls ask for the same
    left = {each.name: each.reason for each in net.left_alone}
    assert left["mix"] == "is called 3 times in one pass, on inputs of 2 and 3 dimensions"
    assert (
        net.macs("full") - net.macs(net.space.full.replace({"head": 4}))
        == layers["head"].macs * 3 // 4
    )
    # Its norm follows it, since both of its calls read what the head wrote.
    assert [each.module for each in net._wenable.plan.followers["head"]] == ["head", "norm"]
    x, model = torch.randn(IMAGES), Shared().eval()
    net = we.convert(
        model, x, method=we.WeightEnabling((1, 2, 4), shuffle="all", only="head")
    ).eval()
    with torch.no_grad(), net.using({"head": 2}):
        found = net(x)
    model.head.weight.data = masked_weight(model.head.weight.data, 2, None)
    with torch.no_grad():
        torch.testing.assert_close(found, model(x))


def test_calls_that_would_be_shuffled_otherwise_are_not_shuffled():
    class Unlike(Shared):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.fine(self.head(x)))  # its first call reads the input

    method = we.WeightEnabling((1, 2), shuffle="all", classifier=True)
    net = we.convert(Unlike(), torch.zeros(2, 8, 4, 4), method=method)
    shuffles = {layer.name: layer.shuffle for layer in net.switchable_layers}
    assert shuffles["fine"] is not None
    assert shuffles["head"] is None


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([nn.Conv3d(4, 8, 3), nn.BatchNorm3d(8), nn.Conv3d(8, 8, 1)], (2, 4, 4, 5, 5)),
        ([nn.Conv2d(4, 8, 3), nn.SyncBatchNorm(8), nn.Conv2d(8, 8, 1)], (2, 4, 5, 5)),
        ([nn.Conv1d(4, 8, 3), nn.BatchNorm1d(8), nn.Conv1d(8, 8, 1)], (2, 4, 7)),
        (
            [nn.ConvTranspose2d(4, 8, 3), nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 8, 1)],
            (2, 4, 5, 5),
        ),
    ],
)
def test_norms_follow_layers_of_all_kinds(layers, shape, tmp_path):
    net = we.convert(
        nn.Sequential(*layers), torch.zeros(shape), method=we.WeightEnabling((1, 2, 4))
    )
    assert [each.module for each in net._wenable.plan.followers["0"]] == ["0", "1"]
    modes = ["full", "1/4"]
    we.calibrate(net, modes, [torch.randn(8, *shape[1:])])
    x = torch.randn(shape)
    net.eval()
    expected = []
    for mode in modes:
        plain = we.extract(net, mode).eval()
        assert type(plain[1]) is type(layers[1])
        with torch.no_grad(), net.using(mode):
            expected.append(net(x))
            torch.testing.assert_close(plain(x), expected[-1])
    assert not torch.allclose(*expected)
    we.save(net, tmp_path / "net.we")
    loaded = we.load(tmp_path / "net.we", nn.Sequential(*layers)).eval()
    with torch.no_grad(), loaded.using("1/4"):
        torch.testing.assert_close(loaded(x), expected[1])


def test_a_frozen_norm_is_told_of_and_calibrated_where_it_is_one_of_its_own(tmp_path):
    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), FrozenBatchNorm2d(8), nn.Conv2d(8, 8, 3), FrozenBatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 1),
        )  # fmt: skip

    model, x = build(), torch.randn(IMAGES)
    with pytest.warns(we.ConversionWarning, match=r"1 frozen batch norms .* keep their constants"):
        net = we.convert(model, x, method=we.WeightEnabling((1, 2)))
    assert type(net.get_submodule("1")) is FrozenBatchNorm2d  # it follows no switchable layer
    we.calibrate(net, ["full", "1/2"], [torch.randn(8, *IMAGES[1:])])
    net.eval()
    with torch.no_grad():
        assert torch.equal(net(x), model(x))
    for mode in ("full", "1/2"):
        with torch.no_grad(), net.using(mode):
            torch.testing.assert_close(we.extract(net, mode).eval()(x), net(x))
    statistics = net.get_submodule("3")
    with net.using("1/2"):
        assert not torch.allclose(statistics.present_statistics().mean, model[3].running_mean)
    path = we.export(
        net, ["full", "1/2"], tmp_path / "net.wen"
    )  # held against the extracted networks
    assert path.stat().st_size
    we.save(net, tmp_path / "net.we")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # whoever converted it was told
        loaded = we.load(tmp_path / "net.we", build).eval()
    with torch.no_grad(), net.using("1/2"), loaded.using("1/2"):
        torch.testing.assert_close(loaded(x), net(x))
    with pytest.raises(ValueError, match="cannot run narrower"):
        we.convert(build(), x, method=we.Slimmable((1.0, 0.5), divisor=1))


def test_a_network_of_which_little_switches_is_told_so_with_the_reason():
    class Depthwise(nn.Sequential):
        pass

    model = Depthwise(
        nn.Conv2d(8, 8, 7, padding=3, groups=8), nn.Conv2d(8, 8, 7, padding=3, groups=8),
        nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1),
    )  # fmt: skip
    words = (
        r"`model` \(=Depthwise\): only 7 % .* 86 % stay in '0' and 1 more, since: it is depthwise"
    )
    with pytest.warns(we.ConversionWarning, match=words):
        we.convert(model, torch.zeros(1, 8, 8, 8))
    dense = nn.Sequential(nn.Conv2d(8, 8, 7, padding=3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))
    for method in (we.WeightEnabling(only="1"), we.WeightEnabling(exclude="0")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what was left alone by choice is no surprise
            we.convert(dense, torch.zeros(1, 8, 8, 8), method=method)
    lstm = nn.LSTM(8, 32, batch_first=True)

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.lstm = nn.Conv1d(8, 8, 1), lstm

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.lstm(self.first(x).mT)[0]

    with pytest.warns(
        we.ConversionWarning, match=r"stay in 'lstm', since: it is an LSTM, not a plain"
    ):
        net = we.convert(Recurrent(), torch.zeros(1, 8, 6))
    left = {each.name: each for each in net.left_alone}
    assert left["lstm"].macs == 6 * 4 * 32 * (8 + 32)
    assert net.macs("full") == left["lstm"].macs + 6 * 8 * 8
