"""Flexible width beside an operation that cannot be followed: its inputs keep all their channels."""

import torch
from torch import nn
from torch.nn import functional as F

import wenable as we
from tests.methods.test_width import converted, drawn


class Spectrum(nn.Module):
    """What is computed between two convolutions over time is known to nobody here."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(4, 16, 3, padding=1), nn.Conv1d(16, 16, 3, padding=1)
        self.last, self.head = nn.Conv1d(16, 16, 3, padding=1), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        x = torch.cumsum(x, 1)  # along the channels
        return self.head(torch.relu(self.last(x)).mean(-1))


def test_a_convolution_over_time_writes_all_channels_for_what_cannot_be_followed():
    net = converted(Spectrum(), (1, 4, 12))
    written = {each.name: each for each in net.switchable_layers}
    assert written["first"].macs_by_option[2] == written["first"].macs_by_option[0] / 2
    # It reads half of the channels of `first`, and writes all of its own; `last` reads all.
    assert written["second"].macs_by_option[2] == written["second"].macs_by_option[0] / 2
    assert written["last"].macs_by_option[2] == written["last"].macs_by_option[0] / 2
    x = drawn(3, 4, 12)
    with torch.no_grad(), net.using("0.5"):
        torch.testing.assert_close(we.extract(net, "0.5")(x), net(x))
        half = torch.relu(F.conv1d(x, net.first.weight[:8], net.first.bias[:8], padding=1))
        half = torch.relu(F.conv1d(half, net.second.weight[:, :8], net.second.bias, padding=1))
        half = F.conv1d(half.cumsum(1), net.last.weight[:8], net.last.bias[:8], padding=1)
        wanted = torch.relu(half).mean(-1) @ net.head.weight[:, :8].T + net.head.bias
        torch.testing.assert_close(net(x), wanted)


def test_one_that_only_stands_before_it_is_listed_with_the_reason():
    class Behind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.hidden, self.head = (
                nn.Conv1d(4, 16, 1),
                nn.Linear(16, 8),
                nn.Linear(8, 4),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x).cumsum(1).mean(-1)
            return self.head(torch.relu(self.hidden(x)))

    net = converted(Behind(), (1, 4, 12))
    reasons = {each.name: each.reason for each in net.left_alone}
    assert list(reasons) == ["first"]
    assert (
        "keeps its channels, since the network's own forward cannot run narrower: "
        in reasons["first"]
    )
    assert "'cumsum' is not known to fit fewer channels" in reasons["first"]
    assert [each.name for each in net.switchable_layers] == ["hidden", "head"]
