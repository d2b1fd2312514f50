"""Alpha-divergences between a teacher's class shares and a pupil's (Wang et al., AlphaNet, ICML 2021)."""

from __future__ import annotations

import torch

CLIPPED_AT = 5.0
"""The largest importance ratio that counts (AlphaNet, section 4)."""
ENDS = (-1.0, 1.0)


def worse_alpha_loss(
    outputs: torch.Tensor, answers: torch.Tensor, clipped_at: float = CLIPPED_AT
) -> torch.Tensor:
    """Return the mean of the worse of the divergences at alpha = -1 and 1.

    - `outputs`: class scores `(N, classes, ...)`; `answers`: the teacher's shares, of the same shape.

    A positive alpha punishes a pupil for missing what the teacher finds likely, a negative one for
    finding likely what the teacher does not; the worse is taken for each example (and position).
    """
    scores = outputs.float()
    of_each = [alpha_divergence(scores, answers, alpha, clipped_at) for alpha in ENDS]
    return torch.maximum(*of_each).mean()


def alpha_divergence(
    outputs: torch.Tensor, answers: torch.Tensor, alpha: float, clipped_at: float = CLIPPED_AT
) -> torch.Tensor:
    """Return D(answers || pupil) = sum q [(p / q)^alpha - 1] / (alpha (alpha - 1)), summed over classes.

    At alpha = 1 it is its limit, KL(p || q). The ratio (p / q)^alpha counts no more than `clipped_at`,
    in the value and in the gradient, which is -(1 / alpha) sum q (p / q)^alpha grad log q: without a
    limit a class that one of them finds all but impossible would outweigh all others.

    - `alpha`: not 0.
    """
    log_q, log_p = outputs.log_softmax(1), answers.clamp_min(1e-12).log()
    q, log_ratio = log_q.exp().detach(), log_p - log_q.detach()
    ratio = (alpha * log_ratio).exp().clamp_max(clipped_at)
    if alpha == 1:
        value = (q * ratio * log_ratio).sum(1)
    else:
        value = (q * (ratio - 1)).sum(1) / (alpha * (alpha - 1))
    # The number of the one, the gradient of the other.
    slope = -(q * ratio * log_q).sum(1) / alpha
    return value + slope - slope.detach()
