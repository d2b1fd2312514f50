"""How a layer in an option is executed on an engine: in how many groups, and how it is shuffled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

Shuffling = Literal["gather", "gather last", "transpose", "stored"]
"""How an input is brought into the order in which a layer reads it.

- `"gather"`: channel by channel, as whole maps; cheap where an engine keeps maps apart.
- `"gather last"`: position by position, with the channels last; cheap where an engine keeps the
  channels of a position together, as OpenVINO does: nothing changes its layout then. In a dense
  layer, whose channels are last as they are, it is a gather.
- `"transpose"`: as the paper says, by splitting, turning and joining the channels.
- `"stored"`: the layer before stores its outputs in that order; see `stored_order.py`.
"""

FILLS_VECTORS = 16
"""Channels of a group that fill a vector unit of 512 bits; groups are merged up to it by default."""


@dataclass(frozen=True, slots=True)
class BundleLayer:
    """A layer that switches, as a bundle knows it.

    - `shuffle_groups`: its input is read in the order of a shuffle of that many groups, 1 for none.
    - `pointwise`: a convolution that is a product at every position: kernel and stride 1, no padding.
    """

    name: str
    knob: str
    options: tuple[int, ...]
    inputs: int
    outputs: int
    shuffle_groups: int = 1
    pointwise: bool = False

    def input_order(self) -> np.ndarray | None:
        """Return the order in which the inputs are read, shape `(inputs,)`; None for their own."""
        if self.shuffle_groups in (1, self.inputs):
            return None
        return np.arange(self.inputs).reshape(self.shuffle_groups, -1).T.ravel()


@dataclass(frozen=True, slots=True)
class Implementation:
    """One way to execute an option.

    - `groups`: as how many groups it runs, the option's or fewer: the finer blocks then lie in
      coarser ones, with zeros around them. 1 is the whole layer, whose columns need no shuffle.
    - `shuffling`: how the input is brought into order where that is needed.
    - `product`: a pointwise convolution as one batched matrix product.
    """

    groups: int
    shuffling: Shuffling = "gather"
    product: bool = False

    def __str__(self) -> str:
        how = ", product" if self.product else ""
        return (f"{self.groups} groups, {self.shuffling}" if self.groups > 1 else "dense") + how

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        return {"groups": self.groups, "shuffling": self.shuffling, "product": self.product}

    @classmethod
    def from_json(cls, values: Any) -> Implementation:
        """Return what `to_json` wrote; raises `ValueError` where it is not that."""
        try:
            groups, shuffling, product = (
                values["groups"], values["shuffling"], values["product"],
            )  # fmt: skip
        except (KeyError, TypeError) as error:
            raise ValueError(f"an implementation (={values!r}) lacks {error}") from error
        if type(groups) is not int or groups < 1 or shuffling not in get_args(Shuffling):
            raise ValueError(f"an implementation (={values!r}) needs `groups` and `shuffling`")
        return cls(groups, shuffling, bool(product))


def implementations_of(layer: BundleLayer, option: int) -> tuple[Implementation, ...]:
    """Return all ways to execute an option, as written first.

    >>> layer = BundleLayer("conv", "conv", (1, 2, 4), 8, 8, shuffle_groups=4)
    >>> [str(each) for each in implementations_of(layer, 2)]
    ['2 groups, gather', '2 groups, gather last', '2 groups, transpose', 'dense']
    """
    shufflings: tuple[Shuffling, ...] = ("gather", "gather last", "transpose")
    if layer.input_order() is None:
        shufflings = ("gather",)
    finer = [n for n in sorted(layer.options, reverse=True) if 1 < n <= option]
    grouped = [Implementation(n, how) for n in finer for how in shufflings]
    products = [Implementation(n, product=True) for n in finer if layer.pointwise]
    return (*grouped, Implementation(1), *products)


def stored_implementations_of(layer: BundleLayer, option: int) -> tuple[Implementation, ...]:
    """Return the ways to execute an option where the layer before stores the shuffled order."""
    ways = implementations_of(layer, option)
    if layer.input_order() is None:
        return ()
    gathered = [each for each in ways if each.groups > 1 and each.shuffling == "gather"]
    return tuple(replace(each, shuffling="stored") for each in gathered)


def default_implementation(
    layer: BundleLayer, option: int, shuffling: Shuffling = "gather"
) -> Implementation:
    """Return what to do where nothing was measured: groups of at least 16 inputs, by a gather.

    - `shuffling`: the kind of gather.

    >>> str(default_implementation(BundleLayer("conv", "conv", (1, 2, 4, 8, 16), 64, 64, 8), 16))
    '4 groups, gather'
    """
    for n in sorted(layer.options, reverse=True):
        if n <= option and (layer.inputs // n >= FILLS_VECTORS or n == min(layer.options)):
            return Implementation(n, shuffling) if n > 1 else Implementation(1)
    return Implementation(option, shuffling)


def merged_last(layer: BundleLayer, option: int) -> Implementation:
    """Return groups of at least 16 inputs, by a gather with the channels last."""
    return default_implementation(layer, option, "gather last")


def gathered(layer: BundleLayer, option: int) -> Implementation:
    """Return the option's own groups, shuffled by a gather."""
    return Implementation(option)


