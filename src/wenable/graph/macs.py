"""How many multiply-accumulates an operation takes: one rule for each kind, from its shapes alone.

The rules are for operations as a network writes them (`linear`, `lstm`,
`scaled_dot_product_attention`), and not for the kernels that compute them, so that a count does not
depend on which kernel ran. Operations without a rule are either made of some that have one, or sum no
products of two tensors: additions, norms, activations, pooling, lookups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

CountRule = Callable[[tuple[Any, ...], Any], int]
"""The positional arguments and the output of an operation -> its multiply-accumulates."""


def macs_of(name: str, args: tuple[Any, ...], output: Any) -> int:
    """Return the multiply-accumulates of one operation, for all that its input holds.

    - `name`: as `operation_name` gives it; `args`: its positional arguments, tensors of any kind
      (only shapes are read); `output`: what it returned.

    >>> x, weight = torch.empty(4, 10, 64), torch.empty(128, 64)
    >>> macs_of("linear", (x, weight), torch.empty(4, 10, 128)) == 4 * 10 * 64 * 128
    True
    >>> macs_of("relu", (x,), x)
    0
    """
    rule = RULES.get(name)
    return rule(args, output) if rule else 0


def operation_name(target: Any) -> str:
    """Return the name of an operation without its overload, as `"conv2d"`."""
    schema = getattr(target, "_schema", None)
    if schema is not None:
        return schema.name.removeprefix("aten::")
    return getattr(target, "__name__", str(target))


# --- the rules ------------------------------------------------------------------------------------


def _inner(args: tuple[Any, ...], output: torch.Tensor) -> int:
    """Each number of the output is a sum over what the weight has behind its first dimension."""
    return output.numel() * math.prod(args[1].shape[1:])


def _transposed(args: tuple[Any, ...], _output: torch.Tensor) -> int:
    """Each number of the input goes to what the weight has behind its first dimension."""
    return args[0].numel() * math.prod(args[1].shape[1:])


def _convolution(args: tuple[Any, ...], output: torch.Tensor) -> int:
    return _transposed(args, output) if args[6] else _inner(args, output)


def _sequence_convolution(args: tuple[Any, ...], output: torch.Tensor) -> int:
    return output.numel() * math.prod(args[1].shape[:-1])  # its weight is (kernel, inputs, outputs)


def _bilinear(args: tuple[Any, ...], output: torch.Tensor) -> int:
    return output.numel() * math.prod(args[2].shape[1:])


def _product(args: tuple[Any, ...], _output: Any) -> int:
    """(..., n, k) with (..., k, m); of a sparse matrix only what it holds is multiplied."""
    matrix = args[0]
    entries = matrix.numel() if matrix.layout == torch.strided else matrix._nnz()
    return entries * args[1].shape[-1]


def _product_added(args: tuple[Any, ...], output: Any) -> int:
    return _product(args[1:], output)


def _product_with_vector(args: tuple[Any, ...], _output: Any) -> int:
    return args[0].numel()


def _product_with_vector_added(args: tuple[Any, ...], _output: Any) -> int:
    return args[1].numel()


def _matmul(args: tuple[Any, ...], output: torch.Tensor) -> int:
    return output.numel() * args[0].shape[-1] if args[0].ndim else 0


def _attention(args: tuple[Any, ...], output: Any) -> int:
    """Queries with keys, and what comes of it with values; masked positions count."""
    query, key, value = args[:3]
    result = output if isinstance(output, torch.Tensor) else output[0]
    pairs = math.prod(result.shape[:-1]) * key.shape[-2]
    return pairs * (query.shape[-1] + value.shape[-1])


def _recurrent(args: tuple[Any, ...], _output: Any) -> int:
    """Every weight matrix is used once at each step of each sequence.

    The steps of packed sequences lie one after the other, without padding; their lengths are the
    second argument.
    """
    packed = isinstance(args[1], torch.Tensor) and isinstance(args[3], list | tuple)
    weights = args[3] if packed else args[2]
    return math.prod(args[0].shape[:-1]) * _matrices(weights)


def _cell(args: tuple[Any, ...], _output: Any) -> int:
    return math.prod(args[0].shape[:-1]) * _matrices(args[2:4])


def _matrices(weights: Iterable[torch.Tensor]) -> int:
    return sum(each.numel() for each in weights if each.ndim == 2)  # biases have one dimension


RULES: dict[str, CountRule] = {
    **dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d", "torchvision::deform_conv2d"), _inner),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    **dict.fromkeys(("convolution", "_convolution", "convolution_overrideable"), _convolution),
    "conv_tbc": _sequence_convolution,
    "bilinear": _bilinear,
    "matmul": _matmul,
    **dict.fromkeys(("mm", "bmm", "_int_mm", "_scaled_mm", "_sparse_mm"), _product),
    **dict.fromkeys(("mv", "dot", "vdot"), _product_with_vector),
    **dict.fromkeys(("addmm", "_addmm_activation", "baddbmm", "addbmm"), _product_added),
    "addmv": _product_with_vector_added,
    **dict.fromkeys(("scaled_dot_product_attention", "flex_attention"), _attention),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), _cell),
}

LAYERS = frozenset(
    (
        *("linear", "conv1d", "conv2d", "conv3d", "torchvision::deform_conv2d", "conv_tbc"),
        *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "bilinear"),
        *("convolution", "_convolution", "convolution_overrideable"),
    )
)
"""The operations that have a weight: one argument that says what is done to the other."""


def weight_of(name: str, args: tuple[Any, ...]) -> Any:
    """Return the weight among the arguments of an operation of `LAYERS`."""
    return args[2] if name == "bilinear" else args[1]
