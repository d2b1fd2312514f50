"""Limits that are numbers of other types than Python's own."""

import json
from fractions import Fraction

import numpy as np
import pytest

from wenable.runtime.controller import Controller, ModeFigures
from wenable.runtime.deadline_run import run_of_controller


@pytest.mark.parametrize(
    "deadline_ms", [np.float32(20), np.float16(20), np.int64(20), Fraction(20)]
)
def test_a_deadline_of_another_type_is_kept_as_a_float(deadline_ms):
    controller = Controller([ModeFigures("1", 0.9, 10.0)])
    decision = controller.choose(deadline_ms=deadline_ms, max_energy_mj=None)
    controller.observe(decision, 12.0)
    assert type(decision.deadline_ms) is float
    assert json.dumps(run_of_controller(controller, "one request"))


def test_infinity_of_another_type_is_refused():
    controller = Controller([ModeFigures("1", 0.9, 10.0)])
    with pytest.raises(ValueError, match=r"`deadline_ms` .* must be a finite number above 0"):
        controller.choose(deadline_ms=np.float32("inf"))  # pyright: ignore[reportArgumentType]