def gathered_last(layer: BundleLayer, option: int) -> Implementation:
    """Return the option's own groups, shuffled by a gather with the channels last."""
    return Implementation(option, "gather last")


def whole(layer: BundleLayer, option: int) -> Implementation:
    """Return the whole layer with zeros: as fast as the full mode, and no faster."""
    return Implementation(1)


def as_written(layer: BundleLayer, option: int) -> Implementation:
    """Return the option's own groups, shuffled by transposes: what a plain export does."""
    return Implementation(option, "transpose")


def merged_transposed_weight(
    weight: np.ndarray, option: int, groups: int, order: np.ndarray | None
) -> np.ndarray:
    """Return the blocks of a transposed layer as the weight of one of fewer groups.

    - `weight`: the whole weight, shape `(inputs, outputs, *kernel)`; else as of `merged_weight`.

    Returns shape `(inputs, outputs / groups, *kernel)`, zero where nothing is enabled. With more than
    one group its rows are in the order in which the inputs are read.
    """
    inputs, outputs = weight.shape[:2]
    if option == 1:
        return weight
    rows, columns = inputs // option, outputs // option
    merged = np.zeros((inputs, outputs // groups, *weight.shape[2:]), weight.dtype)
    order = np.arange(inputs) if order is None else order
    for block in range(option):
        read = order[block * rows : (block + 1) * rows]
        enabled = weight[read, block * columns : (block + 1) * columns]
        start = block % (option // groups) * columns
        row = read if groups == 1 else slice(block * rows, (block + 1) * rows)
        merged[row, start : start + columns] = enabled
    return merged


def merged_weight(
    weight: np.ndarray, option: int, groups: int, order: np.ndarray | None
) -> np.ndarray:
    """Return the blocks that an option enables as the weight of a layer of fewer groups.

    - `weight`: the whole weight, shape `(outputs, inputs, *kernel)`.
    - `order`: in which the inputs are read, shape `(inputs,)`, or None for their own.

    Returns shape `(outputs, inputs / groups, *kernel)`, zero where nothing is enabled. With one
    group its columns are in their own order, so the input is not shuffled at all.
    """
    outputs, inputs = weight.shape[:2]
    if option == 1:
        return weight
    rows, columns = outputs // option, inputs // option
    merged = np.zeros((outputs, inputs // groups, *weight.shape[2:]), weight.dtype)
    order = np.arange(inputs) if order is None else order
    for block in range(option):
        row = slice(block * rows, (block + 1) * rows)
        read = order[block * columns : (block + 1) * columns]
        if groups == 1:
            merged[row, read] = weight[row, read]
        else:
            start = block % (option // groups) * columns
            merged[row, start : start + columns] = weight[row, read]
    return merged
