"""A layer that was put in the place of a switchable one is refused by all that would run it."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import wenable as we
from tests.helpers.networks import IMAGES, converted, small_resnet
from wenable.layers.batch_norm import SwitchableSyncBatchNorm
from wenable.training import train_step

BATCH = (torch.randn(IMAGES), torch.zeros(IMAGES[0], dtype=torch.long))


def replace_convolution(net: nn.Module) -> str:
    net.get_submodule("block1").conv2 = nn.Conv2d(8, 8, 3, padding=1)
    return "block1.conv2"


def replace_norms(net: nn.Module) -> str:
    nn.SyncBatchNorm.convert_sync_batchnorm(net)
    return "block1.bn1"


def step(net: we.DynamicNetwork) -> None:
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    train_step(net, BATCH, [net.space.full], nn.CrossEntropyLoss(), optimizer)


USES: list[Callable[[we.DynamicNetwork], object]] = [
    lambda net: we.train(net, [BATCH], we.TrainConfig(epochs=1)),
    lambda net: we.calibrate(net, "1/2", [BATCH]),
    lambda net: we.evaluate(net, "full", [BATCH]),
    lambda net: net.macs(),
    step,
]


@pytest.mark.parametrize("replace", [replace_convolution, replace_norms])
@pytest.mark.parametrize("use", range(len(USES)))
def test_a_replaced_layer_is_refused(replace: Callable[[nn.Module], str], use: int):
    net = converted()
    name = replace(net)
    before = {n: each.clone() for n, each in net.state_dict().items()}
    with pytest.raises(ValueError, match=f"'{name}' was replaced after `convert`"):
        USES[use](net)
    assert all(torch.equal(before[n], each) for n, each in net.state_dict().items())


def test_norms_over_processes_that_are_there_before_switch():
    net = converted(nn.SyncBatchNorm.convert_sync_batchnorm(small_resnet()))
    norm = net.get_submodule("block1.bn1")
    assert isinstance(norm, SwitchableSyncBatchNorm)
    net.set_mode("1/2")
    assert norm.slice_options == [2]
    net.head = nn.Linear(4, 4)  # what has no knob may come later
    we.calibrate(net, "1/2", [BATCH])
    assert net.is_calibrated("1/2")


def test_what_no_knob_sets_may_be_replaced_and_what_one_sets_may_be_wrapped():
    net = converted()
    net.block1 = nn.Sequential(net.get_submodule("block1"))  # as a checkpoint wrapper would
    net.set_mode("1/2")
    we.calibrate(net, "1/2", [BATCH])
    assert we.evaluate(net, "1/2", [BATCH]).count == IMAGES[0]
    exits = we.convert(small_resnet(), torch.zeros(IMAGES), method=we.EarlyExits(("block1",)))
    exits.fc = nn.Linear(32, 5)
    assert we.evaluate(exits, "full", [BATCH]).count == IMAGES[0]
