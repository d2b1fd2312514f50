"""Statistics of a mode: those of the data, stored with the mode, dropped when weights change."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import wenable as we
from tests.helpers.networks import converted, small_resnet

BATCHES = [
    torch.randn(size, 3, 6, 6, generator=torch.Generator().manual_seed(size)) for size in (9, 4)
]


@pytest.mark.parametrize("text", ["full", "1/4", "1/2,block1.*=1/8"])
def test_statistics_are_those_of_what_each_norm_read(text: str):
    net = converted()
    mode = net.space.mode(text)
    seen: dict[str, list[np.ndarray]] = {name: [] for name in net.switchable_norms()}

    def record(name):
        return lambda _, inputs: seen[name].append(inputs[0].detach().double().numpy())

    handles = [
        norm.register_forward_pre_hook(record(name))
        for name, norm in net.switchable_norms().items()
    ]
    we.calibrate(net, mode, BATCHES)
    for handle in handles:
        handle.remove()
    calibration = net.calibration(mode)
    assert calibration is not None
    assert calibration.images == 13
    assert calibration.statistics is not None
    for name, inputs in seen.items():
        values = np.concatenate([x.swapaxes(0, 1).reshape(x.shape[1], -1) for x in inputs], axis=1)
        found = calibration.statistics[name]
        np.testing.assert_allclose(found.mean.numpy(), values.mean(1), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.var.numpy(), values.var(1, ddof=1), rtol=1e-5, atol=1e-6)


def test_nothing_else_changes():
    net = converted()
    net.train()
    net.block1.eval()
    net.set_mode("1/2")
    before = copy.deepcopy(net.state_dict())
    training = [module.training for module in net.modules()]
    we.calibrate(net, ["1/4", "1/8"], BATCHES)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert [module.training for module in net.modules()] == training
    assert str(net.mode) == "1/2"
    assert all(norm.collecting is None for norm in net.switchable_norms().values())


def test_each_mode_runs_with_its_own_statistics():
    net = converted().eval()
    x = BATCHES[0]
    net.set_mode("1/4")
    uncalibrated = net(x)
    we.calibrate(net, ["1/4", "1/8"], BATCHES)
    calibrated = net(x)
    assert not torch.allclose(uncalibrated, calibrated)
    with net.using("1/8"):
        net(x)
    assert torch.equal(net(x), calibrated)
    # One batch and its own statistics: the norm then sees zero mean, up to the difference between
    # the unbiased variance that is kept and the biased one that normalised the batch.
    we.calibrate(net, "1/4", [x])
    outputs = {}
    handle = net.block2.bn3.register_forward_hook(lambda m, _, y: outputs.update(y=y.clone()))
    net(x)
    handle.remove()
    own = net.block2.bn3.of_option(4)
    centred = (outputs["y"] - own.bias.view(1, -1, 1, 1)) / own.weight.view(1, -1, 1, 1)
    np.testing.assert_allclose(centred.detach().mean((0, 2, 3)).numpy(), 0, atol=0.02)


def test_the_full_mode_keeps_what_the_network_came_with():
    net = converted()
    assert net.is_calibrated("full")
    assert not net.is_calibrated("1/2")
    assert net.calibrated_modes == (net.space.full,)


@pytest.mark.parametrize("change", ["training", "loading", "by hand", "by exchange", "norms"])
def test_a_change_of_weights_makes_statistics_stale(change: str):
    net = converted()
    we.calibrate(net, "1/4", BATCHES)
    assert net.is_calibrated("1/4")
    if change == "training":
        net.train()(BATCHES[0])
    elif change == "loading":
        net.load_state_dict(net.state_dict())
    elif change == "by hand":
        net.fc.weight.data[0, 0] += 1e-3
    elif change == "norms":  # the full mode uses the network's own statistics
        net.stem[1].running_mean.add_(1)
        assert net.is_calibrated("1/4")
        assert not net.is_calibrated("full")
        return
    else:  # the same values in other places
        net.fc.weight.data.copy_(net.fc.weight.data.flip(0))
    assert not net.is_calibrated("1/4")
    assert not net.is_calibrated("full")


def test_networks_without_batch_norm_need_none():
    net = we.convert(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)), torch.zeros(1, 8))
    assert net.is_calibrated("1/8")
    we.calibrate(net, "1/8", [])


def test_what_cannot_serve_is_refused():
    net = converted()
    with pytest.raises(ValueError, match="`batches` is empty"):
        we.calibrate(net, "1/4", [])
    with pytest.raises(ValueError, match="`batches` is an iterator"):
        we.calibrate(net, ["1/4", "1/2"], iter(BATCHES))
    with pytest.raises(ValueError, match="names 'x'"):
        we.calibrate(net, {"x": 1}, BATCHES)
    with pytest.raises(ValueError, match="must have 4 dimensions"):
        we.calibrate(net, "1/4", [torch.zeros(3, 6, 6)])
    broken = BATCHES[0].clone()
    broken[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="are not finite: look for NaN in the images"):
        we.calibrate(net, "1/4", [broken])
    assert all(norm.collecting is None for norm in net.switchable_norms().values())
    assert not net.is_calibrated("1/4")


def test_statistics_that_do_not_fit_are_refused():
    net = converted()
    with pytest.raises(ValueError, match="does not match the network's norms at"):
        net.store_calibration(net.space.full, {}, 1)


def test_pairs_of_images_and_labels_serve_as_well():
    net = converted().eval()
    found = []
    for batches in (BATCHES, [(x, torch.zeros(len(x))) for x in BATCHES]):
        we.calibrate(net, "1/2", batches)
        with net.using("1/2"):
            found.append(net(BATCHES[0]))
    assert torch.equal(*found)


def test_the_model_that_was_handed_in_is_untouched_by_calibration():
    model = small_resnet()
    before = copy.deepcopy(model.state_dict())
    we.calibrate(converted(model), "1/2", BATCHES)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
