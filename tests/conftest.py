"""Guards around every test: seeds are set, and no test changes global settings of torch."""

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _seeded_and_unchanged() -> Iterator[None]:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    before = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    yield
    after = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    assert after == before
