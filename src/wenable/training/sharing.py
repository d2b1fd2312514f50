"""How the modes of a run share its steps and gradients, beyond Algorithm 1: settings with their sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from wenable.core.setting_types import check_flags, check_numbers

First = Literal["full", "outward"]
Losses = Literal["sum", "mean"]
Divergence = Literal["kl", "alpha"]
Teacher = Literal["full", "earlier"]

UNIFORM = "uniform"
"""In a pool: the uniform modes between the ends, at every image size and exit."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """What a step trains when, and how much each mode's gradient counts. The defaults are Algorithm 1.

    When modes are trained:

    - `delay`: the share of a run's steps that train one mode alone, before all modes are trained. These
      steps have one pass and cost accordingly less. Source: delayed shrinking (DepS, ECCV 2024), which
      trains the full network for about half of the run first.
    - `first`: which mode that is. `"full"`: the full one (DepS); with distillation the teacher then knows
      something when it begins to teach. `"outward"`: the uniform modes from the smallest to the full one,
      each for an equal part of the delay, so that the diagonal blocks come first (after SuperFast,
      DAC 2025, which spreads out from a small sub-network).
    - `rise`: the share of the steps, behind the delay, in which the losses of all modes but the full
      one come in: their weight rises linearly from 0 to 1 (the rising learning rate of DepS).
    - `pool`: the modes that random ones are drawn from, as text, by cost as `sampling` says: `"options"`
      draws each equally often. Empty: from the whole space. A front that a search found goes here, so
      that passes are spent on modes worth having (after the pools of good networks of PSS-Net). `"uniform"`
      stands for the uniform modes between the full and the smallest one, at every image size, exit and
      whatever else only its name sets (`Space.uniform_combinations`).

    How much each counts:

    - `losses`: `"sum"` adds up the gradients of all passes (Algorithm 1); `"mean"` gives each loss the
      weight 1 / passes.
    - `project`: where the gradient of the other modes points against the full one's, in a parameter, that
      component is left out (after NASViT, 2022; the projection is PCGrad's, Yu et al., 2020). Keeps a
      second copy of the gradients; in one process only.

    What modes learn with `TrainConfig.distillation`:

    - `divergence`: `"kl"`: the cross-entropy with the teacher's answers; `"alpha"`: the worse of the
      alpha-divergences at -1 and 1, its importance ratio clipped at 5 (AlphaNet, 2021).
    - `teacher`: `"full"`: the full mode; `"earlier"`: the mean answer of all passes made before in the
      step (after the ensemble teacher of RS-Net, 2020, which learns the weights of its mean).

    Weight decay and the modes: it is added once a step, to weights that the full mode uses all of, so it
    belongs to the full mode's gradient alone, as BigNAS (2020) asks for.

    Raises `ValueError` for a setting outside its range.

    >>> Sharing(delay=0.5, losses="mean").first
    'full'
    >>> Sharing(pool="uniform").pool
    ('uniform',)
    """

    delay: float = 0.0
    first: First = "full"
    rise: float = 0.0
    pool: Sequence[str] = ()
    losses: Losses = "sum"
    project: bool = False
    divergence: Divergence = "kl"
    teacher: Teacher = "full"

    def __post_init__(self) -> None:
        pool = (self.pool,) if isinstance(self.pool, str) else self.pool
        object.__setattr__(self, "pool", tuple(map(str, pool)))
        choices: dict[str, Any] = {
            "first": First, "losses": Losses, "divergence": Divergence, "teacher": Teacher,
        }  # fmt: skip
        for name, kind in choices.items():
            if getattr(self, name) not in get_args(kind):
                allowed = ", ".join(map(repr, get_args(kind)))
                raise ValueError(f"`{name}` (={getattr(self, name)!r}) must be one of {allowed}")
        check_flags(self, "project")
        check_numbers(self, "delay", "rise")
        for name in ("delay", "rise"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"`{name}` (={getattr(self, name)!r}) must be a share of the steps, from 0 to below 1"
                )
        if self.delay + self.rise > 1:
            raise ValueError(
                f"`delay` (={self.delay}) and `rise` (={self.rise}) must not be more than the whole run, 1"
            )

    def steps_alone(self, steps: int) -> int:
        """Return how many of the steps of a run train one mode alone."""
        return int(self.delay * steps)

    def loss_weights(self, passes: int, step: int, steps: int) -> tuple[float, ...]:
        """Return the weight of each loss in a step; the full mode's is the first.

        >>> Sharing(delay=0.5, rise=0.2).loss_weights(3, step=5, steps=10)
        (1.0, 0.5, 0.5)
        >>> Sharing(losses="mean").loss_weights(4, step=0, steps=10)
        (0.25, 0.25, 0.25, 0.25)
        """
        each = 1 / passes if self.losses == "mean" else 1.0
        rising, since = int(self.rise * steps), step - self.steps_alone(steps)
        if passes == 1 or since >= rising:
            return (each,) * passes
        return (each, *(each * (since + 1) / rising,) * (passes - 1))

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return asdict(self) | {"pool": list(self.pool)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Sharing:
        """Return the settings written by `to_json`; raises `ValueError` for unknown ones."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"`sharing` holds settings unknown to this version: {unknown[0]!r}")
        return cls(**values)
