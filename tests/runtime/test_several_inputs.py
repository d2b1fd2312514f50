"""Inputs of several kinds, checked alike on every engine before anything runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import wenable as we
from wenable.runtime import Session
from wenable.runtime.decisions import check_positive
from wenable.runtime.engines import installed_engines
from wenable.runtime.graph import Graph, Node, TensorType
from wenable.runtime.index_limits import index_limits

ROWS = 10


class Tagged(nn.Module):
    """Features and the places of words in a table."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.table = nn.Linear(8, 32), nn.Embedding(ROWS, 32)
        self.out = nn.Linear(32, 3)

    def forward(self, features: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.wide(features) + self.table(ids)))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    example = (torch.zeros(2, 8), torch.zeros(2, dtype=torch.long))
    net = we.convert(Tagged().eval(), example, method=we.WeightEnabling((1, 2)))
    return we.export(net, ["full", "1/2"], tmp_path_factory.mktemp("inputs") / "net.wen")


@pytest.fixture(scope="module", params=installed_engines())
def session(path: Path, request: pytest.FixtureRequest) -> Iterator[Session]:
    with Session(path, engine=request.param, threads=1) as opened:
        yield opened


def given(count: int = 2) -> tuple[np.ndarray, np.ndarray]:
    features = np.random.default_rng(0).standard_normal((count, 8)).astype(np.float32)
    return features, np.arange(count) % ROWS


def test_a_list_a_tuple_and_a_dict_are_the_same(session: Session) -> None:
    features, ids = given()
    expected = session.run((features, ids))
    np.testing.assert_array_equal(session.run([features, ids]), expected)
    np.testing.assert_array_equal(session.run({"ids": ids, "features": features}), expected)


FEATURES, IDS = given()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ((FEATURES, IDS + ROWS), r"`x\['ids'\]` holds 11, and .* looks it up in a table of 10 rows"),
        ((FEATURES, np.array([0, -11])), r"`x\['ids'\]` holds -11, and"),
        ((FEATURES, IDS[:1]), "`x` holds unlike numbers of examples: 2 in 'features', 1 in 'ids'"),
        ((FEATURES[:1], IDS), "unlike numbers of examples: 1 in 'features', 2 in 'ids'"),
        ((IDS, FEATURES), r"`x\['features'\]` \(int64\) must be a numpy array of float32"),
        ((FEATURES, IDS.astype(np.int32)), r"`x\['ids'\]` \(int32\) must be a numpy array of int64"),
        ((FEATURES * np.float32("nan"), IDS), r"`x\['features'\]` holds NaN or infinity"),
        ((np.ma.masked_array(FEATURES, FEATURES > 0), IDS), r"`x\['features'\]` \(masked\) must be"),
        ([FEATURES], "`x` must be 2 arrays, not 1"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(session: Session, x: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        session.run(x)


def test_places_from_both_ends_of_a_table_are_taken(session: Session) -> None:
    features = np.ones((2, 8), np.float32)
    last, first = session.run((features, np.array([ROWS - 1, 0])))
    again_last, again_first = session.run((features, np.array([-1, -ROWS])))
    np.testing.assert_array_equal((again_last, again_first), (last, first))


def test_limits_are_those_of_the_smallest_table_behind_an_input() -> None:
    nodes = (
        Node("Cast", ("ids",), ("long",), {"to": 7}),
        Node("Unsqueeze", ("long", "axes"), ("wide",), {}),
        Node("Gather", ("big", "wide"), ("a",), {"axis": 0}),
        Node("Gather", ("small", "long"), ("b",), {"axis": 1}),
        Node("Gather", ("a", "other"), ("c",), {"axis": 0}),  # of what is computed
        Node("Add", ("b", "c"), ("y",), {}),
    )
    types = [TensorType(name, "int32", (None,)) for name in ("ids", "other")]
    graph = Graph(tuple(types), (TensorType("y", "float32", (None, 4)),), nodes, 18)
    tensors = {"big": np.zeros((50, 4)), "small": np.zeros((4, 20)), "axes": np.array([1])}
    assert index_limits(graph, tensors) == {"ids": 20}


@pytest.mark.parametrize("value", [True, 10**400, float("nan"), 0])
def test_limits_in_time_are_finite_numbers(value: Any) -> None:
    with pytest.raises(ValueError, match=r"`deadline_ms` .* must be a finite number above 0"):
        check_positive("deadline_ms", value)
