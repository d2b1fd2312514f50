"""What a method says about a network: its knobs, the modules that follow them, what is left alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

from wenable.core.entries import Entries
from wenable.core.space import Mode, Space
from wenable.graph import TracedGraph
from wenable.layers.image_size import INPUTS as INPUTS
from wenable.layers.image_size import ImageSizes
from wenable.layers.permutation import is_identity_shuffle


@dataclass(frozen=True, slots=True)
class KnobTarget:
    """A module that a knob sets by its `switch_to`, by qualified name, or `INPUTS`.

    - `part`: only one slice of its channels.
    - `setter`: the method that sets it, for a module that two knobs set.
    """

    module: str
    part: int | None = None
    setter: str = "set_option"


@dataclass(frozen=True, slots=True)
class Shuffle:
    """A channel shuffle on the input of a layer: `groups` over `channels`."""

    groups: int
    channels: int

    @property
    def is_identity(self) -> bool:
        """Whether it leaves every channel in its place."""
        return is_identity_shuffle(self.channels, self.groups)


@dataclass(frozen=True, slots=True)
class SwitchableLayer:
    """A layer that switches: its knob, its sizes, its cost in the full option, and its shuffle.

    `macs` are for one example at the traced size; `weights` counts its weight without the bias.
    Option 1/n costs 1/n of both, unless `macs_by_option` and `weights_by_option` say otherwise,
    in the order of `options`; `bits_by_option` are those of weights and inputs, where not 32.
    Where its precision has a knob of its own, that is `precision_knob`; option n leaves 32/n bits.
    Where an early exit may leave it out, that is `exit_knob`, and its options from `runs_from` to
    `runs_until` run the layer.
    """

    name: str
    knob: str
    kind: str
    options: tuple[int, ...]
    inputs: int
    outputs: int
    macs: int
    weights: int
    shuffle: Shuffle | None
    macs_by_option: tuple[int, ...] = ()
    weights_by_option: tuple[int, ...] = ()
    bits_by_option: tuple[int, ...] = ()
    precision_knob: str = ""
    exit_knob: str = ""
    runs_until: int = 0
    runs_from: int = 0

    @property
    def knobs(self) -> tuple[str, ...]:
        """The names of all knobs that set it; not that of an exit, which only leaves it out."""
        return (self.knob, self.precision_knob) if self.precision_knob else (self.knob,)

    def runs_in(self, mode: Mapping[str, int]) -> bool:
        """Say whether a mode runs it at all: whether no early exit leaves it out."""
        return not self.exit_knob or self.runs_from <= mode[self.exit_knob] <= self.runs_until

    def macs_in(self, mode: Mapping[str, int]) -> int:
        """Return the multiply-accumulates in a mode, for one example."""
        return self.macs_at(mode[self.knob]) if self.runs_in(mode) else 0

    def weights_in(self, mode: Mapping[str, int]) -> int:
        """Return how many weights a mode enables."""
        return self.weights_at(mode[self.knob]) if self.runs_in(mode) else 0

    def macs_at(self, n: int) -> int:
        """Return the multiply-accumulates in option `n`, for one example."""
        if self.macs_by_option:
            return self.macs_by_option[self.options.index(n)]
        return self.macs // n

    def weights_at(self, n: int) -> int:
        """Return how many weights option `n` enables."""
        if self.weights_by_option:
            return self.weights_by_option[self.options.index(n)]
        return self.weights // n

    def bits_in(self, mode: Mapping[str, int]) -> int:
        """Return the bits of a weight, and of an input, in a mode: 32 for floating point."""
        if self.precision_knob:
            return 32 // mode[self.precision_knob]
        n = mode[self.knob]
        return self.bits_by_option[self.options.index(n)] if self.bits_by_option else 32


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """A layer with weights that cannot be switched, or is not by choice, and why."""

    name: str
    kind: str
    macs: int
    reason: str


@dataclass(frozen=True)
class Plan:
    """How a method makes one network dynamic.

    - `space`: the knobs, in execution order.
    - `replacements`: qualified name -> the module that takes its place.
    - `followers`: knob -> what it sets.
    - `layers`, `left_alone`: every layer with weights, for the report of `inspect`.
    """

    space: Space
    replacements: Mapping[str, nn.Module]
    followers: Mapping[str, tuple[KnobTarget, ...]]
    layers: tuple[SwitchableLayer, ...]
    left_alone: tuple[LeftAlone, ...]
    method: Method
    """The method with everything in it that a file can keep."""
    finish_extraction: Callable[[nn.Module], nn.Module] | None = None
    """What is left to do to a copy of the network in one mode, to extract it: before its modules
    are asked for their plain forms."""
    image_sizes: ImageSizes | None = None
    """What the inputs go through, if the mode says how large images are."""
    written: Mapping[str, tuple[Entries, ...]] = field(default_factory=dict)
    """Module -> which channels it writes in each option of the only knob, if not always all."""

    @property
    def size_knob(self) -> str | None:
        """The name of the knob that says how large images are; its option 1 is the full size."""
        names = (name for name, each in self.followers.items() if KnobTarget(INPUTS) in each)
        return next(names, None)

    def size_in(self, mode: Mapping[str, int]) -> int:
        """Return which option of the images' size a mode has; 1, the full size, without such a knob."""
        return 1 if self.size_knob is None else mode[self.size_knob]

    def full_at(self, size: int) -> Mode:
        """Return the full mode, but for the option of the images' size."""
        knob = self.size_knob
        return self.space.full if knob is None else self.space.full.replace({knob: size})


class Method(Protocol):
    """A way to make a network dynamic: a row of the paper's Table I. One file each.

    One whose modes a bundle can hold says so by an attribute, `fits_bundle = True`: its layers tell their
    part of each weight by `views` (`layers.roles.HasViews`). What sets another module than those and
    norms has a graph of its own for each option.
    """

    def plan(self, model: nn.Module, graph: TracedGraph) -> Plan:
        """Return how `model`, a copy that may be taken apart, becomes dynamic.

        Raises `ValueError` where nothing in it can be switched.
        """
        ...

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        ...
