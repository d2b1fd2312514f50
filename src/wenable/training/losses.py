"""The loss of a pass: a cross-entropy on targets that fit it, and on the full mode's answers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from wenable.modules.targets import check_scores, check_targets
from wenable.training.config import TrainConfig

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
NEVER_MEANT = -100
"""What `torch.nn.CrossEntropyLoss` ignores where nobody said so: not taken for a wish."""


def is_cross_entropy(loss_function: Loss) -> bool:
    """Say whether a loss is PyTorch's cross-entropy of class scores."""
    return (
        isinstance(loss_function, nn.CrossEntropyLoss)
        or loss_function is nn.functional.cross_entropy
    )


def check_loss(loss_function: Loss, config: TrainConfig) -> None:
    """Raise `ValueError` where a loss does not go with the settings of a run."""
    name = getattr(loss_function, "__name__", type(loss_function).__name__)
    if config.distillation and not is_cross_entropy(loss_function):
        raise ValueError(
            "`config` has `distillation`, where modes learn the class shares that the full one answers;"
            f" that needs a cross-entropy, and `loss_function` is {name}"
        )
    if config.grad_accum_steps > 1 and getattr(loss_function, "reduction", "mean") != "mean":
        raise ValueError(
            f"`grad_accum_steps` (={config.grad_accum_steps}) adds up the means of the parts of a batch;"
            f" the reduction of `loss_function` ({name}) must be 'mean'"
        )


def check_for(loss_function: Loss, outputs: object, targets: torch.Tensor) -> None:
    """Raise `ValueError` where a cross-entropy of these outputs and targets would mean nothing.

    - `targets`: of the whole batch, wherever they are; `outputs`: of a part of it at least.

    What another loss takes is for that loss to say.
    """
    if not is_cross_entropy(loss_function):
        return
    check_scores(outputs)
    assert isinstance(outputs, torch.Tensor)
    ignored = getattr(loss_function, "ignore_index", NEVER_MEANT)
    if ignored != NEVER_MEANT and not targets.is_floating_point():
        targets = torch.where(targets == ignored, 0, targets)
    check_targets(targets, (len(targets), *outputs.shape[1:]))


def loss_of(loss_function: Loss, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the loss of a pass on labels, which may be of any whole or floating type.

    Raises `ValueError` where it is not one number.
    """
    if is_cross_entropy(loss_function):
        shares = torch.promote_types(outputs.dtype, torch.float32)
        targets = targets.to(shares if targets.is_floating_point() else torch.long)
    loss = loss_function(outputs, targets)
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        raise ValueError(
            "`loss_function` must return one number for a batch, as a tensor; it returned"
            f" {tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__}"
        )
    return loss.reshape(())


def taught_loss(outputs: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy with what the full mode answered, class shares of shape of the outputs.

    Without label smoothing: the answers are soft already, and smoothing is for labels.
    """
    return nn.functional.cross_entropy(outputs.float(), answers)
