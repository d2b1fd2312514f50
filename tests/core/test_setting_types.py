"""Settings of the wrong type are refused by name: a text from a file or a shell would count as yes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import wenable as we


@pytest.mark.parametrize(
    ("make", "name", "values"),
    [
        (we.TrainConfig, "distillation", ["no", 0, None]),
        (we.TrainConfig, "channels_last", ["false", 1]),
        (we.Sharing, "project", ["no"]),
        (we.WeightEnabling, "classifier", ["no", 1]),
        (we.TrainConfig, "grow_from", [2.5, True, "2"]),
        (we.TrainConfig, "ema_decay", [None, "0.9", True]),
        (we.TrainConfig, "clip_grad", ["1", math.nan]),
        (we.TrainConfig, "step_epochs", [math.inf, math.nan]),
        (we.TrainConfig, "weight_decay", [math.inf, math.nan, -1]),
        (we.TrainConfig, "mixup", [math.inf, "1"]),
        (we.Sharing, "delay", ["half", None, True]),
        (we.WeightEnabling, "groups", [4, "124", (True, 2), None]),
        (we.WeightEnabling, "only", [5]),
        (we.WeightEnabling, "exclude", [5]),
        (we.SwitchablePrecision, "bits", [8, "32"]),
        (we.SwitchablePrecision, "exclude", [5]),
        (we.Slimmable, "widths", ["1", 1.0]),
        (we.EarlyExits, "exits", [None, 3]),
        (we.ImageSize, "sizes", [None, "32"]),
    ],
)
def test_a_setting_of_the_wrong_type_is_named(
    make: Callable[..., Any], name: str, values: list[Any]
):
    for value in values:
        with pytest.raises(ValueError, match=rf"^`{name}` \(="):
            make(**{name: value})


def test_numbers_of_numpy_are_numbers():
    config = we.TrainConfig(weight_decay=np.float32(0.5), ema_decay=np.float64(0.9))
    assert (config.weight_decay, config.ema_decay) == (0.5, 0.9)
    assert we.WeightEnabling(exclude=None).exclude == ()
