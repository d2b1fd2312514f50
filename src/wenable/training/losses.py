"""The loss of a pass: a cross-entropy on targets that fit it, on the full mode's answers, or your own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from wenable.core.reasons import first_line
from wenable.modules.batch_parts import described
from wenable.modules.targets import check_scores, check_targets
from wenable.training.config import TrainConfig

Loss = Callable[[Any, Any], torch.Tensor]
"""Of the outputs of a network and targets, as they come: one number, the mean over the examples."""

NEVER_MEANT = -100
"""What `torch.nn.CrossEntropyLoss` ignores where nobody said so: not taken for a wish."""

_ELEMENT_BY_ELEMENT = (
    nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss,
)  # fmt: skip
_FUNCTIONS = (
    nn.functional.mse_loss, nn.functional.l1_loss, nn.functional.smooth_l1_loss,
    nn.functional.huber_loss, nn.functional.binary_cross_entropy,
    nn.functional.binary_cross_entropy_with_logits,
)  # fmt: skip

_OF_SHARES = (nn.BCELoss, nn.BCEWithLogitsLoss)
_FUNCTIONS_OF_SHARES = _FUNCTIONS[-2:]


def is_cross_entropy(loss_function: Loss) -> bool:
    """Say whether a loss is PyTorch's cross-entropy of class scores."""
    return (
        isinstance(loss_function, nn.CrossEntropyLoss)
        or loss_function is nn.functional.cross_entropy
    )


def name_of(loss_function: Loss) -> str:
    """Return what a loss is called, for an error."""
    return getattr(loss_function, "__name__", type(loss_function).__name__)


def loss_of_run(loss: Loss | None, config: TrainConfig, net: nn.Module) -> Loss:
    """Return the loss that a run of a network trains with: the one given, or the cross-entropy.

    Raises `ValueError` for what is no loss, for one with parameters to learn that are not the network's,
    and for settings that mean nothing to it.
    """
    if loss is None:
        return nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    if isinstance(loss, type):
        raise ValueError(f"`loss` is the class {loss.__name__}; give one of it: {loss.__name__}()")
    if not callable(loss):
        raise ValueError(
            f"`loss` (a {type(loss).__name__}) must be called as loss(outputs, targets), as"
            " torch.nn.MSELoss() is"
        )
    _check_nothing_to_learn(loss, net)
    if config.label_smoothing:
        raise ValueError(
            f"`label_smoothing` (={config.label_smoothing}) is a setting of the default loss; set it to 0,"
            " and give your own loss its smoothing: torch.nn.CrossEntropyLoss(label_smoothing=...)"
        )
    mixed = [name for name in ("mixup", "cutmix") if getattr(config, name)]
    if mixed and not is_cross_entropy(loss):
        raise ValueError(
            f"`{mixed[0]}` (={getattr(config, mixed[0])}) mixes classes, and `loss` is {name_of(loss)}: set"
            " it to 0"
        )
    ignored = getattr(loss, "ignore_index", NEVER_MEANT)
    if mixed and ignored != NEVER_MEANT:
        raise ValueError(
            f"`{mixed[0]}` (={getattr(config, mixed[0])}) makes shares of classes of the labels, and `loss`"
            f" ignores a label (`ignore_index`={ignored}), which has no share: set it to 0"
        )
    check_loss(loss, config)
    return loss


def _check_nothing_to_learn(loss: Loss, net: nn.Module) -> None:
    parameters = loss.named_parameters() if isinstance(loss, nn.Module) else ()
    trained = set(net.parameters())
    for name, parameter in parameters:
        if parameter.requires_grad and parameter not in trained:
            raise ValueError(
                f"`loss` ({name_of(loss)}) has parameters, as {name!r}, which would be neither trained nor"
                " saved: put them into the network, or freeze them (`loss.requires_grad_(False)`)"
            )


def check_loss(loss_function: Loss, config: TrainConfig) -> None:
    """Raise `ValueError` where a loss does not go with the settings of a run."""
    name = name_of(loss_function)
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


def check_for(loss_function: Loss, outputs: Any, targets: Any) -> None:
    """Raise `ValueError` where a loss of these outputs and targets would mean nothing.

    - `targets`: of the whole batch, wherever they are; `outputs`: of a part of it at least.

    That is known of PyTorch's cross-entropy, and of its losses that compare element by element, which
    would spread the smaller over the larger. What another loss takes is for that loss to say.
    """
    if is_cross_entropy(loss_function):
        check_scores(outputs)
        check_classes_of(loss_function, targets, (len(targets), *outputs.shape[1:]))
    elif isinstance(loss_function, nn.NLLLoss) or loss_function is nn.functional.nll_loss:
        _check_logarithms(loss_function, outputs)
    elif isinstance(loss_function, _ELEMENT_BY_ELEMENT) or loss_function in _FUNCTIONS:
        _check_alike(loss_function, outputs, targets)


def check_classes_of(loss_function: Loss, targets: torch.Tensor, scores: tuple[int, ...]) -> None:
    """Raise `ValueError` unless targets fit a cross-entropy, but for the label that it ignores."""
    ignored = getattr(loss_function, "ignore_index", NEVER_MEANT)
    if ignored != NEVER_MEANT and targets.numel() and bool((targets == ignored).all()):
        raise ValueError(
            f"all labels of a batch are `ignore_index` (={ignored}), and the mean over none is NaN: leave"
            " out examples without any other label, or take larger batches"
        )
    check_targets(without_ignored(loss_function, targets), scores)


