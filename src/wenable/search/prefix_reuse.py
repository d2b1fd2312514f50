"""Runs a mode from the first layer that differs on, with recorded outputs for what ran before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from wenable.core.space import Mode
from wenable.layers.exits import ExitPoint
from wenable.modules.passes import in_eval_mode
from wenable.network.dynamic_network import DynamicNetwork

Outputs = dict[str, torch.Tensor]


@dataclass(slots=True)
class Span:
    """When a module ran in one pass, in ticks that count every start and end of a module.

    - `calls`: how often; `start`, `end`: the first start and the last end.
    - `size`: the bytes of its output.
    - `replaceable`: it ran once, gave one tensor of its own, and wrote into none of its inputs.
    - `written`: something wrote into its output later.
    - `rows`: its output has a row for each image, as far as its size tells.
    """

    start: int
    end: int = -1
    calls: int = 1
    size: int = 0
    replaceable: bool = False
    written: bool = False
    rows: bool = False

    def encloses(self, other: Span) -> bool:
        """Say whether the other ran while this one did."""
        return self.start < other.start and other.end < self.end

    def cuts(self, other: Span) -> bool:
        """Say whether this one may have run inside the other, and ran on after it."""
        return self.calls > 1 and self.start < other.end < self.end


@dataclass(frozen=True)
class Cut:
    """What need not run again where only one knob differs from the recorded mode.

    - `units`: modules whose recorded outputs take their place, none inside another.
    - `skipped`: modules that multiply and lie in them.
    - `norms`: norms of which every call ended before the knob's first layer began; their statistics
      are those of the recorded mode.
    """

    units: tuple[str, ...] = ()
    skipped: frozenset[str] = frozenset()
    norms: frozenset[str] = frozenset()


@dataclass
class PrefixReuse:
    """Knows, for each knob of a network, what runs before it and can be left out.

    One pass on the example tells which module runs when. A module can be left out where it ran
    once, gave one tensor, wrote into none of its inputs, and ended before the first layer of the knob
    began. Operations between modules run again. Where leaving out gives another answer than the
    whole pass, which is tried for every knob on a few random inputs, that knob reuses nothing.

    - `net`: the network; it is left as it was.
    - `cache_mb`: the memory for the outputs of one batch, in MiB. Outer modules come first: their
      outputs serve more knobs.

    Raises `ValueError` where `cache_mb` is negative.

    >>> import wenable as we
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
    >>> net = we.convert(model, torch.ones(1, 4), method=we.WeightEnabling((1, 2)))
    >>> reuse, x = PrefixReuse(net), torch.randn(3, 4)
    >>> net.space.names, reuse.cut("2", images=3).units
    (('0', '2'), ('0', '1'))
    >>> with torch.no_grad(), reuse.recording(images=3) as outputs:
    ...     _ = net(x)
    >>> with torch.no_grad(), net.using("1,1/2"), reuse.replaying("2", outputs, 3):
    ...     answer = net(x)
    >>> with torch.no_grad(), net.using("1,1/2"):
    ...     bool((net(x) == answer).all())
    True
    """

    net: DynamicNetwork
    cache_mb: float = 2048.0
    passes: int = 0
    """How many passes on the example the trial took, each of `EXAMPLES` images."""
    _spans: dict[str, Span] = field(default_factory=dict)
    _failed: set[str] = field(default_factory=set)
    _kept: dict[int, frozenset[str]] = field(default_factory=dict)
    _cuts: dict[tuple[str, frozenset[str]], Cut] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.cache_mb >= 0:
            raise ValueError(f"`cache_mb` (={self.cache_mb}) must be at least 0")
        self._modules = dict(self.net.named_modules())
        self._modules.pop("")
        self._layers = {layer.name: layer for layer in self.net.switchable_layers}
        self._multiplying = frozenset(self._macs_in(self.net.space.full))
        # A pass that ends inside a module leaves no output of it to put in its place.
        self._ends_early = any(isinstance(each, ExitPoint) for each in self._modules.values())
        self._counted = {*self._multiplying, *self.net.switchable_norms()}
        inputs = _examples(self.net, seed=1)
        with in_eval_mode(self.net), torch.no_grad(), self.net.using("full"):
            self._spans = _spans(self.net, self._modules, inputs)
            self._try_all(inputs, _examples(self.net, seed=2))

    # --- what can be left out ---------------------------------------------------------------------

    def cut(self, knob: str, images: int) -> Cut:
        """Return what a batch of `images` can leave out where only `knob` differs."""
        key = (knob, self._kept_for(images))
        if key not in self._cuts:
            self._cuts[key] = self._find_cut(*key)
        return self._cuts[key]

    def start(self, knob: str) -> int:
        """Return when the first layer of a knob began; -1 where the knob reuses nothing."""
        layers = [name for name, layer in self._layers.items() if knob in layer.knobs]
        if not layers or self._ends_early:  # the size of images is set before all of them
            return -1
        if knob in self._failed or not all(name in self._spans for name in layers):
            return -1
        return min(self._spans[name].start for name in layers)

    def _find_cut(self, knob: str, kept: frozenset[str]) -> Cut:
        spans, start = self._spans, self.start(knob)
        if start < 0:  # a layer whose weights are used without calling it: nobody knows when
            return Cut()
        before = {name for name, span in spans.items() if span.end < start}
        # A norm or layer that runs again later has to run its first time too.
        again = [spans[name] for name in self._counted if name in spans and name not in before]
        usable = [
            name for name in before & kept if not any(each.cuts(spans[name]) for each in again)
        ]
        units = [
            name
            for name in usable
            if not any(spans[outer].encloses(spans[name]) for outer in usable)
        ]
        return Cut(
            tuple(sorted(units, key=lambda name: spans[name].start)),
            frozenset(
                name
                for name in self._multiplying
                if name in spans
                and any(unit == name or spans[unit].encloses(spans[name]) for unit in units)
            ),
            frozenset(self.net.switchable_norms()) & before,
        )

    def _kept_for(self, images: int) -> frozenset[str]:
        """Return the modules whose outputs are recorded for a batch of so many images."""
        if images not in self._kept:
            usable = [name for name, span in self._spans.items() if span.replaceable]
            # The outer ones first; of those the later ones, which save more.
            usable.sort(key=lambda name: (name.count("."), -self._spans[name].start))
            kept, left = [], self.cache_mb * 2**20
            for name in usable:
                size = self._spans[name].size * images / EXAMPLES
                if size <= left:
                    kept.append(name)
                    left -= size
            self._kept[images] = frozenset(kept)
        return self._kept[images]

    def macs(self, mode: Mode, knob: str | None, images: int) -> int:
        """Return the MACs of one image in `mode` that run where only `knob` differs; None: all."""
        left_out = self.cut(knob, images).skipped if knob else ()
        whole = self.net.macs(mode)
        if not left_out:
            return whole
        macs = self._macs_in(mode)
        return whole - sum(macs[name] for name in left_out)

    def _macs_in(self, mode: Mode) -> dict[str, int]:
        """Return what each module multiplies in a mode, at its size of images."""
        counts = self.net.counts_in(mode)
        found = {each.name: each.macs_in(mode) for each in counts.layers}
        found |= {each.name: each.macs for each in counts.left_alone}
        for name, macs in counts.macs_besides_layers.items():
            if name:  # the network itself is never left out
                found[name] = found.get(name, 0) + macs
        return found

    # --- recording and replaying ------------------------------------------------------------------

    @contextmanager
    def recording(self, images: int, knobs: Sequence[str] | None = None) -> Iterator[Outputs]:
        """Keep, in one forward pass inside the block, the outputs that `replaying` needs.

        - `images`: the length of the batch; `knobs`: those that will differ, all where None.
        """
        wanted = self.net.space.names if knobs is None else knobs
        units = {unit for knob in wanted for unit in self.cut(knob, images).units}
        outputs: Outputs = {}
        with _forwards_replaced({unit: self._recorder(unit, outputs) for unit in units}, self.net):
            yield outputs

    def _recorder(self, unit: str, outputs: Outputs) -> Callable[..., torch.Tensor]:
        forward, written = self._modules[unit].forward, self._spans[unit].written

        def record(*args: Any, **kwargs: Any) -> torch.Tensor:
            output = forward(*args, **kwargs)
            outputs[unit] = output.clone() if written else output
            return output

        return record

    @contextmanager
    def replaying(self, knob: str, outputs: Outputs, images: int) -> Iterator[None]:
        """Leave out what ran before `knob`, in one forward pass on the batch that was recorded."""
        units = self.cut(knob, images).units
        with _forwards_replaced({unit: self._player(unit, outputs) for unit in units}, self.net):
            yield

    def _player(self, unit: str, outputs: Outputs) -> Callable[..., torch.Tensor]:
        output, written = outputs[unit], self._spans[unit].written
        return lambda *_args, **_kwargs: output.clone() if written else output

    def rows(
        self, knob: str, batches: Sequence[Outputs], where: Sequence[torch.Tensor], images: int
    ) -> Outputs | None:
        """Return what `replaying` needs for some of the images that were recorded; None where it cannot.

        - `batches`: what was recorded of each batch; `where`: the rows wanted of each, in order.
        """
        found: Outputs = {}
        for unit in self.cut(knob, images).units:
            recorded = [outputs[unit] for outputs in batches]
            if not self._spans[unit].rows or not all(each.ndim for each in recorded):
                return None
            parts = zip(recorded, where, strict=True)
            found[unit] = torch.cat([each[rows.to(each.device)] for each, rows in parts])
        return found

    # --- the trial --------------------------------------------------------------------------------

    def _try_all(self, inputs: Any, others: Any) -> None:
        """Find the knobs where leaving out gives another answer than the whole pass."""
        net, images = self.net, len(inputs[0])
        for knob in net.space.knobs:
            if not self.cut(knob.name, images).units:
                continue
            # Between the two a module may have noted something that belongs to the other inputs.
            with net.using("full"), self.recording(images, [knob.name]) as outputs:
                self._drop_statistics()
                net(*inputs)
            changed = net.space.full.replace({knob.name: knob.options[-1]})
            with net.using(changed):
                self._drop_statistics()
                net(*others)
                with self.replaying(knob.name, outputs, images):
                    found = net(*inputs)
                expected = net(*inputs)
            self.passes += 4
            if not _same(found, expected):
                self._failed.add(knob.name)
        self._cuts.clear()

    def _drop_statistics(self) -> None:
        """Normalise as the options do: two modes that were calibrated differ before the knob too."""
        for norm in self.net.switchable_norms().values():
            norm.use_statistics(None)


EXAMPLES = 2


def _examples(net: DynamicNetwork, seed: int) -> tuple[torch.Tensor, ...]:
    """Return random inputs of two images; what holds whole numbers is that of the example."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(EXAMPLES, *each.shape[1:], generator=generator).to(each)
        if each.dtype.is_floating_point
        else each.repeat(EXAMPLES, *[1] * (each.ndim - 1))
        for each in net.example_batch
    )


