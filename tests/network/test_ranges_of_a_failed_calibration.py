"""A calibration that fails half way leaves the ranges of low precisions as they were."""

import pytest
import torch

import wenable as we
from tests.helpers.networks import IMAGES, small_resnet
from wenable.layers.quantization import InputRange


def test_what_a_part_of_the_images_showed_does_not_stay():
    net = we.convert(small_resnet(), torch.zeros(IMAGES), method=we.SwitchablePrecision((32, 8)))
    good = [torch.randn(8, *IMAGES[1:]) for _ in range(2)]

    class Damaged(list):
        def __iter__(self):
            yield 1000 * good[0]
            raise OSError("a damaged image")

    with pytest.raises(OSError, match="a damaged image"):
        we.calibrate(net, "8-bit", Damaged())
    ranges = [each for each in net.modules() if isinstance(each, InputRange)]
    assert ranges
    assert not any(each.is_known for each in ranges)
    we.calibrate(net, "8-bit", good)
    known = [each for each in ranges if each.is_known]
    assert known
    assert all(each.running_bounds.abs().max() < 500 for each in known)
