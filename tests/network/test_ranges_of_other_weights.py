"""Ranges of low precisions that calibration saw with other weights count as never seen."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import wenable as we
from tests.helpers.networks import IMAGES, small_resnet
from wenable.layers.quantization import InputRange

BATCHES = [torch.randn(8, *IMAGES[1:], generator=torch.Generator().manual_seed(n)) for n in (0, 1)]


def dense() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 16), nn.Linear(16, 16), nn.Linear(16, 5))


def precise(model: nn.Module) -> we.DynamicNetwork:
    method = we.SwitchablePrecision((32, 8), first_and_last=True)
    return we.convert(model.eval(), torch.zeros(IMAGES), method=method)


def bounds(net: nn.Module) -> torch.Tensor:
    return torch.stack([m.running_bounds for m in net.modules() if isinstance(m, InputRange)])


def load_others(net: we.DynamicNetwork) -> None:
    others = {name: 3 * each.detach() for name, each in net.named_parameters()}
    net.load_state_dict(others, strict=False)


def train_full_mode(net: we.DynamicNetwork) -> None:
    net.set_mode("32-bit")
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net.train()(BATCHES[0]).square().sum().backward()
    optimizer.step()
    net.eval()


@pytest.mark.parametrize("make", [dense, small_resnet])
@pytest.mark.parametrize("change", [load_others, train_full_mode])
def test_ranges_are_calibrated_anew_for_other_weights(make, change):
    net = precise(make())
    we.calibrate(net, "8-bit", BATCHES)
    assert net.is_calibrated("8-bit")
    change(net)
    assert not net.is_calibrated("8-bit")
    assert not net.knows_input_ranges("8-bit")
    expected = precise(make())
    weights = {n: each for n, each in net.state_dict().items() if "running_bounds" not in n}
    expected.load_state_dict(weights, strict=False)
    we.calibrate(expected, "8-bit", BATCHES)
    we.calibrate(net, "8-bit", BATCHES)
    assert net.is_calibrated("8-bit")
    torch.testing.assert_close(bounds(net), bounds(expected))


def test_a_calibration_for_other_weights_that_fails_leaves_the_ranges_stale():
    net = precise(dense())
    we.calibrate(net, "8-bit", BATCHES)
    load_others(net)
    before = bounds(net)
    with pytest.raises(ValueError, match="`batches` is empty"):
        we.calibrate(net, "8-bit", [])
    assert torch.equal(bounds(net), before)
    assert not net.is_calibrated("8-bit")


def test_what_training_saw_stays_known_with_the_next_weights():
    net = precise(dense())
    net.train().set_mode("8-bit")
    net(BATCHES[0])
    seen = bounds(net)
    load_others(net.eval())
    assert net.is_calibrated("8-bit")
    we.calibrate(net, "8-bit", BATCHES)
    assert torch.equal(bounds(net), seen)


def test_files_and_copies_know_which_weights_the_ranges_are_of(tmp_path: Path):
    net = precise(dense())
    we.calibrate(net, "8-bit", BATCHES)
    loaded = we.load(we.save(net, tmp_path / "net.safetensors"), dense())
    twin = precise(dense())
    twin.load_state_dict(net.state_dict())
    for other in (loaded, copy.deepcopy(net), twin):
        assert other.is_calibrated("8-bit")
    for other in (loaded, copy.deepcopy(net)):
        load_others(other)
        assert not other.is_calibrated("8-bit")
