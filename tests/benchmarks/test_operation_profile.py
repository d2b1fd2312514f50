"""The work that the operation profile counts is the work that the network counts."""

import pytest

import wenable as we
from benchmarks.operation_profile import FIXED, KINDS, SWITCHED, _by_kind
from tests.exporting.test_exporting import calibrated
from wenable.runtime import Bundle
from wenable.runtime.building import build, choose_each
from wenable.runtime.engines import installed_engines, open_engine
from wenable.runtime.implementations import as_written

RATES = {"gmacs_per_s": 10.0, "gb_per_s": 5.0}


@pytest.mark.parametrize("name", installed_engines())
def test_macs_and_bytes_are_those_of_the_network(tmp_path, name):
    net, modes = calibrated(shuffle="all")
    path = we.export(net, modes, tmp_path / "net.wen")
    bundle, engine = Bundle(path), open_engine(name, 1)
    switched = {layer.name: layer for layer in net.switchable_layers}
    for number, mode in enumerate(modes):
        weights = bundle.weights_of(number)
        built = build(
            bundle.graph_of(0), bundle.layers, weights,
            choose_each(bundle.layers, weights.options, as_written),
        )  # fmt: skip
        operations = engine.operation_times(built.content, bundle.example(), 2)
        rows = {row["kind"]: row for row in _by_kind(built, operations, RATES)}
        assert set(rows) == set(KINDS)
        expected = sum(layer.macs_at(mode[layer.knob]) for layer in switched.values())
        assert rows[SWITCHED]["macs"] == expected
        assert rows[SWITCHED]["macs"] + rows[FIXED]["macs"] == net.macs(mode)
        assert sum(row["operations"] for row in rows.values()) == len(operations)
        parameters = sum(each.numel() for each in we.extract(net, mode).parameters())
        assert sum(row["bytes"] for row in rows.values()) > 4 * 0.9 * parameters
        for row in rows.values():
            by_work = (1e3 * row["macs"] / 10e9, 1e3 * row["bytes"] / 5e9)
            assert row["least_ms"] == pytest.approx(max(by_work))
