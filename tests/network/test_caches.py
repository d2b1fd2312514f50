"""What networks keep from one pass to the next: neither `convert` nor anything else may spoil it."""

import copy
import functools
import gc
import random
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensor

import wenable as we
from wenable.exporting.fake_tensors import without_fakes_left
from wenable.exporting.plain_networks import plain_for_export, traced_by_exporter

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
GLOBAL: dict[tuple[int, ...], list[torch.Tensor]] = {}


def linear_table(size: int) -> torch.Tensor:
    return torch.linspace(-1, 1, size)


@functools.lru_cache
def table_by_place(size: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return linear_table(size).to(device, dtype)


@functools.lru_cache(maxsize=1)
def only_the_last(size: int) -> torch.Tensor:
    return linear_table(size)


class Positions(nn.Module):
    """Adds a position table, which subclasses keep in different places, behind a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def table(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def forward(self, x):
        x = torch.relu(self.a(x))
        return self.head(self.b(x + self.table(x)).mean((2, 3)))


class CachedFunction(Positions):
    def table(self, x):
        return table_by_place(x.shape[-1], x.device, x.dtype)


class CachedFunctionOfOneEntry(Positions):
    def table(self, x):
        return only_the_last(x.shape[-1]) + 0 * only_the_last(2 * x.shape[-1])[::2]


class CachedMethod(Positions):
    @functools.lru_cache  # noqa: B019 - it is what people write
    def of_size(self, size):
        return linear_table(size)

    def table(self, x):
        return self.of_size(x.shape[-1])


class CachedProperty(Positions):
    @functools.cached_property
    def of_eight(self):
        return linear_table(8)

    def table(self, x):
        return self.of_eight


class InClass(Positions):
    anchors = None

    def table(self, x):
        if InClass.anchors is None:
            InClass.anchors = x.new_tensor(linear_table(x.shape[-1]).tolist())
        return InClass.anchors


class InDictOfClass(Positions):
    kept: dict = {}  # noqa: RUF012 - shared on purpose

    def table(self, x):
        key = (x.shape[-2:], x.device, x.dtype)
        if key not in self.kept:
            self.kept[key] = (linear_table(x.shape[-1]).to(x), None)
        return self.kept[key][0]


class InInstance(Positions):
    anchors = None

    def table(self, x):
        if self.anchors is None:
            self.anchors = linear_table(x.shape[-1])
        return self.anchors


class InDictOfInstance(Positions):
    def __init__(self):
        super().__init__()
        self.kept = {}

    def table(self, x):
        return self.kept.setdefault(x.shape[-1], [linear_table(x.shape[-1])])[0]


class InBuffer(Positions):
    def table(self, x):
        if not hasattr(self, "positions"):
            self.register_buffer("positions", linear_table(x.shape[-1]))
        return self.positions


class InGlobal(Positions):
    def table(self, x):
        return GLOBAL.setdefault(x.shape[1:], [linear_table(x.shape[-1])])[0]


class KeepsItsFeatures(Positions):
    def table(self, x):
        self.features = x
        return linear_table(x.shape[-1])


CACHING = [
    CachedFunction, CachedFunctionOfOneEntry, CachedMethod, CachedProperty, InClass, InDictOfClass,
    InInstance, InDictOfInstance, InBuffer, InGlobal, KeepsItsFeatures,
]  # fmt: skip


def fresh(cls: type[Positions]) -> Positions:
    """Return a network that has never run, with nothing kept by its class or its file."""
    table_by_place.cache_clear()
    only_the_last.cache_clear()
    CachedMethod.of_size.cache_clear()
    GLOBAL.clear()
    InClass.anchors = None
    InDictOfClass.kept.clear()
    torch.manual_seed(1)
    return cls().eval()


def expected_of(model: Positions, x: torch.Tensor) -> torch.Tensor:
    """Compute what a network answers, by a way that keeps nothing."""
    x = torch.relu(model.a(x)) + linear_table(x.shape[-1])
    return model.head(model.b(x).mean((2, 3)))


def state_of(model: nn.Module) -> dict:
    """Return everything that the modules of a network hold, by value."""
    return {
        name: {
            key: copy.deepcopy(value) for key, value in vars(module).items() if key != "_modules"
        }
        for name, module in model.named_modules()
    }


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return type(one) is type(other) and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return one == other


@pytest.mark.parametrize("cls", CACHING)
def test_a_network_that_keeps_a_tensor_converts_and_stays_what_it_was(cls, tmp_path: Path):
    model = fresh(cls)
    before = state_of(model)
    net = we.convert(model, X, method=we.WeightEnabling(classifier=True))
    assert same(state_of(model), before)
    for network in (net, model, we.extract(net, "full")):
        answer = network(X)
        assert type(answer) is torch.Tensor
        assert torch.allclose(answer, expected_of(model, X), atol=1e-6)
    # The table is no layer's output: the channels are followed through the addition of it.
    assert {layer.name for layer in net.switchable_layers} == {"b", "head"}


@pytest.mark.parametrize("cls", CACHING)
def test_neither_saving_nor_extracting_leaves_anything_in_a_network(cls, tmp_path: Path):
    net = we.convert(fresh(cls), X)
    before = state_of(net)
    we.extract(net, "1/4")
    path = we.save(net, tmp_path / "net.safetensors")
    for name, held in state_of(net).items():
        assert list(held) == list(before[name])
        assert same(held["_buffers"], before[name]["_buffers"])
    assert torch.equal(we.load(path, fresh(cls))(X), net(X))


@pytest.mark.parametrize("cls", CACHING)
def test_a_network_that_has_run_and_kept_something_can_be_copied_and_saved(cls, tmp_path: Path):
    model = fresh(cls)
    model.train()(X).sum().backward()  # what it keeps belongs to a backward pass
    net = we.convert(model, X)
    net.train()(X).sum().backward()
    net.eval()
    answer = net(X)
    assert torch.equal(copy.deepcopy(net)(X), answer)
    assert torch.allclose(we.extract(net, "full")(X), answer, atol=1e-6)
    path = we.save(net, tmp_path / "net.safetensors")
    assert torch.equal(we.load(path, fresh(cls))(X), answer)


@pytest.mark.parametrize("cls", CACHING)
def test_what_is_kept_while_evaluating_can_be_trained_with(cls):
    net = we.convert(fresh(cls), X)
    batch = (X, torch.tensor([0, 1]))
    we.evaluate(net, "full", [batch])
    assert we.train(net, [batch], we.TrainConfig(passes=2, epochs=1))


class Tables:
    """A cache as an object of its own, at the top of a file."""

    def __init__(self) -> None:
        self.by_size: dict[int, tuple[torch.Tensor, str]] = {}
        self.latest: list[torch.Tensor] = [linear_table(8)]

    def of(self, size: int) -> torch.Tensor:
        self.by_size[size] = (linear_table(size), "made anew in every pass")
        self.latest.append(self.by_size[size][0])
        return self.by_size[size][0]


TABLES = Tables()
LATEST = None


def closed_over():
    kept = {}

    def of(size):
        kept["latest"] = linear_table(size)
        return kept["latest"]

    return of, kept


FROM_A_CLOSURE, CLOSED_OVER = closed_over()


# Found beside the networks when their code is looked through; it has an answer to every attribute.
HAS_EVERY_ATTRIBUTE = mock.call


class InObject(Positions):
    def table(self, x):
        return TABLES.of(x.shape[-1])


class InClosure(Positions):
    def table(self, x):
        return FROM_A_CLOSURE(x.shape[-1])


class InGlobalName(Positions):
    def table(self, x):
        global LATEST
        LATEST = linear_table(x.shape[-1])
        return LATEST


class InClassEachTime(Positions):
    latest: torch.Tensor | None = None

    def table(self, x):
        type(self).latest = InClassEachTime.latest = linear_table(x.shape[-1])
        return InClassEachTime.latest


class OnlyWhileExported(Positions):
    def table(self, x):
        extra = int(torch.compiler.is_compiling())
        return table_by_place(x.shape[-1] + extra, x.device, x.dtype)[: x.shape[-1]]


@pytest.mark.parametrize(
    "cls",
    [InObject, InClosure, InGlobalName, InClassEachTime, OnlyWhileExported, InClass, InGlobal],
)
def test_exporters_leave_no_fake_tensor_in_any_cache(cls):
    model = fresh(cls)
    net = we.convert(model, X)
    plain = plain_for_export(net, "full")
    with traced_by_exporter(plain, (X,)):
        torch.export.export(plain, (X,), strict=False)
    kept = [
        table_by_place(9, X.device, X.dtype),
        *(table for table, _ in TABLES.by_size.values()),
        *TABLES.latest, *CLOSED_OVER.values(), LATEST, InClassEachTime.latest, InClass.anchors,
        *(table for tables in GLOBAL.values() for table in tables),
    ]  # fmt: skip
    assert not [each for each in kept if isinstance(each, FakeTensor)]
    assert torch.allclose(model(X), expected_of(model, X), atol=1e-6)
    assert torch.allclose(net(X), expected_of(model, X), atol=1e-6)


def test_the_exporter_would_leave_some():
    """What the test above relies on: without clearing up, the caches are fake."""
    plain = plain_for_export(we.convert(fresh(InGlobalName), X), "full")
    torch.export.export(plain, (X,), strict=False)
    assert isinstance(LATEST, FakeTensor)
    fresh(InGlobalName)(X)
    assert not isinstance(LATEST, FakeTensor)


class LoadsWhenAsked(dict):
    """As the registries of large libraries: what it lists is imported when somebody looks."""

    def _loaded(self, *_):
        raise ImportError("a module that is not installed")

    keys = values = items = __iter__ = __getitem__ = get = _loaded


def test_a_registry_that_loads_what_it_lists_is_not_asked():
    class Listed(nn.Linear):
        known = LoadsWhenAsked(small=1, large=2)

    with without_fakes_left(Listed(2, 2)):
        pass


def test_no_fake_tensor_is_left_anywhere():
    def fakes():
        gc.collect()
        return [each for each in gc.get_objects() if issubclass(type(each), FakeTensor)]

    before = {id(each) for each in fakes()}
    net = we.convert(fresh(InGlobal), X)
    assert not [each for each in fakes() if id(each) not in before]
    assert net(X).shape == (2, 4)


def test_a_network_that_looks_at_its_first_input_has_not_seen_the_example():
    class ScaledByItsFirstInput(Positions):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.zeros(()))

        def table(self, x):
            if self.scale == 0:
                self.scale.copy_(x.std())
            return self.scale

    model = fresh(ScaledByItsFirstInput)
    with pytest.raises(ValueError, match="cannot be traced with this `example_input`"):
        we.convert(model, X)  # it decides by the value of a tensor in every pass
    assert model.scale == 0


def test_counters_hooks_flags_and_random_numbers_are_as_they_were():
    class Counting(Positions):
        calls = 0

        def table(self, x):
            self.calls += 1
            return torch.rand(8) + random.random() + float(np.random.rand())

    model = fresh(Counting)
    model.b.train()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    before = state_of(model)
    net = we.convert(model, X)
    assert (model.calls, net.calls) == (0, 0)
    assert (model.training, model.b.training, net.b.training) == (False, True, True)
    assert same(state_of(model), before)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), states[2], strict=True))
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.is_grad_enabled()


def test_the_operations_know_the_modules_that_ran_them():
    from wenable.graph import trace

    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1)))
    operations = trace(model.eval(), (X,)).operations
    assert [operations.running[n] for n in operations.nodes if n.op == "call_function"] == [
        "0", "1.0", "1.1",
    ]  # fmt: skip
