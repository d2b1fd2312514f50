"""Guards around every test: seeds are set, and no test changes global settings of torch."""

import os
import random
import tempfile
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

# Tests that run side by side have a core each, and so have the commands that they start.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
# What tests time is not to be remembered for anybody's real runs.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="wenable-tests-")
# How long an example takes says nothing here: the machines are shared, and some are slow.
slow = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("wenable", **slow)
# The same examples in every run: a change is judged by what it changed. New ones are found by hand.
settings.register_profile("repeatable", derandomize=True, **slow)
settings.load_profile("repeatable" if "WENABLE_TESTS_REPEATABLE" in os.environ else "wenable")


@pytest.fixture(autouse=True)
def _seeded_and_unchanged() -> Iterator[None]:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    before = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    yield
    # Commands flush denormals for their process, which here is everybody's.
    torch.set_flush_denormal(False)
    after = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    assert after == before
