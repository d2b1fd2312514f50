"""Weight-enabling and precision in one space: a step beyond the paper, which has them apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import nn

from wenable.graph import TracedGraph
from wenable.methods.composition import FEWEST_BITS, Composition
from wenable.methods.plan import Method, Plan
from wenable.methods.precision import SwitchablePrecision
from wenable.methods.weight_enabling import ShufflePlacement, WeightEnabling

NAME = "weight-enabling-with-precision"


@dataclass(frozen=True)
class WeightEnablingWithPrecision:
    """Make layers switchable between numbers of groups and, besides, between numbers of bits.

    A short name for the list `[WeightEnabling(...), SwitchablePrecision(...)]`, with one `exclude`.

    Every layer that `WeightEnabling` switches has its knob of groups. The layers that
    `SwitchablePrecision` switches, depthwise ones among them, follow a knob of precision: in mode
    `1/4,precision=8-bit` they run as 4 groups at 8 bits, in `1/4` as 4 groups in floating point, and in
    `8-bit` whole at 8 bits. The full mode gives the bits of the original.

    - `groups`, `shuffle`, `classifier`: as of `WeightEnabling`.
    - `bits`: the precisions offered, from 32 down, out of 32, 16 and 8. Here norms
      are keyed by groups alone; fewer bits are for `SwitchablePrecision`, where each precision has
      norms of its own.
    - `tie`: `"network"`, one knob `precision` for all layers; `"none"`, one for each, named
      `precision.LAYER`.
    - `first_and_last`: as of `SwitchablePrecision`: whether the first layer and those that write the
      network's outputs are rounded too.
    - `exclude`: layers that stay whole and in floating point: name patterns as `"layer4.*"`.

    Low precision is simulated, as `SwitchablePrecision` says; `wenable.exporting.int8.export_int8`
    writes a mode of 8 bits, grouped as it is, for an engine that multiplies integers.

    Raises `ValueError` for settings that one of the two methods refuses, or fewer than 8 bits.

    >>> WeightEnablingWithPrecision(groups=(1, 2, 4)).bits
    (32, 8)
    """

    fits_bundle: ClassVar[bool] = True

    groups: tuple[int, ...] = (1, 2, 4, 8, 16)
    bits: tuple[int, ...] = (32, 8)
    shuffle: ShufflePlacement = "first"
    tie: Literal["network", "none"] = "network"
    classifier: bool = False
    first_and_last: bool = False
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        enabling, precision = self._enabling, self._precision  # they refuse what makes no sense
        object.__setattr__(self, "groups", enabling.groups)
        object.__setattr__(self, "bits", precision.bits)
        object.__setattr__(self, "exclude", precision.exclude)
        if self.bits[-1] < FEWEST_BITS:
            raise ValueError(
                f"`bits` (={self.bits}) goes below {FEWEST_BITS}, where each precision needs norms of"
                " its own; allowed: 32, 16, 8; SwitchablePrecision takes 4 and 2"
            )

    @property
    def _enabling(self) -> WeightEnabling:
        return WeightEnabling(
            self.groups, self.shuffle, classifier=self.classifier, exclude=self.exclude
        )

    @property
    def _precision(self) -> SwitchablePrecision:
        return SwitchablePrecision(self.bits, self.tie, self.first_and_last, self.exclude)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return {
            "method": NAME,
            "groups": list(self.groups),
            "bits": list(self.bits),
            "shuffle": self.shuffle,
            "tie": self.tie,
            "classifier": self.classifier,
            "first_and_last": self.first_and_last,
            "exclude": list(self.exclude),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> WeightEnablingWithPrecision:
        """Return the method written by `to_json`; raises `ValueError` where it is not one."""
        if values.get("method") != NAME:
            raise ValueError(f"`method` (={values.get('method')!r}) is not {NAME!r}")
        try:
            return cls(
                groups=tuple(int(n) for n in values["groups"]),
                bits=tuple(int(bits) for bits in values["bits"]),
                shuffle=values["shuffle"],
                tie=values["tie"],
                classifier=bool(values["classifier"]),
                first_and_last=bool(values["first_and_last"]),
                exclude=tuple(map(str, values["exclude"])),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"`values` is not the JSON form of the method: {error}") from error

    @property
    def parts(self) -> tuple[Method, ...]:
        """The two methods."""
        return (self._enabling, self._precision)

    def plan(self, model: nn.Module, graph: TracedGraph) -> Plan:
        """Return what switches in a traced network: the plans of the two methods, laid over each other.

        Norms and shuffles are those of weight-enabling. Raises `ValueError` where either method
        would: nothing to switch, a batch norm that is not known, a name pattern that fits no layer.
        """
        return replace(Composition(self.parts).plan(model, graph), method=self)
