"""Networks with modules that keep more in their state than tensors: nothing of that is in a file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import wenable as we
from wenable.training.loop import Checkpoint


class Counting(nn.Linear):
    """Counts in its state, in a dict or in a tensor."""

    as_tensor = False

    def get_extra_state(self) -> Any:
        return torch.tensor(3) if self.as_tensor else {"count": 3}

    def set_extra_state(self, state: Any) -> None:
        self.seen = state


class CountingInATensor(Counting):
    as_tensor = True


def plain_network(kind: type[Counting]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), kind(16, 4))


def counting_network(kind: type[Counting]) -> we.DynamicNetwork:
    return we.convert(plain_network(kind), torch.zeros(2, 8), method=we.WeightEnabling((1, 2)))


BATCH = (torch.randn(8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 4)


def test_it_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    net = counting_network(Counting)
    before = copy.deepcopy(list(net.parameters()))
    refused = r"keeps a dict with the keys 'count' in its state as '4\._extra_state'"
    with pytest.raises(ValueError, match=refused):
        we.save(net, tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=refused):
        we.train(net, [BATCH], checkpoint=Checkpoint(tmp_path / "run"))
    assert not list(tmp_path.iterdir())
    for one, other in zip(net.parameters(), before, strict=True):
        assert torch.equal(one, other)


def test_without_a_file_it_is_trained_with_averaged_weights() -> None:
    net = counting_network(Counting)
    assert we.train(net, [BATCH] * 2, we.TrainConfig(passes=2, epochs=2, ema_decay=0.5))


def test_a_tensor_is_written_and_read(tmp_path: Path) -> None:
    net = counting_network(CountingInATensor)
    we.train(net, [BATCH], checkpoint=Checkpoint(tmp_path / "run"))
    path = we.save(net, tmp_path / "net.safetensors")
    again = we.load(path, plain_network(CountingInATensor))
    assert torch.equal(again.get_submodule("4").seen, torch.tensor(3))  # pyright: ignore
