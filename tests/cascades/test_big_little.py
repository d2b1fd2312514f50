"""Two networks beside each other: what they answer, hold and load."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.networks import dense_network, small_resnet
from wenable.cascades.big_little import BigLittle, network_bytes
from wenable.core.escalation import margin
from wenable.measure.latency import TimingPlan

X = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(3))


def little() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 5))


def test_the_big_network_answers_where_the_little_one_is_unsure():
    pair = BigLittle(little(), dense_network(), X)
    with torch.no_grad():
        small, large = pair.little(X).numpy(), pair.big.eval()(X).numpy()
    unsure = margin(small) < 0.2
    assert 0 < unsure.sum() < len(X)
    found = pair.run(X, 0.2)
    np.testing.assert_array_equal(found.escalated, unsure)
    np.testing.assert_allclose(found.outputs, np.where(unsure[:, None], large, small), rtol=1e-5)
    assert found.cost == pytest.approx(pair.macs[0] + unsure.mean() * pair.macs[1])


def test_memory_and_loads_are_counted_once_each():
    networks = little(), small_resnet()
    sizes = [
        sum(t.numel() * t.element_size() for t in net.state_dict().values()) for net in networks
    ]
    both, one = (BigLittle(*networks, X, each) for each in ("both", "one"))
    assert (both.bytes_held, both.bytes_per_change) == (sum(sizes), 0)
    assert (one.bytes_held, one.bytes_per_change) == (max(sizes), sum(sizes))
    shared = nn.Linear(4, 4)
    assert network_bytes(nn.Sequential(shared, shared)) == network_bytes(shared)


def test_the_time_of_a_change_is_measured_or_absent_with_a_reason():
    both, one = (BigLittle(little(), dense_network(), X, each) for each in ("both", "one"))
    assert both.measure_change().value is None
    assert "nothing is loaded" in both.measure_change().reason
    reading = one.measure_change(TimingPlan(blocks=1, calls=3, warmup=0, gap_ms=0))
    assert reading.known > 0
    assert "copied within memory" in reading.source


def test_networks_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match=r"answers with shape \(5,\) and `big` with \(4,\)"):
        BigLittle(little(), nn.Sequential(nn.Flatten(), nn.Linear(48, 4)), X)
    with pytest.raises(ValueError, match="`residence` \\(='none'\\) is unknown"):
        BigLittle(little(), little(), X, "none")  # type: ignore[arg-type]
