"""Flexible depth: early exits with side branches (BranchyNet)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import fx, nn

from wenable.core.setting_types import as_tuple
from wenable.core.space import Knob, Space
from wenable.graph import Product, TracedGraph
from wenable.graph.narrowed import counts_of
from wenable.layers.exits import HEAD, KNOB, ExitPoint, with_exit, without_exit
from wenable.methods.own_parts import has_own_forward
from wenable.methods.plan import KnobTarget, Plan, SwitchableLayer

END = "end"


@dataclass(frozen=True)
class EarlyExits:
    """Let a forward pass end behind chosen modules, each with a side branch for an answer.

    There is one knob, `exit`, and a mode is written as the module behind which it ends, `layer1`, or
    `end`. As a number an exit is counted from the end of the network, which is 1. A branch averages
    over positions and multiplies by one weight; beside widths, by its first columns, for the channels
    that a width leaves. Branches are new weights, which have to be trained; the network's own keep
    their names, and the full mode gives the bits of the original.

    - `exits`: modules by qualified name, in any order, as `("layer1", "layer2")`. Each must write
      maps `(N, channels, H, W)` and be run once in a pass.

    Fixed exits are modes like any other: training them together with `train` is BranchyNet's joint
    loss, with `TrainConfig(passes=len(exits) + 1)` or fewer exits drawn in each step. For an exit by
    how sure it is of an input, see `wenable.cascades.early_exits`.

    Raises `ValueError` for no exits or one twice; and when it meets a network, for a module that it
    lacks or that cannot be an exit.

    Source: Teerapittayanon et al., BranchyNet: Fast Inference via Early Exiting from Deep Neural
    Networks (ICPR 2016); branches of one dense layer.

    >>> EarlyExits(("layer1", "layer2")).exits
    ('layer1', 'layer2')
    """

    fits_bundle: ClassVar[bool] = True

    exits: tuple[str, ...]

    def __post_init__(self) -> None:
        one = isinstance(self.exits, str)
        names = (self.exits,) if one else as_tuple("exits", self.exits, "('layer1', 'layer2')")
        object.__setattr__(self, "exits", names)
        if not names or not all(names):
            raise ValueError(
                f"`exits` (={names}) must name at least one module, and not the network itself"
            )
        if len(set(names)) != len(names):
            raise ValueError(f"`exits` (={names}) names a module more than once")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return {"method": "early-exits", "exits": list(self.exits)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> EarlyExits:
        """Return the method written by `to_json`; raises `ValueError` where it is not one."""
        if values.get("method") != "early-exits":
            raise ValueError(f"`method` (={values.get('method')!r}) is not 'early-exits'")
        try:
            return cls(tuple(map(str, values["exits"])))
        except (KeyError, TypeError) as error:
            raise ValueError(f"`values` is not the JSON form of the method: {error}") from error

    def plan(self, model: nn.Module, graph: TracedGraph) -> Plan:
        """Return the exits of a traced network, and what each mode runs.

        Raises `ValueError` for an exit that the network lacks, that is not reached, or that writes
        no maps; and where the network does not write classes `(N, classes)`.
        """
        shape = graph.ends[""].shape
        if len(shape) != 2:
            raise ValueError(f"the network's output (of shape {shape}) must be (N, classes)")
        for name in self.exits:
            _check_exit(name, model, graph)
        # From the end of the network: the position in this row is the option.
        row = ["", *sorted(self.exits, key=lambda name: -graph.ends[name].position)]
        labels = (END, *row[1:])
        knob = Knob(KNOB, tuple(range(1, len(row) + 1)), labels=labels)
        own = {name: _own_weights(module) for name, module in model.named_modules()}
        multiplying = {_module_of(product, own) for product in graph.products}
        like = next((each for each in model.parameters() if each.is_floating_point()), None)
        points = {
            name: with_exit(model.get_submodule(name), graph.ends[name].shape[1], shape[1], n, like)
            for n, name in enumerate(row, 1)
            if name
        }
        trunk = [
            _of_trunk(name, model.get_submodule(name), own, row, knob, graph)
            for name, weights in own.items()
            if name in multiplying or (weights and name in graph.ends)
        ]
        branches = [_of_branch(name, point, knob) for name, point in points.items()]
        return Plan(
            space=Space((knob,)),
            replacements=points,
            followers={KNOB: tuple(map(KnobTarget, points))},
            layers=(*trunk, *branches),
            left_alone=(),
            method=self,
            finish_extraction=functools.partial(_truncated, exits=tuple(points)),
        )


def _check_exit(name: str, model: nn.Module, graph: TracedGraph) -> None:
    try:
        model.get_submodule(name)
    except AttributeError:
        few = ", ".join(repr(each) for each in list(graph.ends)[1:5])
        raise ValueError(
            f"`exits` names {name!r}, which is no module of the network; its modules are {few}, ..."
        ) from None
    if name not in graph.ends:
        raise ValueError(f"`exits` names {name!r}, which is not reached by the example input")
    if has_own_forward(model.get_submodule(name)):
        raise ValueError(
            f"`exits` names {name!r}, which has a `forward` of its own, set on the instance, that would"
            " run in the place of the exit's; give it a class with that forward"
        )
    shape = graph.ends[name].shape
    if len(shape) != 4:
        raise ValueError(
            f"`exits` names {name!r}, which writes shape {shape}; an exit needs maps (N, channels, H, W)"
        )


def _own_weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters(recurse=False))


def _module_of(product: Product, modules: Mapping[str, int]) -> str:
    """Return the module that a product counts for: its weight's, or the one that ran it."""
    if not product.owner:
        return product.module
    return product.owner if product.owner in modules else product.owner.rpartition(".")[0]


