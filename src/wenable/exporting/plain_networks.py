"""The plain network of a mode as exporters want it: tensors in, tensors out, each with a name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule
from torchvision.ops import FrozenBatchNorm2d

from wenable.core.space import ModeChoice
from wenable.exporting.fake_tensors import without_fakes_left
from wenable.exporting.image_sizes import Sides, at_size
from wenable.layers.frozen_norm import as_batch_norm
from wenable.layers.image_size import SmallerImagesFirst
from wenable.modules.copying import copy_network, put_in_place
from wenable.modules.example_inputs import ExampleInput
from wenable.modules.outputs import OutputNames, output_names, tensors_of
from wenable.modules.passes import in_eval_mode, same_random_numbers
from wenable.network.dynamic_network import DynamicNetwork
from wenable.network.extraction import extract


def check_exportable(net: DynamicNetwork, what: str) -> OutputNames:
    """Return the names of a network's outputs; refuses, before any work, what no file can hold.

    - `what`: the file, for the refusal: `"a bundle"`.

    Raises `ValueError` for weights that are not float32 or not finite, for a part of a name that
    torch.export keeps for itself, for answers of NaN, for those that are drawn by chance, and for outputs
    other than tensors, in tuples, lists, dicts, named tuples or dataclasses.
    """
    parts = (
        net.named_children(),
        net.named_parameters(recurse=False),
        net.named_buffers(recurse=False),
    )
    for name in (name for named in parts for name, _ in named):
        if hasattr(GraphModule, name) and not hasattr(nn.Module, name):
            raise ValueError(
                f"`net` has a part called {name!r}, a name that torch.export keeps for itself: call it"
                " something else in the class of the model, and convert that"
            )
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(
                f"`net` holds {name!r} in {kind}; {what} holds networks in float32: export"
                " copy.deepcopy(net).float()"
            )
    for name, parameter in net.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise ValueError(f"`net` has NaN or infinite weights in {name!r}; nothing was written")
    with same_random_numbers(net):
        # Copies run, for what a network keeps of a pass, one after the other: with other random numbers.
        first, second = _one_pass(net), _one_pass(net)
    names = output_names(first, what)
    for each in (*tensors_of(first), *tensors_of(second)):
        if bool(each.isnan().any()):
            raise ValueError(
                f"`net` answers NaN to random numbers, and {what} cannot be checked by them: keep what its"
                " roots, logarithms and quotients read within their range, as by clamp(min=1e-6)"
            )
    if any(map(_differs, tensors_of(first), tensors_of(second))):
        raise ValueError(
            f"`net` gives other answers each time that it runs on the same input, since it draws random"
            f" numbers in eval mode; {what} cannot be checked then, nor give the same twice: draw them"
            " outside of the network and give them to it as an input, or only `if self.training`"
        )
    return names


def _one_pass(net: DynamicNetwork) -> Any:
    tried = copy_network(net)
    with torch.no_grad(), in_eval_mode(tried):
        return tried(*tried.example_batch)


def _differs(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Say whether two answers differ by more than the order of sums may make of them.

    Infinities are the same where they stand in the same places.
    """
    if one.shape != other.shape:
        return True
    one, other = (torch.view_as_real(x) if x.is_complex() else x.double() for x in (one, other))
    finite = one[one.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    return not torch.allclose(one, other, rtol=1e-2, atol=1e-3 * largest, equal_nan=True)


def tensor_inputs(
    net: DynamicNetwork, own_size: ModeChoice | None = None, sides: Sides | None = None
) -> tuple[torch.Tensor, ...]:
    """Return the tensors among the inputs of a network's example, on the CPU, for one example.

    - `own_size`: a mode whose images are wanted as large as it makes them.
    - `sides`: another size of images than the example's.
    """
    example = at_size(net.example_batch, sides)
    sizes = net._wenable.plan.image_sizes
    if own_size is not None and sizes is not None:
        with net.using(own_size):
            example = sizes(example)
    return tuple(each.cpu() for each in example if isinstance(each, torch.Tensor))


def other_numbers(
    example: tuple[torch.Tensor, ...], batch: int | None = None
) -> tuple[torch.Tensor, ...]:
    """Return other numbers than an example's, for as many examples or for `batch`.

    Whole numbers may be indices, and stay those of the example.
    """
    generator = torch.Generator().manual_seed(1)
    made = []
    for each in example:
        count = len(each) if batch is None else batch
        if each.is_floating_point():
            drawn = torch.randn(count, *each.shape[1:], generator=generator)
            made.append(drawn.to(each.dtype))
        else:
            made.append(each[:1].repeat(count, *[1] * (each.ndim - 1)))
    return tuple(made)


def plain_for_export(net: DynamicNetwork, mode: ModeChoice, *, own_size: bool = False) -> nn.Module:
    """Return the extracted network of a mode, on the CPU, with tensors for inputs and outputs.

    Other inputs are those of the network's example. Several outputs are a tuple. The network keeps
    its class, as a base of its new one, and the names of its parameters.

    - `own_size`: without what makes images smaller: it takes them as small as the mode has them.
    """
    plain = extract(net, mode).cpu().eval()
    if own_size and isinstance(plain, SmallerImagesFirst):
        plain = plain.network
    frozen = {
        name: as_batch_norm(module)
        for name, module in plain.named_modules()
        if type(module) is FrozenBatchNorm2d
    }
    put_in_place(plain, frozen)  # one operation, which engines fold, instead of many
    kind = type(plain)
    plain.__class__ = type(kind.__name__, (_TensorsOnly, kind), {})
    plain.__dict__["wenable_inputs"] = net._wenable.example
    return plain


class _TensorsOnly(nn.Module):
    """What `plain_for_export` adds to the class of a network."""

    wenable_inputs: tuple[ExampleInput, ...]

    def forward(self, *tensors: torch.Tensor) -> Any:
        """Run the network on its tensors and return its own: the only one, or a tuple."""
        given = iter(tensors)
        inputs = [next(given) if each.is_tensor else each.value for each in self.wenable_inputs]
        found = tensors_of(super().forward(*inputs))
        return found[0] if len(found) == 1 else tuple(found)


def input_names(net: DynamicNetwork) -> list[str]:
    """Return the names that the network's own forward has for its tensor inputs."""
    parameters = list(inspect.signature(net.original_class.forward).parameters.values())[1:]
    names = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    example = net._wenable.example
    names += [f"input_{place}" for place in range(len(names), len(example))]
    return [name for name, each in zip(names, example, strict=False) if each.is_tensor]


@contextmanager
def traced_by_exporter(plain: nn.Module, example: tuple[torch.Tensor, ...]) -> Iterator[None]:
    """Let an exporter trace a network, which is thrown away then, inside the block.

    It has run on the same sizes before, so what it keeps is there. What the trace keeps outside of
    the network is cleared away.
    """
    with torch.no_grad():
        plain(*example)
        with without_fakes_left(plain):
            yield