def without_ignored(loss_function: Loss, targets: torch.Tensor) -> torch.Tensor:
    """Return targets with class 0 in the place of the label that a loss was told to ignore."""
    ignored = getattr(loss_function, "ignore_index", NEVER_MEANT)
    if ignored == NEVER_MEANT or targets.is_floating_point():
        return targets
    return torch.where(targets == ignored, 0, targets)


def _check_alike(loss_function: Loss, outputs: Any, targets: Any) -> None:
    if not (isinstance(outputs, torch.Tensor) and isinstance(targets, torch.Tensor)):
        raise ValueError(
            f"{name_of(loss_function)} compares one tensor with another; the network gives back"
            f" {described(outputs)}, and the targets are {described(targets)}: give a function that picks"
            " what to compare, as loss=lambda outputs, targets: ..."
        )
    if outputs.shape[1:] != targets.shape[1:]:
        raise ValueError(
            f"{name_of(loss_function)} compares element by element, and the outputs of shape"
            f" (N, {', '.join(map(str, outputs.shape[1:]))}) have another shape than the targets"
            f" {tuple(targets.shape)}: one would be spread over the other"
        )
    if not (targets.is_floating_point() or targets.is_complex()):
        raise ValueError(
            f"{name_of(loss_function)} compares with floats, and the targets are {targets.dtype}: give"
            " targets.float()"
        )
    if targets.is_complex() or not targets.numel():
        return
    low, high = (float(each) for each in targets.float().aminmax())
    if low != low:
        raise ValueError(f"the targets of {name_of(loss_function)} hold NaN")
    of_shares = isinstance(loss_function, _OF_SHARES) or loss_function in _FUNCTIONS_OF_SHARES
    if of_shares and (low < 0 or high > 1):
        raise ValueError(
            f"the targets of {name_of(loss_function)} are from {low:.4g} to {high:.4g}; they must be shares"
            " from 0 to 1, as 0 and 1 for no and yes"
        )


def _check_logarithms(loss_function: Loss, outputs: Any) -> None:
    """What is above 0 is no logarithm of a share, and the loss of it has no bottom."""
    if isinstance(outputs, torch.Tensor) and outputs.numel():
        most = float(outputs.detach().amax())
        if most > 1e-3:
            raise ValueError(
                f"{name_of(loss_function)} takes logarithms of class shares, at most 0, and the outputs go"
                f" up to {most:.4g}: end the network with log_softmax, or give torch.nn.CrossEntropyLoss()"
            )


def shares_of_parts(loss_function: Loss, parts: Sequence[tuple[Any, float]]) -> list[float]:
    """Return how much of a batch's loss each of its parts is, so that their sum is the loss of the batch.

    That is their share of the examples, but where PyTorch's loss of classes takes its mean over the labels
    that it does not ignore, each as its class weighs.

    - `parts`: the targets of each, and its share of the examples.
    """
    examples = [share for _, share in parts]
    if len(parts) == 1 or not isinstance(loss_function, nn.CrossEntropyLoss | nn.NLLLoss):
        return examples
    weights = [_weight_of_labels(loss_function, targets) for targets, _ in parts]
    known = [each for each in weights if each is not None]
    if len(known) < len(parts) or not sum(known):
        return examples
    return [each / sum(known) for each in known]


def _weight_of_labels(
    loss_function: nn.CrossEntropyLoss | nn.NLLLoss, targets: Any
) -> float | None:
    """Return what a loss divides by for its mean over labels; None for shares of classes."""
    if not isinstance(targets, torch.Tensor) or targets.is_floating_point():
        return None
    counted = targets[targets != loss_function.ignore_index].long()
    of_class = loss_function.weight
    return float(counted.numel() if of_class is None else of_class[counted].sum())


def loss_of(loss_function: Loss, outputs: Any, targets: Any) -> torch.Tensor:
    """Return the loss of a pass; labels of a cross-entropy may be of any whole or floating type.

    Raises `ValueError` where it cannot be had, or is not one number that has a gradient.
    """
    if is_cross_entropy(loss_function):
        shares = torch.promote_types(outputs.dtype, torch.float32)
        targets = targets.to(shares if targets.is_floating_point() else torch.long)
    try:
        loss = loss_function(outputs, targets)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ValueError(
            f"the loss ({name_of(loss_function)}) fails where the network gives back {described(outputs)}"
            f" and the targets are {described(targets)}: {type(error).__name__}: {first_line(error)}"
        ) from error
    _check_number(loss_function, loss)
    return loss.reshape(())


def _check_number(loss_function: Loss, loss: Any) -> None:
    what = f"the loss ({name_of(loss_function)}) must return one number for a batch, as a tensor"
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        found = tuple(loss.shape) if isinstance(loss, torch.Tensor) else described(loss)
        raise ValueError(f"{what}; it returned {found}")
    if not loss.is_floating_point():
        kind = str(loss.dtype).removeprefix("torch.")
        raise ValueError(f"{what} of floating type; it returned {kind}, which has no gradient")
    if not loss.requires_grad:
        raise ValueError(
            f"{what} with a gradient; what it returned has none: it was computed from detached outputs,"
            " under torch.no_grad, or from the targets alone"
        )


def taught_loss(outputs: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy with what the full mode answered, class shares of shape of the outputs.

    Without label smoothing: the answers are soft already, and smoothing is for labels.
    """
    return nn.functional.cross_entropy(outputs.float(), answers)
