"""What a method did not look at: every other layer and parameter that multiplies, with the reason."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from wenable.graph import TracedGraph, weight_hooks
from wenable.methods.plan import LeftAlone

# Modules with a weight; all but the tables multiply with it.
_TABLES = (nn.Embedding, nn.EmbeddingBag)
_WITH_WEIGHTS = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.Bilinear,
    nn.RNNBase,
    nn.RNNCellBase,
    *_TABLES,
)
# Class names that are read letter by letter.
_SPELLED = frozenset("LSTM LSTMCell RNN RNNCell".split())


def remaining(
    model: nn.Module,
    graph: TracedGraph,
    known: Iterable[str],
    kinds: str = "plain torch.nn.Conv2d or Linear",
) -> list[LeftAlone]:
    """Return what multiplies in a network besides the layers that a method knows, in execution order.

    Those are layers of other kinds, parametrized ones, parameters that a module's own code
    multiplies with, and layers that the example does not reach.

    - `known`: the layers that the method switches, or leaves alone by itself; `kinds`: what it switches.
    """
    seen = {*known, ""}
    modules = dict(model.named_modules())
    reached = [product.owner for product in graph.products]
    others = [name for name, module in modules.items() if isinstance(module, _WITH_WEIGHTS)]
    found = []
    for name in dict.fromkeys((*reached, *others)):
        if name in seen:
            continue
        module = modules.get(name)
        if module is None:
            found.append(_of_parameter(name, model, graph))
        else:
            reason = why(name, module, graph, kinds)
            found.append(LeftAlone(name, kind_of(module), graph.macs(name), reason))
    return found


def why(
    name: str, module: nn.Module, graph: TracedGraph, known: str = "plain torch.nn.Conv2d or Linear"
) -> str:
    """Return why a module with a weight is not one of the layers that switch.

    - `known`: what the method switches.
    """
    computed = parametrization(module)
    if computed:
        return computed
    if name not in graph.ends and not any(product.owner == name for product in graph.products):
        return "is not reached by the example input"
    if isinstance(module, _TABLES):
        return "looks up rows of its weight, and multiplies nothing"
    if name in graph.computed_weights:
        return "has its weight computed before its use, or used in another way besides"
    return f"is {_a(module)}, not a {known}"


def parametrization(module: nn.Module) -> str:
    """Return which parametrization computes the weight of a module, and the way out; or nothing."""
    if is_parametrized(module):
        lists = list(module.parametrizations.values())  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        names = ", ".join(dict.fromkeys(type(each).__name__.lstrip("_") for each in lists[0]))
        way_out = "torch.nn.utils.parametrize.remove_parametrizations"
    elif weight_hooks(module):
        hooks = [type(hook) for hook in weight_hooks(module).values()]
        names = ", ".join(dict.fromkeys(hook.__name__ for hook in hooks))
        way_out = "the function of torch.nn.utils that removes it"
    else:
        return ""
    return f"has its weight computed by a parametrization ({names}); {way_out} makes it plain"


def kind_of(module: nn.Module) -> str:
    """Return what a module is called in a report."""
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return "transposed convolution"
    if isinstance(module, nn.modules.conv._ConvNd):
        return "convolution"
    return "dense" if isinstance(module, nn.Linear) else type(module).__name__


def _of_parameter(name: str, model: nn.Module, graph: TracedGraph) -> LeftAlone:
    owner = model.get_submodule(name.rpartition(".")[0])
    what = "parameter" if name in dict(model.named_parameters()) else "buffer"
    operations = [each.operation for each in graph.products if each.owner == name]
    by = " and ".join(dict.fromkeys(operations))
    kind = type(owner).__name__
    reason = f"is a {what} of {kind}, used by {by}: not the weight of a layer of torch.nn"
    return LeftAlone(name, kind, graph.macs(name), reason)


def _a(module: nn.Module) -> str:
    name = type(module).__name__
    return f"{'an' if name in _SPELLED else 'a'} {name}"
