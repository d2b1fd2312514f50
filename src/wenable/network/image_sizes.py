"""What a network costs at each size of its images, and whether it runs there at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from wenable.core.reasons import first_line
from wenable.core.space import Mode
from wenable.modules.copying import copy_network
from wenable.modules.outputs import named_leaves
from wenable.modules.passes import in_eval_mode, same_random_numbers
from wenable.network.dynamic_network import DynamicNetwork
from wenable.network.recounting import Counts, recount


def counts_of_sizes(
    net: DynamicNetwork, inputs: tuple[Any, ...], expected: Sequence[torch.Tensor]
) -> dict[int, Counts]:
    """Return what a new network costs at each smaller size, by the option of its knob; {} without one.

    - `inputs`, `expected`: the example, and the outputs for it in the full mode.

    Raises `ValueError` if the network does not run on smaller images, or its outputs have another
    shape then and are no maps with fewer positions.
    """
    state = net._wenable
    knob = state.plan.size_knob
    if knob is None:
        return {}
    found = {}
    for option in net.space.knobs[net.space.position(knob)].options[1:]:
        mode = net._wenable.plan.full_at(option)
        _check_outputs(net, mode, inputs, expected)
        found[option] = recount(net, state.structure, state.plan, net._traced_anew(option))
    return found


def modes_of_sizes(net: DynamicNetwork) -> tuple[Mode, ...]:
    """Return the full mode at each size of the images; none where no knob says how large they are."""
    plan = net._wenable.plan
    if plan.image_sizes is None:
        return ()
    return tuple(plan.full_at(option) for option in plan.image_sizes.sides)


def maps_that_shrink(net: DynamicNetwork) -> tuple[str, ...]:
    """Return the outputs that are maps, and have a smaller size in a mode with smaller images.

    By name, as `"out"` of a dict; the only output of a network is `"output"`. Empty for a network whose
    outputs have one shape in all modes.

    >>> import wenable as we
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1))
    >>> net = we.convert(model, torch.ones(1, 3, 8, 8), method=we.ImageSize((8, 6)))
    >>> maps_that_shrink(net)
    ('output',)
    """
    shapes = [_shapes(net, mode, net.example_batch) for mode in modes_of_sizes(net)]
    if not shapes:
        return ()
    return tuple(name for name, shape in shapes[0].items() if shapes[-1][name] != shape)


def _shapes(net: DynamicNetwork, mode: Mode, inputs: tuple[Any, ...]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the outputs; a copy runs, for what a network keeps of a pass."""
    twin = copy_network(net)
    with torch.no_grad(), in_eval_mode(twin), same_random_numbers(twin), twin.using(mode):
        leaves = named_leaves(twin(*inputs))
    return {
        name or "output": tuple(each.shape)
        for name, each in leaves
        if isinstance(each, torch.Tensor)
    }


def _check_outputs(
    net: DynamicNetwork, mode: Mode, inputs: tuple[Any, ...], expected: Sequence[torch.Tensor]
) -> None:
    sizes = net._wenable.plan.image_sizes
    assert sizes is not None
    full, sides = sizes.sides[1], sizes.sides[net._wenable.plan.size_in(mode)]
    at = f"on images of {sides[0]}x{sides[1]}"
    try:
        found = _shapes(net, mode, inputs)
    except Exception as error:  # the model's own code raises whatever it likes
        raise ValueError(
            f"`model` (={net.original_class.__name__}) does not run {at}, a size of `sizes`: its layers"
            f" or positions are made for {full[0]}x{full[1]}: {first_line(error)}"
        ) from error
    if len(found) != len(expected):
        raise ValueError(
            f"`model` (={net.original_class.__name__}) gives {len(found)} outputs {at}, and"
            f" {len(expected)} of {full[0]}x{full[1]}; it must give as many at every size"
        )
    for (name, shape), whole in zip(found.items(), expected, strict=True):
        if shape != tuple(whole.shape) and not _shrinks(tuple(whole.shape), shape):
            raise ValueError(
                f"{name!r} of `model` (={net.original_class.__name__}) has shape {shape} {at}, and"
                f" {tuple(whole.shape)} of {full[0]}x{full[1]}; allowed: one shape at every size, or maps"
                " (N, C, H, W) that are smaller where the image is"
            )


def _shrinks(whole: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Say whether maps have the same channels and fewer positions, on both sides."""
    if len(whole) != 4 or len(shape) != 4 or whole[:2] != shape[:2]:
        return False
    return all(small < large for large, small in zip(whole[2:], shape[2:], strict=True))