def _of_trunk(
    name: str,
    module: nn.Module,
    own: Mapping[str, int],
    row: list[str],
    knob: Knob,
    graph: TracedGraph,
) -> SwitchableLayer:
    """Return what a module costs in each option: all that it runs up to the exit."""
    products = [each for each in graph.products if _module_of(each, own) == name]
    stops = [graph.ends[end].position for end in row]
    macs = [sum(each.macs for each in products if each.position <= stop) for stop in stops]
    macs = tuple(each // graph.examples for each in macs)
    # A module that is never entered, as one whose weight another uses, is done with its last product.
    end = graph.ends[name].position if name in graph.ends else products[-1].position
    weights = own[name]
    shape = next((each.shape for each in module.parameters(recurse=False)), (0,))
    return SwitchableLayer(
        name=name,
        knob=knob.name,
        kind=type(module).__name__,
        options=knob.options,
        inputs=shape[1] if len(shape) > 1 else shape[0],
        outputs=shape[0],
        macs=macs[0],
        weights=weights,
        shuffle=None,
        macs_by_option=macs,
        weights_by_option=tuple(weights if end <= stop else 0 for stop in stops),
    )


def _of_branch(name: str, point: nn.Module, knob: Knob) -> SwitchableLayer:
    """Return what a branch costs: its weights in one option, nothing in any other."""
    assert isinstance(point, ExitPoint)
    classes, channels = point.exit_weight.shape
    taken = [n == point.exit_option for n in knob.options]
    weights = point.exit_weight.numel() + point.exit_bias.numel()
    return SwitchableLayer(
        name=f"{name}.exit",
        knob=knob.name,
        kind="branch",
        options=knob.options,
        inputs=channels,
        outputs=classes,
        macs=0,
        weights=0,
        shuffle=None,
        macs_by_option=tuple(classes * channels if each else 0 for each in taken),
        weights_by_option=tuple(weights if each else 0 for each in taken),
    )


# --- with widths ----------------------------------------------------------------------------------


def read_by_width(exits: Plan, widths: Plan) -> Plan:
    """Return a plan of exits whose branches read the channels that a width leaves.

    - `widths`: the plan of the same network that narrows it, by one knob.
    """
    (width,), (knob,) = widths.space.knobs, exits.space.knobs
    points = {name: each for name, each in exits.replacements.items() if name in widths.written}
    layers = {layer.name: layer for layer in exits.layers}
    for name, point in points.items():
        assert isinstance(point, ExitPoint)
        kept = widths.written[name]
        point.narrow_exit(dict(zip(width.options, kept, strict=True)))
        branch = layers[f"{name}.exit"]
        macs = tuple(branch.outputs * each for each in counts_of(kept))
        layers[branch.name] = replace(
            branch,
            knob=width.name,
            options=width.options,
            macs_by_option=macs,
            weights_by_option=tuple(each + branch.outputs for each in macs),  # with the bias
            exit_knob=knob.name,
            runs_from=point.exit_option,
            runs_until=point.exit_option,
        )
    targets = tuple(KnobTarget(name, setter="set_exit_width") for name in points)
    followers = {**exits.followers, width.name: targets}
    return replace(exits, layers=tuple(layers.values()), followers=followers)


# --- extraction -----------------------------------------------------------------------------------


class _Tracer(fx.Tracer):
    """Follows the forward passes of the modules around one, and looks into no other."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not self.name.startswith(f"{module_qualified_name}.")


def _truncated(plain: nn.Module, exits: tuple[str, ...]) -> nn.Module:
    """Return a copy of the network in one mode without exits: cut off behind the one it stops at."""
    end, head = "", None
    for name in exits:
        point = plain.get_submodule(name)
        assert isinstance(point, ExitPoint)
        if point.stops:
            end, head = name, point.exit_head()
        without_exit(point)
    return plain if head is None else _cut(plain, end, head)


def _cut(plain: nn.Module, end: str, head: nn.Module) -> nn.Module:
    """Return the part of a network up to the module `end`, and `head` behind it."""
    try:
        graph = _Tracer(end).trace(plain)
    except Exception as error:  # whatever the network's own code raises at a stand-in
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"the network up to {end!r} cannot be extracted: torch.fx does not trace it: {first_line}"
        ) from error
    last = next(node for node in graph.nodes if node.op == "call_module" and node.target == end)
    for node in reversed(list(graph.nodes)):
        if node is last:
            break
        graph.erase_node(node)
    plain.add_module(HEAD, head)
    graph.output(graph.call_module(HEAD, (last,)))
    cut = fx.GraphModule(plain, graph, type(plain).__name__)
    return cut.train(plain.training)
