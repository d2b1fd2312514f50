"""The order of images is that of the epoch, whoever draws it, and a run that goes on has the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler

import wenable as we
from tests.helpers.training_runs import same, weights_of, with_dropout
from wenable.training import TrainConfig
from wenable.training.loop import Checkpoint

CONFIG = TrainConfig(passes=2, epochs=3, learning_rate=0.05)


class Seen(Dataset[Any]):
    """Images that note the order in which they are read."""

    def __init__(self) -> None:
        give = torch.Generator().manual_seed(0)
        self.images, self.order, self.epochs = torch.randn(8, 3, 6, 6, generator=give), [], []

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        self.order.append(index)
        return self.images[index], index % 5

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


def sampler_of(data: Seen) -> DistributedSampler[Any]:
    return DistributedSampler(data, num_replicas=2, rank=1, shuffle=True, seed=3)


@pytest.mark.parametrize("in_batches", [False, True])
def test_samplers_and_data_sets_are_told_the_epoch(in_batches: bool):
    data = Seen()
    sampler = sampler_of(data)
    if in_batches:
        loader = DataLoader(data, batch_sampler=BatchSampler(sampler, 2, drop_last=False))
    else:
        loader = DataLoader(data, 2, sampler=sampler)
    assert we.train(with_dropout(), loader, CONFIG)
    expected = []
    for epoch in range(3):
        alone = sampler_of(data)
        alone.set_epoch(epoch)
        expected += list(alone)
    assert data.order == expected
    assert expected[:4] != expected[4:8]
    assert data.epochs == [0, 1, 2]


@pytest.mark.parametrize("stop_at", [4, 8])
def test_a_shuffling_loader_goes_on_with_the_order_of_its_epoch(stop_at: int, tmp_path: Path):
    data = Seen()
    whole = with_dropout()
    torch.manual_seed(5)
    assert we.train(whole, DataLoader(data, 2, shuffle=True), CONFIG)
    orders = [data.order[start : start + 8] for start in (0, 8, 16)]
    assert len(set(map(tuple, orders))) == 3

    checkpoint, steps = Checkpoint(tmp_path / "run.safetensors", resume=True), []
    for stops in (True, False):
        net, again = with_dropout(), Seen()  # a new process
        torch.manual_seed(5)
        we.train(
            net, DataLoader(again, 2, shuffle=True), CONFIG, on_step=steps.append,
            checkpoint=checkpoint, should_stop=lambda stops=stops: stops and len(steps) == stop_at,
        )  # fmt: skip
    assert len(steps) == 12
    assert same(weights_of(net), weights_of(whole))
