"""Records the operations of a forward pass on real tensors.

`torch.export` runs a network on fake tensors, which have sizes and no values. Whatever the network
keeps for its next pass (a position table behind `lru_cache`, anchors in its class, a global dict) is
then fake too, for this network and for every other that shares it. A pass on real tensors leaves
real values behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from wenable.core.reasons import first_line
from wenable.modules.outputs import tensors_of


@dataclass(frozen=True, slots=True)
class Recording:
    """The operations of one pass, in order.

    - `nodes`: each knows the modules that ran it (`nn_module_stack`) and what it wrote (`val`).
    - `names`: the name of a node that is a parameter or buffer -> its qualified name. Other tensors
      that were there before the pass, as what the network keeps of an earlier one, are `get_attr`.
    """

    nodes: tuple[Node, ...]
    names: dict[str, str]


def record(model: nn.Module, inputs: tuple[Any, ...], *, used_only: bool = False) -> Recording:
    """Run a network, without gradients, and return its operations.

    - `used_only`: leave out those that no output depends on.

    Raises `ValueError` when its code does what cannot be recorded.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    places = [place for place, each in enumerate(inputs) if isinstance(each, torch.Tensor)]

    def run(_: list[torch.Tensor], given: list[torch.Tensor]) -> list[torch.Tensor]:
        whole = list(inputs)
        for place, each in zip(places, given, strict=True):
            whole[place] = each
        return tensors_of(model(*whole))

    # Copies: a network may write into its input, and one tensor may be given twice.
    given = [inputs[place].detach().clone() for place in places]
    try:
        with torch.no_grad(), _noting_modules(model):
            traced = make_fx(run, tracing_mode="real", pre_dispatch=True)(
                list(tensors.values()), given
            )
    except Exception as error:  # the model's own code raises whatever it likes
        raise ValueError(
            f"`model` (={type(model).__name__}) cannot be traced with this `example_input`:"
            f" {first_line(error)}{_way_out(model)}"
        ) from error
    if used_only:
        traced.graph.eliminate_dead_code()
    nodes = tuple(traced.graph.nodes)
    placeholders = [node.name for node in nodes if node.op == "placeholder"]
    return Recording(nodes, dict(zip(placeholders, tensors, strict=False)))


def _way_out(model: nn.Module) -> str:
    """Return what can be converted instead: the part of the network that holds most of its weights."""
    sizes = {
        name: sum(parameter.numel() for parameter in child.parameters())
        for name, child in model.named_children()
    }
    if len(sizes) < 2 or not any(sizes.values()):
        return ""
    name = max(sizes, key=lambda each: sizes[each])
    share = round(100 * sizes[name] / sum(sizes.values()))
    return (
        f"; convert a part of it that can be: {name!r} holds {share} % of its weights, and"
        f" `model.{name} = wenable.convert(model.{name}, INPUT_OF_THAT_PART)` puts it back in place"
    )


@contextmanager
def _noting_modules(model: nn.Module) -> Iterator[None]:
    """Note at every operation that is recorded inside the block which modules were running."""
    names = {id(module): name for name, module in model.named_modules()}
    running: list[tuple[str, type]] = []
    newest: list[Node] = []

    def note() -> None:
        """Give the operations since the last call the modules that have been running since."""
        mode: Any = get_proxy_mode()
        if mode is None:
            return
        graph: Graph = mode.tracer.graph
        stack = {each[0]: each for each in running}
        for node in reversed(graph.nodes):
            if newest and node is newest[0]:
                break
            node.meta.setdefault("nn_module_stack", stack)
        newest[:] = [next(iter(reversed(graph.nodes)))] if graph.nodes else []

    def enter(module: nn.Module, _: Any) -> None:
        if id(module) in names:
            note()
            running.append((names[id(module)], type(module)))

    def leave(module: nn.Module, *_: Any) -> None:
        if id(module) in names and running:
            note()
            running.pop()

    hooks = (
        register_module_forward_pre_hook(enter),
        register_module_forward_hook(leave, always_call=True),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
