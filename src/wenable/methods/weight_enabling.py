"""Flexible weight-enabling, the paper's method: layers that run as 1, 2, 4, ... groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from torch import nn

from wenable.core.cost_table import CostTable
from wenable.core.setting_types import as_tuple, check_flags
from wenable.core.space import Knob, Space
from wenable.graph import LayerCall, TracedGraph, calls_by_module, shared_modules
from wenable.methods.norms import switchable_norms
from wenable.methods.plan import LeftAlone, Plan, Shuffle, SwitchableLayer
from wenable.methods.remaining import kind_of, remaining
from wenable.methods.switchable_kinds import KNOWN, channels_of, refusal, weight_enabled

ShufflePlacement = Literal["first", "all", "none"]
Chosen: TypeAlias = str | Sequence[str] | Callable[[str, nn.Module], bool]


@dataclass(frozen=True)
class WeightEnabling:
    """Make layers switchable between numbers of independent groups (WeNet, section III).

    - `groups`: the options offered, a chain of divisors from 1: each divides the next, so that the
      blocks of a finer option lie inside those of a coarser one.
    - `shuffle`: which layers read their input shuffled. `"first"`: in each block the first layer
      that reads another switchable layer of the block (behind the first 1x1 convolution of a
      bottleneck, as in section IV-B); `"all"`: every layer that reads what another switchable
      layer wrote; `"none"`.
    - `classifier`: whether the layers that write the network's outputs switch too: the last ones on
      every way to each of them (`wenable.graph.last_layers`).
    - `attention`: whether the layers that write queries, keys and values for attention, and those
      that read its output, switch too.
    - `only`, `exclude`: the layers to switch, or not to: name patterns as `"layer4.*"`, one or
      several, or a function of a layer's name and module.
    - `groups_of`: other options for some layers, as `{"layer1.*": (1, 2)}`; the last match counts.
    - `worth`: the options worth having of some layers, by name, as `paying` finds them; it takes away
      what the settings above offer. `worth_on`: the device they are of.
    - `tie`: `"block"` gives the layers of a block one knob, named like the block, so that they run
      at the same n.

    Raises `ValueError` for an empty or repeated chain, one whose blocks do not nest, or an unknown
    policy; and when it meets a network, for a name pattern that fits none of its layers.

    >>> WeightEnabling(groups=(1, 2, 4)).shuffle
    'first'
    """

    fits_bundle: ClassVar[bool] = True

    groups: tuple[int, ...] = (1, 2, 4, 8, 16)
    shuffle: ShufflePlacement = "first"
    classifier: bool = False
    attention: bool = False
    only: Chosen | None = None
    exclude: Chosen = ()
    groups_of: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    tie: Literal["none", "block"] = "none"
    worth: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    worth_on: str = ""

    def __post_init__(self) -> None:
        example = "(1, 2, 4)"
        chains = {name: as_tuple("groups_of", c, example) for name, c in self.groups_of.items()}
        object.__setattr__(self, "groups", as_tuple("groups", self.groups, example))
        check_flags(self, "classifier")
        object.__setattr__(self, "groups_of", chains)
        worth = {name: tuple(chain) for name, chain in self.worth.items()}
        object.__setattr__(self, "worth", worth)
        for chosen in ("only", "exclude"):
            value = getattr(self, chosen)
            if value is None and chosen == "exclude":
                object.__setattr__(self, chosen, ())
            elif value is not None and not callable(value):
                names = (
                    (value,) if isinstance(value, str) else as_tuple(chosen, value, "('layer1.*',)")
                )
                object.__setattr__(self, chosen, names)
        for chain in (self.groups, *chains.values(), *worth.values()):
            _check_groups(chain)
        if self.tie not in ("none", "block"):
            raise ValueError(f"`tie` (={self.tie!r}) is unknown; allowed: 'none', 'block'")
        if self.shuffle not in get_args(ShufflePlacement):
            raise ValueError(
                f"`shuffle` (={self.shuffle!r}) is unknown; allowed: 'first', 'all', 'none'"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values; raises `ValueError` where one is a function."""
        if callable(self.only) or callable(self.exclude):
            raise ValueError("`only` and `exclude` cannot be written down where they are functions")
        return {
            "method": "weight-enabling",
            "groups": list(self.groups),
            "shuffle": self.shuffle,
            "classifier": self.classifier,
            "attention": self.attention,
            "only": None if self.only is None else list(self.only),
            "exclude": list(self.exclude),
            "groups_of": {name: list(chain) for name, chain in self.groups_of.items()},
            "tie": self.tie,
            "worth": {name: list(chain) for name, chain in self.worth.items()},
            "worth_on": self.worth_on,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> WeightEnabling:
        """Return the method written by `to_json`; raises `ValueError` where it is not one."""
        if values.get("method") != "weight-enabling":
            raise ValueError(f"`method` (={values.get('method')!r}) is unknown to this version")
        try:
            only = values["only"]
            return cls(
                groups=tuple(int(n) for n in values["groups"]),
                shuffle=values["shuffle"],
                classifier=bool(values["classifier"]),
                attention=bool(values["attention"]),
                only=None if only is None else tuple(map(str, only)),
                exclude=tuple(map(str, values["exclude"])),
                groups_of={
                    str(name): tuple(int(n) for n in chain)
                    for name, chain in values["groups_of"].items()
                },
                tie=values["tie"],
                # Older files have neither.
                worth={
                    str(name): tuple(int(n) for n in chain)
                    for name, chain in values.get("worth", {}).items()
                },
                worth_on=str(values.get("worth_on", "")),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"`values` is not the JSON form of the method: {error}") from error

    def paying(self, table: CostTable) -> WeightEnabling:
        """Return the method without the options that a device runs no faster than a coarser one.

        They would cost passes and accuracy in training and return nothing. What the table does not have,
        whole layers or single options, was not measured, and stays.

        Raises `ValueError` with `tie`, whose knobs are no layers.

        >>> from wenable.core.space import Knob, Space
        >>> space = Space((Knob("conv", (1, 2, 4)),))
        >>> table = CostTable(space, "ms", 0.0, {"conv": {1: 3.0, 2: 3.5, 4: 2.0}}, device="a board")
        >>> WeightEnabling((1, 2, 4, 8)).paying(table).worth
        {'conv': (1, 4, 8)}
        """
        if self.tie != "none":
            raise ValueError(
                f"`tie` (={self.tie!r}) makes one knob of several layers, and a cost table has one for each"
            )
        measured = {knob.name: knob.options for knob in table.space.knobs}
        worth = {
            name: tuple(n for n in self._chain(name) if n in kept or n not in measured[name])
            for name, kept in table.without_slower_options().items()
        }
        return replace(self, worth=worth, worth_on=table.device)

    def plan(self, model: nn.Module, graph: TracedGraph) -> Plan:
        """Return which layers of a traced network switch, with their norms and shuffles.

        Raises `ValueError` where no layer can be switched, with the reason for the first few, for
        a batch norm of a class that is not known, and for a name pattern that fits no layer.
        """
        calls = calls_by_module(graph.layers)
        own, left_alone = self._sort_out(model, graph, calls)
        if not own:
            few = "; ".join(_most_frequent_reasons(left_alone))
            raise ValueError(
                f"`model` (={type(model).__name__}) has nothing to switch"
                + (f": {few}" if few else ": nothing in it multiplies with a weight")
            )
        knobs = _tied(own) if self.tie == "block" else own
        shuffles = self._place_shuffles(knobs, calls)
        replacements: dict[str, nn.Module] = {}
        layers = []
        for name, knob in knobs.items():
            layer, shuffle = model.get_submodule(name), shuffles.get(name)
            groups = shuffle.groups if shuffle else 1
            replacements[name] = weight_enabled(layer, own[name], groups, calls[name])
            layers.append(_describe(name, layer, graph.macs(name), knob, shuffle))
        norms, followers = switchable_norms(model, graph, knobs, unfreeze=True)
        return Plan(
            space=Space(tuple(dict.fromkeys(knobs.values()))),
            replacements={**replacements, **norms},
            followers=followers,
            layers=tuple(layers),
            left_alone=tuple(left_alone),
            method=self._without_functions(tuple(own)),
        )

    def _without_functions(self, switched: tuple[str, ...]) -> WeightEnabling:
        """Return the same settings with the layers named, where a function chose them."""
        if not callable(self.only) and not callable(self.exclude):
            return self
        return replace(self, only=switched, exclude=())

    def _sort_out(
        self, model: nn.Module, graph: TracedGraph, calls: Mapping[str, Sequence[LayerCall]]
    ) -> tuple[dict[str, Knob], list[LeftAlone]]:
        """Return the knobs in execution order, and every other layer with its reason."""
        shared = shared_modules(model)
        knobs, left_alone = {}, []
        named = [name for name, module in model.named_modules() if channels_of(module)]
        names = tuple(dict.fromkeys((*calls, *named)))
        others = remaining(model, graph, names, KNOWN)
        self._check_names((*names, *(each.name for each in others)))
        for name in names:
            module = model.get_submodule(name)
            reason = refusal(module, name, calls.get(name, ()), graph, shared)
            reason = reason or self._choice(name, module, graph)
            if not reason:
                knob = self._knob(module, name)
                if len(knob.options) > 1:
                    knobs[name] = knob
                    continue
                reason = self._why_one_option(module, name, knob)
            left_alone.append(LeftAlone(name, kind_of(module), graph.macs(name), reason))
        return knobs, [*left_alone, *others]

    def _check_names(self, names: tuple[str, ...]) -> None:
        """Refuse name patterns that fit no layer: a typing error would pass for a choice."""
        settings = {"only": self.only, "exclude": self.exclude, "groups_of": tuple(self.groups_of)}
        unknown = next((name for name in self.worth if name not in names), None)
        if unknown is not None:
            raise ValueError(
                f"`worth` names {unknown!r}, which is no layer of the network: it is of another network"
            )
        for setting, globs in settings.items():
            for glob in () if globs is None or callable(globs) else globs:
                if not any(fnmatchcase(name, glob) for name in names):
                    few = ", ".join(map(repr, names[:4]))
                    raise ValueError(
                        f"`{setting}` names {glob!r}, which fits no layer of the network; its"
                        f" {len(names)} layers with weights are {few}, ..."
                    )

    def _choice(self, name: str, module: nn.Module, graph: TracedGraph) -> str:
        """Return why a layer stays by choice, or an empty text."""
        if self.only is not None and not _is_chosen(self.only, name, module):
            return "is not among `only`"
        if _is_chosen(self.exclude, name, module):
            return "is among `exclude`"
        if not self.classifier and name in graph.classifiers:
            single = len(graph.classifiers) == 1
            what = (
                "is the classifier" if single else "writes an output of the network, among others"
            )
            return f"{what}; `classifier=True` switches it"
        if not self.attention and name in graph.attention:
            return "serves attention; `attention=True` switches it"
        return ""

    def _why_one_option(self, module: nn.Module, name: str, knob: Knob) -> str:
        """Return why a layer is left with no option above 1."""
        if len(replace(self, worth={})._knob(module, name).options) > 1:
            return f"runs no faster in groups than as a whole on {self.worth_on or 'the device'}"
        sizes = " and ".join(f"{size} {label}" for label, size in knob.must_divide)
        return f"has {sizes}, which no option above 1 divides"

    def _knob(self, module: nn.Module, name: str) -> Knob:
        noun = "neurons" if isinstance(module, nn.Linear) else "channels"
        inputs, outputs = channels_of(module)
        groups = self._chain(name)
        worth = self.worth.get(name, groups)
        options = tuple(n for n in groups if n in worth and inputs % n == 0 and outputs % n == 0)
        sizes = ((f"input {noun}", inputs), (f"output {noun}", outputs))
        return Knob(name, options, sizes)

    def _chain(self, name: str) -> tuple[int, ...]:
        """Return the numbers of groups that are offered to a layer."""
        chains = [chain for each, chain in self.groups_of.items() if fnmatchcase(name, each)]
        return chains[-1] if chains else self.groups

    def _place_shuffles(
        self, knobs: Mapping[str, Knob], calls: Mapping[str, Sequence[LayerCall]]
    ) -> dict[str, Shuffle]:
        """Return the shuffle on the input of each layer that has one.

        A layer that is called several times has it if all its calls would have the same one.
        """
        shuffles: dict[str, Shuffle] = {}
        blocks_done = set()
        for name in knobs:
            block = _block(name, knobs)
            if self.shuffle == "first" and block in blocks_done:
                continue
            found = {self._shuffle_of(call, block, knobs) for call in calls[name]}
            shuffle = found.pop() if len(found) == 1 else None
            if shuffle is None:
                continue
            blocks_done.add(block)
            fits = all(_reads_as_channels(call) for call in calls[name])
            if fits and shuffle.channels % shuffle.groups == 0:
                shuffles[name] = shuffle
        return shuffles

    def _shuffle_of(self, call: LayerCall, block: str, knobs: Mapping[str, Knob]) -> Shuffle | None:
        """Return the shuffle that one call of a layer asks for; None for none."""
        origin = call.input
        wrote = [each for each in origin.producers if each in knobs] if origin else []
        if self.shuffle == "none" or origin is None or not wrote:
            return None
        if self.shuffle == "first":
            inside = len(wrote) == len(origin.producers) and all(
                _block(each, knobs) == block for each in wrote
            )
            if not inside:
                return None
        return Shuffle(max(knobs[each].options[-1] for each in wrote), origin.width)


def _reads_as_channels(call: LayerCall) -> bool:
    """Whether what the producers wrote as channels is what this layer reads as channels."""
    origin = call.input
    assert origin is not None
    return origin.axis == call.axis and origin.width == call.input_shape[call.axis]


def _most_frequent_reasons(left_alone: Sequence[LeftAlone], count: int = 3) -> list[str]:
    """Return why most layers stay, each reason with the first layer it holds for."""
    layers: dict[str, list[str]] = {}
    for each in left_alone:
        layers.setdefault(each.reason, []).append(each.name)
    most = sorted(layers.items(), key=lambda reason_and_names: -len(reason_and_names[1]))[:count]
    return [
        f"{names[0]!r} {reason}" + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
        for reason, names in most
    ]


def _is_chosen(chosen: Chosen, name: str, module: nn.Module) -> bool:
    if callable(chosen):
        return bool(chosen(name, module))
    return any(fnmatchcase(name, glob) for glob in chosen)


def _tied(own: Mapping[str, Knob]) -> dict[str, Knob]:
    """Return one knob for all layers of a block, with the options that each of them has."""
    blocks: dict[str, list[str]] = {}
    for name in own:
        blocks.setdefault(_block(name, own), []).append(name)
    knobs: dict[str, Knob] = {}
    for block, names in blocks.items():
        options = set(own[names[0]].options).intersection(*(own[n].options for n in names))
        sizes = tuple(dict.fromkeys(size for name in names for size in own[name].must_divide))
        shared = Knob(block or "network", tuple(sorted(options)), sizes)
        knobs |= dict.fromkeys(names, shared)
    return {name: knobs[name] for name in own}


def _check_groups(groups: tuple[int, ...]) -> None:
    rule = "it must be a chain of divisors from 1, as in (1, 2, 4, 8, 16)"
    if not groups:
        raise ValueError(f"`groups` (={groups}) is empty; {rule}")
    if not all(type(n) is int and n > 0 for n in groups):
        raise ValueError(f"`groups` (={groups}) must hold whole numbers above 0; {rule}")
    if len(set(groups)) != len(groups):
        raise ValueError(f"`groups` (={groups}) repeats an option; {rule}")
    if groups[0] != 1:
        raise ValueError(f"`groups` (={groups}) does not start at 1, the full network; {rule}")
    for coarse, fine in pairwise(groups):
        if fine % coarse:
            raise ValueError(
                f"`groups` (={groups}) does not nest: {coarse} does not divide {fine}; {rule}"
            )


def _describe(
    name: str, module: nn.Module, macs: int, knob: Knob, shuffle: Shuffle | None
) -> SwitchableLayer:
    inputs, outputs = channels_of(module)
    return SwitchableLayer(
        name=name,
        knob=knob.name,
        kind=kind_of(module),
        options=knob.options,
        inputs=inputs,
        outputs=outputs,
        macs=macs,
        weights=module.get_parameter("weight").numel(),
        shuffle=shuffle,
    )


def _block(name: str, knobs: Mapping[str, Knob]) -> str:
    """Return the nearest container that holds a second switchable layer besides this one."""
    parent = name.rpartition(".")[0]
    while parent:
        if sum(other.startswith(f"{parent}.") for other in knobs) > 1:
            return parent
        parent = parent.rpartition(".")[0]
    return ""