def _spans(net: nn.Module, modules: Mapping[str, nn.Module], inputs: Any) -> dict[str, Span]:
    """Return when each module ran in one pass, and whether its output can take its place."""
    spans: dict[str, Span] = {}
    outputs: dict[str, tuple[torch.Tensor, int]] = {}
    versions: dict[str, list[int]] = {}
    tick = iter(range(10**9))

    def begin(name: str, args: Any, kwargs: Any) -> None:
        versions[name] = [each._version for each in _tensors((args, kwargs))]
        if name in spans:
            spans[name].calls += 1
            outputs.pop(name, None)
        else:
            spans[name] = Span(next(tick))

    def end(name: str, args: Any, kwargs: Any, output: Any) -> None:
        span = spans[name]
        span.end = next(tick)
        unwritten = versions[name] == [each._version for each in _tensors((args, kwargs))]
        single = span.calls == 1 and type(output) is torch.Tensor
        span.replaceable = single and unwritten and not _shares_memory(output, (args, kwargs))
        if span.replaceable:
            span.size = output.numel() * output.element_size()
            span.rows = output.ndim > 0 and output.shape[0] == EXAMPLES
            outputs[name] = (output, output._version)

    handles = []
    for name, module in modules.items():
        handles.append(
            module.register_forward_pre_hook(
                lambda _, args, kwargs, name=name: begin(name, args, kwargs), with_kwargs=True
            )
        )
        handles.append(
            module.register_forward_hook(
                lambda _, args, kwargs, output, name=name: end(name, args, kwargs, output),
                with_kwargs=True,
            )
        )
    try:
        net(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    for name, (output, version) in outputs.items():
        spans[name].written = output._version != version
    return spans


def _tensors(values: Any) -> list[torch.Tensor]:
    leaves = tree_leaves(values)
    return [each for each in leaves if isinstance(each, torch.Tensor)]


def _shares_memory(output: torch.Tensor, inputs: Any) -> bool:
    own = output.untyped_storage().data_ptr()
    return any(each.untyped_storage().data_ptr() == own for each in _tensors(inputs))


@contextmanager
def _forwards_replaced(
    forwards: Mapping[str, Callable[..., torch.Tensor]], net: nn.Module
) -> Iterator[None]:
    """Let modules run these functions in place of their own `forward`."""
    modules = {name: net.get_submodule(name) for name in forwards}
    before = {name: module.__dict__.get("forward") for name, module in modules.items()}
    for name, module in modules.items():
        module.__dict__["forward"] = forwards[name]
    try:
        yield
    finally:
        for name, module in modules.items():
            module.__dict__.pop("forward", None)
            if before[name] is not None:
                module.__dict__["forward"] = before[name]


def _same(a: Any, b: Any) -> bool:
    pairs = list(zip(_tensors(a), _tensors(b), strict=True))
    return all(torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in pairs)
