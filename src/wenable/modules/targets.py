"""Whether targets fit the outputs of a network: classes, or shares of classes, and nothing else."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import torch

from wenable.modules.batch_parts import described

ROUNDING = {torch.float16: 1e-2, torch.bfloat16: 1e-2}
"""How far from one the shares of an example may sum up; 1e-3 in the other types."""


def check_scores(outputs: Any) -> None:
    """Raise `ValueError` unless outputs are class scores `(N, classes)` or `(N, classes, ...)`."""
    if not isinstance(outputs, torch.Tensor):
        what = described(outputs)
        if is_dataclass(outputs) and not isinstance(outputs, type):
            what += f" with the fields {', '.join(each.name for each in fields(outputs))}"
        raise ValueError(
            f"the network's outputs ({what}) must be one tensor (N, classes): wrap the network in a"
            " module that returns its class scores alone, and convert that; or give a `loss` (or a"
            " `metric`) of your own, which takes any outputs"
        )
    if outputs.ndim < 2 or not outputs.is_floating_point():
        raise ValueError(
            f"the network's outputs ({_kind(outputs)}) must be class scores of shape (N, classes),"
            " or (N, classes, ...) where each position has a class"
        )
    if outputs.shape[1] < 2:
        raise ValueError(
            f"the network has one output for each example (shape {tuple(outputs.shape)}): over one"
            " class every accuracy is 1 and every cross-entropy 0; give it an output for each class, or"
            " train it with a `loss` of its own, as torch.nn.BCEWithLogitsLoss()"
        )


def check_targets(targets: torch.Tensor, scores: tuple[int, ...]) -> None:
    """Raise `ValueError` unless a cross-entropy of class scores and these targets has a meaning.

    - `targets`: whole numbers of shape `(N,)` or `(N, ...)`, from 0 to `classes - 1`; or shares
      of shape `(N, classes)` or `(N, classes, ...)`, which sum up to one for each example.
    - `scores`: the shape of the outputs, `(N, classes)` or `(N, classes, ...)`.

    >>> check_targets(torch.tensor([0, 2]), (2, 3))
    >>> check_targets(torch.tensor([3]), (1, 3))
    Traceback (most recent call last):
        ...
    ValueError: `labels` (from 3 to 3) must be classes from 0 to 2, as many as the network has outputs
    """
    numbers = (scores[0], *scores[2:])
    if targets.dtype == torch.bool or targets.is_complex():
        ways = " (`labels.long()`)" if targets.dtype == torch.bool else ""
        raise ValueError(f"`labels` ({_kind(targets)}) must be {_allowed(scores)}{ways}")
    expected = scores if targets.is_floating_point() else numbers
    if tuple(targets.shape) != expected:
        raise ValueError(
            f"`labels` ({_kind(targets)}) must be {_allowed(scores)}; for other targets give a"
            " `loss`, as torch.nn.MSELoss()"
        )
    if not targets.numel():
        raise ValueError(f"a batch is empty: its `labels` are {_kind(targets)}")
    if targets.is_floating_point():
        _check_shares(targets)
    else:
        check_range(targets, scores[1])


def check_classes(outputs: Any, labels: torch.Tensor) -> None:
    """Raise `ValueError` unless outputs `(N, classes)` and labels `(N,)` of whole numbers fit."""
    check_scores(outputs)
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if outputs.ndim != 2 or labels.shape != outputs.shape[:1] or not whole:
        raise ValueError(
            f"`labels` ({_kind(labels)}) must hold one class, a whole number, for each of the"
            f" outputs ({_kind(outputs)})"
        )
    if len(labels):
        check_range(labels, outputs.shape[1])


def check_range(labels: torch.Tensor, classes: int) -> None:
    """Raise `ValueError` unless whole numbers are classes from 0 to `classes - 1`."""
    low, high = (int(each) for each in labels.long().aminmax())
    if low < 0 or high >= classes:
        raise ValueError(
            f"`labels` (from {low} to {high}) must be classes from 0 to {classes - 1}, as many as the"
            f" network has outputs{_ignored(low, high)}"
        )


def _ignored(low: int, high: int) -> str:
    """Return how a label that looks like one to be ignored is named."""
    if high == 255:
        return "; to ignore 255 name it: loss=torch.nn.CrossEntropyLoss(ignore_index=255)"
    if low == -100:
        return (
            "; -100 is what PyTorch ignores unasked: give another number to what is to be ignored, as"
            " 255, and name it: loss=torch.nn.CrossEntropyLoss(ignore_index=255)"
        )
    return ""


def _check_shares(shares: torch.Tensor) -> None:
    if not bool(shares.isfinite().all()):
        raise ValueError("`labels` hold NaN or infinity; shares of classes are from 0 to 1")
    allowed, exact = ROUNDING.get(shares.dtype, 1e-3), shares.double()
    low, high = (float(each) for each in exact.aminmax())
    if low < -allowed or high > 1 + allowed:
        raise ValueError(
            f"`labels` ({_kind(shares)}, from {low:.4g} to {high:.4g}) are read as shares of classes,"
            " which are from 0 to 1"
        )
    sums = exact.sum(1)
    worst = float(sums.flatten()[(sums - 1).abs().argmax()])
    if abs(worst - 1) > allowed:
        raise ValueError(
            f"the shares in `labels` sum up to {worst:.4g} for an example; they must sum up to 1:"
            " several classes at once (multi-label) take loss=torch.nn.BCEWithLogitsLoss()"
        )


def _allowed(scores: tuple[int, ...]) -> str:
    numbers = (scores[0], *scores[2:])
    return (
        f"classes, whole numbers of shape {numbers}, or shares of classes, of shape {tuple(scores)}"
    )


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
