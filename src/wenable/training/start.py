"""What is asked of a network and its data before the first step of a run; nothing is changed here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from wenable.modules.batch_parts import Inputs, check_labels, inputs_and_targets
from wenable.modules.passes import device_of, in_eval_mode
from wenable.modules.processes import failing_together, texts_of_all_processes
from wenable.modules.structures import names_in, same_names
from wenable.modules.targets import check_range, check_scores
from wenable.network.dynamic_network import DynamicNetwork
from wenable.network.net_checks import check_dynamic
from wenable.training.config import TrainConfig
from wenable.training.loading import batches_in_memory, batches_per_epoch, labels_in_memory
from wenable.training.losses import (
    Loss,
    check_classes_of,
    is_cross_entropy,
    loss_of_run,
    without_ignored,
)
from wenable.training.mixing import Mix, mixing
from wenable.training.sampling import modes_of_pool


@dataclass(frozen=True)
class Start:
    """What is known of a run before its first step.

    - `batches`: of an epoch; `loss`: what it trains with; `scores`: the shape of the class scores for
      one example, if that is a cross-entropy; `mix`: MixUp or CutMix as the settings say.
    """

    batches: int
    loss: Loss
    scores: tuple[int, ...]
    mix: Mix

    def check(self, inputs: Inputs, targets: Any) -> None:
        """Raise `ValueError` where the targets of a batch do not fit the outputs, if that is known.

        How large maps of outputs are can depend on the input; the step compares that.
        """
        if not self.scores:
            return
        check_labels(inputs, targets)
        whole = not targets.is_floating_point()
        rest = self.scores[2:]
        if targets.ndim == len(self.scores) - whole:
            rest = targets.shape[1 if whole else 2 :]
        check_classes_of(self.loss, targets, (len(targets), self.scores[1], *rest))


def start_of_run(
    net: DynamicNetwork, loader: Any, config: TrainConfig, loss: Loss | None = None
) -> Start:
    """Return what a run needs to know, or raise `ValueError` for what makes it impossible."""
    check_dynamic(net)
    with failing_together(device_of(net)):
        _check_parameters(net)
        modes_of_pool(net.space, config.sharing)  # refuses what is no mode, before the delay
        loss_function = loss_of_run(loss, config, net)
        outputs = _outputs(net)
        scores: tuple[int, ...] = ()
        if is_cross_entropy(loss_function):
            check_scores(outputs)
            scores = tuple(outputs.shape)
        given = [each for each in net.example_batch if isinstance(each, torch.Tensor)]
        shapes = tuple(tuple(each.shape) for each in given)
        mix = mixing(config, shapes, scores)
        start = Start(batches_per_epoch(loader), loss_function, scores, mix)
        for batch in batches_in_memory(loader):
            start.check(*inputs_and_targets(batch, net))
        labels = labels_in_memory(loader) if scores else None
        if labels is not None and len(labels) and not labels.is_floating_point():
            check_range(without_ignored(loss_function, labels), outputs.shape[1])
    _compare_processes(net, start.batches, config)
    return start


@contextmanager
def buffers_put_back(net: torch.nn.Module) -> Iterator[None]:
    """Give norms the running averages that they had before where the block raises."""
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    try:
        yield
    except Exception:
        with torch.no_grad():
            for name, buffer in net.named_buffers():
                buffer.copy_(before[name])
        raise


def _check_parameters(net: DynamicNetwork) -> None:
    parameters = list(net.parameters())
    if not any(parameter.requires_grad for parameter in parameters):
        raise ValueError("`net` has no parameter that asks for a gradient; nothing can be trained")
    if any(parameter.is_inference() for parameter in parameters):
        raise ValueError(
            "`net` was made or converted inside `torch.inference_mode()`, whose tensors take no gradients;"
            " do that outside of it"
        )
    if any(each.dtype == torch.float16 for each in parameters):
        raise ValueError(
            "`net` has parameters in float16, whose small gradients are lost; train it as"
            " `net.float()` with `precision='float16'`, which scales the losses"
        )


def _outputs(net: DynamicNetwork) -> Any:
    """Return what the full mode gives back for one example; all modes must give the like of it."""
    with in_eval_mode(net), torch.no_grad():
        with net.using("full"):
            outputs = net(*net.example_batch)
        with net.using("smallest"):
            smallest = net(*net.example_batch)
    same_names(names_in(outputs), smallest, net.space.full, net.space.smallest)
    return outputs


def _compare_processes(net: DynamicNetwork, batches: int, config: TrainConfig) -> None:
    """Raise `ValueError` where processes would go different ways, which ends in a hang or worse."""
    own = config.to_json() | {
        "batches an epoch": batches,
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "search space": str(net.space),
    }
    theirs = [json.loads(text) for text in texts_of_all_processes(json.dumps(own), device_of(net))]
    for name in own:
        values = [each[name] for each in theirs]
        if len(set(map(str, values))) > 1:
            shown = ", ".join(f"process {i} has {value}" for i, value in enumerate(values))
            way_out = (
                "; give each of them as many, as a DistributedSampler does"
                if name.startswith("batches")
                else ""
            )
            raise ValueError(
                f"the processes of a run must agree in `{name}`: {shown[:300]}{way_out}"
            )
