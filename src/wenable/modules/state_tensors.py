"""The state of a network that a file can hold: tensors by name, and nothing else."""

from __future__ import annotations

import torch
from torch import nn

from wenable.modules.batch_parts import described


def state_tensors(net: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of a network's state by their names.

    Raises `ValueError` where a module keeps something else in it (`get_extra_state`): nothing is pickled
    here, so a file would not hold it.

    >>> sorted(state_tensors(nn.Linear(2, 1)))
    ['bias', 'weight']
    """
    state = net.state_dict()
    for name, kept in state.items():
        if not isinstance(kept, torch.Tensor):
            raise ValueError(
                f"`net` keeps {described(kept)} in its state as {name!r}; a file holds tensors alone: let"
                " `get_extra_state` of that module return a tensor"
            )
    return dict(state)
