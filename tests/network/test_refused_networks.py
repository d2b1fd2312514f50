"""What cannot be converted, or would compute something else, is refused in one line."""

import pytest
import torch
from torch import nn

import wenable as we
from tests.helpers.networks import (
    IMAGES,
    converted,
    dense_network,
    small_resnet,
)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x) if x.sum() > 0 else x


def test_what_cannot_be_converted_is_refused_in_one_line():
    x = torch.zeros(2, 4)
    poisoned = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    poisoned[1].weight.data[0, 0] = float("nan")
    cases = [
        (Branching(), x, "`model` \\(=Branching\\) cannot be traced"),
        (poisoned, x, "NaN or infinite weights in '1.weight'"),
        (torch.jit.ScriptModule(), x, "scripted module"),
        (nn.Sequential(nn.Linear(4, 2)), x, "nothing to switch: '0' is the classifier"),
        (nn.Linear(4, 4), (), "`example_input` .* must hold a tensor"),
    ]
    for model, example, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            we.convert(model, example)
        assert "\n" not in str(caught.value)


def test_a_dynamic_network_is_not_converted_again():
    with pytest.raises(ValueError, match="already dynamic"):
        we.convert(converted(), torch.zeros(IMAGES))


def test_examples_that_do_not_fit_are_refused_in_one_line():
    for example, message in (
        (
            torch.zeros(2, 4, 6, 6),
            "`model` \\(=SmallResNet\\) does not run on this `example_input`",
        ),
        (torch.zeros(0, 3, 6, 6), "must hold at least one example"),
        (torch.tensor(1.0), "must hold at least one example"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            we.convert(small_resnet(), example)
        assert "\n" not in str(caught.value)


def test_a_clash_of_names_is_refused():
    model = small_resnet()
    model.space = "mine"
    with pytest.raises(ValueError, match="already has an attribute 'space'"):
        we.convert(model, torch.zeros(IMAGES))


def test_inputs_of_the_wrong_shape_are_refused_by_name():
    net = converted()
    for shape, message in (
        ((3, 6, 6), r"`input` \(of shape \(3, 6, 6\)\) must have 4 dimensions; the network"),
        ((2, 4, 6, 6), r"`input` \(of shape \(2, 4, 6, 6\)\) does not fit this network, which was"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            net(torch.zeros(shape))
        assert "\n" not in str(caught.value)
    with pytest.raises(
        ValueError, match=r"`input` \(of int64\) does not fit .* for float32: "
    ) as caught:
        net(torch.zeros(2, 3, 6, 6, dtype=torch.long))
    assert "\n" not in str(caught.value)
    assert net(torch.zeros(7, 3, 8, 8)).shape == (7, 5)
    flat = we.convert(dense_network(), torch.zeros(4, 3, 4, 4)).eval()
    with pytest.raises(ValueError, match=r"\(2, 3, 5, 5\)\) does not fit this network"):
        flat(torch.zeros(2, 3, 5, 5))


class Hidden(nn.Module):
    """Keeps its layer in a plain list besides its name, and runs the one in the list."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 1)
        self.out = nn.Conv2d(8, 2, 1)
        self.layers_in_use = [self.conv]

    def forward(self, x):
        return self.out(self.layers_in_use[0](x))


class HiddenNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)
        self.norms_in_use = [self.norm]

    def forward(self, x):
        return self.out(self.norms_in_use[0](self.conv(x)))


def test_a_layer_or_norm_reached_past_its_place_is_noticed():
    with pytest.raises(RuntimeError, match="some layer is reached past its registered place"):
        we.convert(Hidden().eval(), torch.zeros(1, 4, 3, 3))
    # deepcopy keeps the list and the name together, so the copy hides its norm as well
    with pytest.raises(RuntimeError, match="norm 'norm' is reached past its registered place"):
        we.convert(HiddenNorm().eval(), torch.zeros(1, 4, 3, 3))


@pytest.mark.parametrize("bits", [(32, 8), (32, 8, 2)])
def test_a_layer_of_low_precision_reached_past_its_place_is_noticed(bits):
    method = we.SwitchablePrecision(bits, first_and_last=True)
    with pytest.raises(RuntimeError, match="layer 'conv' is reached past its registered place"):
        we.convert(Hidden().eval(), torch.zeros(1, 4, 3, 3), method=method)


def test_a_layer_is_judged_by_all_of_its_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            x = nn.functional.linear(x, self.fc.weight)  # past its own forward
            return self.out(self.fc(x))

    x = torch.randn(2, 4)
    method = we.SwitchablePrecision((32, 8), first_and_last=True)
    net = we.convert(Twice().eval(), x, method=method)
    reasons = {each.name: each.reason for each in net.left_alone}
    assert "past its own forward" in reasons["fc"]
    assert [layer.name for layer in net.switchable_layers] == ["out"]


def test_a_network_that_looks_into_its_layers_is_not_extracted_wrong():
    class Curious(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 1)
            self.out = nn.Linear(8, 2)

        def forward(self, x):
            x = self.b(self.a(x))
            return self.out(x.view(len(x), self.b.out_channels, -1).mean(-1))

    net = we.convert(Curious().eval(), torch.zeros(1, 4, 3, 3), method=we.WeightEnabling((1, 2)))
    assert type(we.extract(net, "full").b) is nn.Conv2d
    with pytest.raises(RuntimeError, match="mode 1/2 cannot be extracted: the network looks into"):
        we.extract(net, "1/2")


def test_a_single_layer_is_refused_and_its_wrapping_is_not():
    method = we.WeightEnabling(classifier=True)
    with pytest.raises(ValueError, match=r"is a single layer; wrap it in torch.nn.Sequential"):
        we.convert(nn.Linear(8, 8), torch.zeros(1, 8), method=method)
    assert we.convert(nn.Sequential(nn.Linear(8, 8)), torch.zeros(1, 8), method=method)


def test_broken_statistics_are_refused():
    model = small_resnet()
    model.block1.bn1.running_mean[0] = float("nan")
    with pytest.raises(ValueError, match=r"NaN or infinite values in 'block1.bn1.running_mean'"):
        we.convert(model, torch.zeros(IMAGES))
