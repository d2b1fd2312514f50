"""The settings of a training run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from wenable.core.renamed import answer_renamed, with_present_names
from wenable.core.setting_types import check_flags, check_numbers
from wenable.training.sharing import Sharing

RENAMED = {
    "averaging": "ema_decay", "clip": "clip_grad", "accumulate": "grad_accum_steps",
    "executions": "implementations",
}  # fmt: skip
"""Former names of settings; checkpoints may hold them."""

Counting = Literal["all", "random"]
Sampling = Literal["options", "macs"]
Optimizer = Literal["sgd", "adamw", "rmsproptf"]
Schedule = Literal["cosine", "step", "constant"]
Precision = Literal["float32", "bfloat16", "float16"]
Implementations = Literal["grouped", "timed"]


_NUMBERS = (
    "learning_rate", "momentum", "weight_decay", "warmup", "step_epochs", "step_factor", "label_smoothing",
    "ema_decay", "mixup", "cutmix",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Settings of one training run. The defaults suit a small network on a small data set.

    Which modes a step trains:

    - `passes`: s of Algorithm 1, the forward and backward passes of a step.
    - `counting`: what `passes` counts. `"all"`: the full network, the smallest, and s - 2 random
      modes (Algorithm 1; the paper's s = 20 is 20 passes). `"random"`: as many random modes besides
      these two ("randomly sample 20 sub-networks", section IV-A), s + 2 passes in all.
    - `grow_from`: begin with this s and grow it evenly to `passes` over the run; cheaper early
      steps. None keeps it.
    - `sampling`: how random modes are drawn. `"options"`: each layer's option uniformly
      (Algorithm 1, line 13), which makes most modes cost about the same; `"macs"`: a cost uniformly
      between the smallest and the full, then layers made cheaper in random order down to it.
    - `distillation`: all modes but the full one learn from its outputs instead of the labels
      (in-place distillation, Yu and Huang, US-Nets, 2019, section 3.3).
    - `sharing`: what goes beyond Algorithm 1: which modes are trained when, and how much each one's
      gradient counts (`Sharing`).

    How the weights move:

    - `epochs`: times through the loader.
    - `optimizer`: timm's name; `momentum` is that of `"sgd"` and `"rmsproptf"`.
    - `learning_rate`: the highest, reached after `warmup` of the steps. Then `schedule`: a cosine
      down to 0; `"step"`, times `step_factor` every `step_epochs`; or constant.
    - `weight_decay`: not applied to norms and biases.
    - `label_smoothing`: the share of a label spread over all classes.
    - `ema_decay`: the decay of an exponential moving average of the weights, which the network ends
      with; 0 for none.
    - `clip_grad`: the largest norm of the gradients of a step, all passes together; None for no limit.
    - `grad_accum_steps`: parts that a batch is gone through in, for less memory. Norms see one part at a
      time.
    - `mixup`, `cutmix`: the alpha of each, 0 for none; where both are set one is drawn each step.

    How it is computed:

    - `precision`: `"bfloat16"` or `"float16"` autocast (the latter with scaled losses).
    - `channels_last`: the memory format of images and of the layers that read them.
    - `implementations`: `"grouped"` computes each layer as it is written. `"timed"` times the ways to
      compute it on this device before the first step (`wenable.layers.implementations`), once for all
      runs, and takes the fastest; the choice is written into the checkpoint. Runs with different
      choices differ by rounding, so `"grouped"` is what the same seed repeats everywhere.
    - `seed`: of the modes, and of what is random in the network. All of it is a function of the
      seed and the step, so that a run can go on where it stopped.

    Raises `ValueError` for a setting outside its range.

    >>> TrainConfig(passes=4).modes_per_step
    4
    """

    passes: int = 4
    counting: Counting = "all"
    grow_from: int | None = None
    sampling: Sampling = "options"
    distillation: bool = False
    sharing: Sharing = field(default_factory=Sharing)
    epochs: int = 10
    optimizer: Optimizer = "sgd"
    schedule: Schedule = "cosine"
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.1
    step_epochs: float = 30.0
    step_factor: float = 0.1
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    clip_grad: float | None = None
    grad_accum_steps: int = 1
    mixup: float = 0.0
    cutmix: float = 0.0
    precision: Precision = "float32"
    channels_last: bool = False
    implementations: Implementations = "grouped"
    seed: int = 0

    def __new__(cls, *_: Any, **given: Any) -> TrainConfig:
        """Answer former names with the present ones."""
        answer_renamed("TrainConfig", given, RENAMED)
        return object.__new__(cls)

    def __post_init__(self) -> None:
        _check_choices(self)
        if not isinstance(self.sharing, Sharing):
            kind = type(self.sharing).__name__
            raise ValueError(
                f"`sharing` is a {kind}; allowed: a Sharing (`from_json` reads what `to_json` wrote)"
            )
        whole = ("passes", "epochs", "seed", "grad_accum_steps")
        for name in whole if self.grow_from is None else (*whole, "grow_from"):
            if type(getattr(self, name)) is not int:
                raise ValueError(f"`{name}` (={getattr(self, name)!r}) must be a whole number")
        check_flags(self, "distillation", "channels_last")
        check_numbers(self, *_NUMBERS, *(("clip_grad",) if self.clip_grad is not None else ()))
        least, why = (2, ": the full and the smallest mode") if self.counting == "all" else (0, "")
        growth = self.passes if self.grow_from is None else self.grow_from
        rules = [
            ("passes", self.passes >= least, f"at least {least}{why}"),
            ("grow_from", least <= growth <= self.passes, f"from {least} to `passes`"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "above 0 and finite"),
            ("seed", self.seed >= 0, "at least 0"),
            ("momentum", 0 <= self.momentum < 1, "from 0 to below 1"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0, and finite"),
            ("warmup", 0 <= self.warmup < 1, "a share of the steps, from 0 to below 1"),
            ("step_epochs", 0 < self.step_epochs < math.inf, "above 0 and finite"),
            ("step_factor", 0 < self.step_factor <= 1, "above 0, to 1"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "from 0 to below 1"),
            ("ema_decay", 0 <= self.ema_decay < 1, "from 0 to below 1"),
            ("clip_grad", self.clip_grad is None or self.clip_grad > 0, "above 0, or None"),
            ("grad_accum_steps", self.grad_accum_steps >= 1, "at least 1"),
            ("mixup", 0 <= self.mixup < math.inf, "at least 0, and finite"),
            ("cutmix", 0 <= self.cutmix < math.inf, "at least 0, and finite"),
        ]
        for name, holds, rule in rules:
            if not holds:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be {rule}")

    @property
    def modes_per_step(self) -> int:
        """How many passes a step makes, at the end of the run where they grow."""
        return self.passes + (2 if self.counting == "random" else 0)

    def modes_at(self, step: int, steps: int) -> int:
        """Return how many passes a step of a run makes; `step` counts from 0.

        >>> [TrainConfig(passes=4, grow_from=2).modes_at(step, 9) for step in (0, 4, 8)]
        [2, 3, 4]
        """
        if step < self.sharing.steps_alone(steps):
            return 1
        if self.grow_from is None:
            return self.modes_per_step
        stages = self.passes - self.grow_from + 1
        missing = stages - 1 - step * stages // steps
        return self.modes_per_step - missing

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return asdict(self) | {"sharing": self.sharing.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Return the settings written by `to_json`; raises `ValueError` for unknown ones."""
        values = with_present_words(values)
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"`values` holds settings unknown to this version: {unknown[0]!r}")
        sharing = Sharing.from_json(values.get("sharing", {}))
        return cls(**{**values, "sharing": sharing})


def with_present_words(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a file, those of an older one in the present words.

    >>> with_present_words({"clip": 5.0, "sampling": "patterns"})
    {'clip_grad': 5.0, 'sampling': 'options'}
    """
    present = with_present_names(values, RENAMED)
    if present.get("sampling") == "patterns":
        present["sampling"] = "options"
    return present


def _check_choices(config: TrainConfig) -> None:
    choices = {
        "counting": Counting,
        "sampling": Sampling,
        "optimizer": Optimizer,
        "schedule": Schedule,
        "precision": Precision,
        "implementations": Implementations,
    }
    for name, kind in choices.items():
        if getattr(config, name) not in get_args(kind):
            allowed = ", ".join(map(repr, get_args(kind)))
            raise ValueError(f"`{name}` (={getattr(config, name)!r}) must be one of {allowed}")
