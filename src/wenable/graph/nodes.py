"""Reading the nodes of a traced graph: the name of an operation, shapes, arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from wenable.graph.macs import operation_name

# Operations whose result shares its memory with their first argument.
VIEWS = tuple(
    """
    select slice narrow view reshape flatten squeeze unsqueeze unflatten permute transpose expand
    split split_with_sizes chunk getitem detach alias unbind movedim t
    """.split()
)
# Operations on single values, or on several that lie in one place.
ELEMENTWISE = """
    relu relu6 hardtanh silu hardswish hardsigmoid sigmoid tanh gelu leaky_relu elu selu celu mish
    softplus log_softmax logsigmoid softmax clamp clamp_min clamp_max abs neg exp log sqrt rsqrt
    square dropout alpha_dropout feature_dropout clone contiguous detach to _to_copy alias type_as
    float copy add sub mul div pow maximum minimum where addcmul lerp
""".split()
# Operations along the last dimensions, as many as the name says.
OVER_MAPS = """
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d
    reflection_pad1d reflection_pad2d reflection_pad3d
    replication_pad1d replication_pad2d replication_pad3d
""".split()


def operation(node: Node) -> str:
    """Return the name of an operation, as `"conv2d"`; empty for a node that calls nothing."""
    return operation_name(node.target) if node.op == "call_function" else ""


def shape_of(argument: Any) -> tuple[int, ...]:
    """Return the shape of a tensor; empty for anything else."""
    value = argument.meta.get("val") if isinstance(argument, Node) else None
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    """Return an argument that may be given by position or by name."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)
