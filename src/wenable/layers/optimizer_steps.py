"""Tells when an optimizer has made a step: fused ones write weights without torch's count of writes."""

from __future__ import annotations

from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook


class Steps:
    """The last step that any optimizer of this process has made.

    - `last`: another object after each step. It is compared by identity, and never counted up: a
      compiler that sees a step would compile anew for every number.
    """

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last = object()

    def note(self, *_: Any) -> None:
        """Note that an optimizer has made a step."""
        self.last = object()


STEPS = Steps()
register_optimizer_step_post_hook(STEPS.note)
