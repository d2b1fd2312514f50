"""A static network: nothing in it switches, and its only mode is the network itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from wenable.core.space import Knob, Space
from wenable.graph import TracedGraph
from wenable.methods.plan import LeftAlone, Plan
from wenable.methods.remaining import kind_of, remaining

KNOB = "static"
_KEPT = "is left as it is: a static network switches nothing"


@dataclass(frozen=True)
class Static:
    """Leave a network as it is, with one mode: so a bundle can hold it, alone or beside others.

    `join` puts a small static network beside a large one, as the field's big/little pairs are, or a
    ladder of networks of one family. Every layer is listed in `left_alone`; batch norms are not switched.
    The mode is called `"full"` or `"1"`.

    >>> import torch
    >>> from wenable import convert
    >>> convert(nn.Sequential(nn.Linear(8, 4)), torch.ones(1, 8), method=Static()).space.size
    1
    """

    fits_bundle: ClassVar[bool] = True

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return {"method": "static"}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Static:
        """Return the method written by `to_json`; raises `ValueError` where it is not one."""
        if values.get("method") != "static":
            raise ValueError(f"`method` (={values.get('method')!r}) is not 'static'")
        return cls()

    def plan(self, model: nn.Module, graph: TracedGraph) -> Plan:
        """Return a plan with one mode, which replaces nothing."""
        return Plan(
            space=Space((Knob(KNOB, (1,)),)),
            replacements={},
            followers={KNOB: ()},
            layers=(),
            left_alone=self._left_alone(model, graph),
            method=self,
        )

    def _left_alone(self, model: nn.Module, graph: TracedGraph) -> tuple[LeftAlone, ...]:
        names = dict.fromkeys(call.module for call in graph.layers)
        kinds = {name: kind_of(model.get_submodule(name)) for name in names}
        kept = [LeftAlone(name, kind, graph.macs(name), _KEPT) for name, kind in kinds.items()]
        return (*kept, *remaining(model, graph, names))
