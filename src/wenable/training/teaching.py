"""In-place distillation: who teaches the modes of a step, and what they learn from it."""

from __future__ import annotations

import torch

from wenable.training.divergence import worse_alpha_loss
from wenable.training.losses import taught_loss
from wenable.training.sharing import Sharing


class Teaching:
    """The answers that the modes of one step learn from, for each part of the batch.

    - `sharing`: its `teacher` and `divergence`.
    """

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing
        self._answers: dict[int, torch.Tensor] = {}
        self._heard: dict[int, int] = {}

    def hear(self, part: int, outputs: torch.Tensor) -> None:
        """Take up what a pass answered on a part: the full mode's, or the mean of all so far."""
        heard = self._heard.get(part, 0)
        if heard and self._sharing.teacher == "full":
            return
        answers = outputs.detach().float().softmax(1)
        if heard:
            answers = self._answers[part] + (answers - self._answers[part]) / (heard + 1)
        self._answers[part], self._heard[part] = answers, heard + 1

    def loss(self, part: int, outputs: torch.Tensor) -> torch.Tensor:
        """Return the loss of a mode's outputs on a part that was heard before."""
        loss = worse_alpha_loss if self._sharing.divergence == "alpha" else taught_loss
        return loss(outputs, self._answers[part])
