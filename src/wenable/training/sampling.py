"""Which modes a step trains (WeNet, Algorithm 1, lines 6 to 13)."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from wenable.core.space import Mode, RandomSource, Space
from wenable.network.dynamic_network import DynamicNetwork
from wenable.network.mode_costs import knobs_of_products
from wenable.training.config import TrainConfig
from wenable.training.sharing import UNIFORM, Sharing


def sample_modes(
    net: DynamicNetwork, config: TrainConfig, step: int, steps: int
) -> tuple[Mode, ...]:
    """Return the modes of one step: full, smallest, then random ones.

    They are a function of the seed and the step, the same in every process of a run.
    """
    alone = mode_alone(net.space, config.sharing, step, steps)
    if alone is not None:
        return (alone,)
    rng = random.Random(f"{config.seed} {step}")
    draw = _draw_by_macs if config.sampling == "macs" else _draw_by_options
    if config.sharing.pool:
        draw = functools.partial(_draw_from_pool, sharing=config.sharing, by=config.sampling)
    count = config.modes_at(step, steps) - 2
    return (net.space.full, net.space.smallest, *(draw(net, rng) for _ in range(count)))


def mode_alone(space: Space, sharing: Sharing, step: int, steps: int) -> Mode | None:
    """Return the mode that a step trains alone, in the delay of a run; None behind it."""
    alone = sharing.steps_alone(steps)
    if step >= alone:
        return None
    if sharing.first == "full":
        return space.full
    outward = space.uniform_modes()[::-1]
    return outward[step * len(outward) // alone]


def _draw_from_pool(net: DynamicNetwork, rng: random.Random, sharing: Sharing, by: str) -> Mode:
    """Draw a mode of the pool: each equally often, or the one nearest to a cost drawn uniformly."""
    kept = _POOLS.get(net)
    if kept is None or kept.texts != sharing.pool:  # once a run: a step is not to wait for it
        modes = modes_of_pool(net.space, sharing)
        kept = _POOLS[net] = _Pool(sharing.pool, modes, [net.macs(mode) for mode in modes])
    if by == "options":
        return kept.modes[int(rng.random() * len(kept.modes))]
    target = rng.uniform(min(kept.costs), max(kept.costs))
    return kept.modes[min(range(len(kept.modes)), key=lambda i: abs(kept.costs[i] - target))]


@dataclass(frozen=True)
class _Pool:
    """The modes that texts name in one network, and their multiply-accumulates."""

    texts: Sequence[str]
    modes: list[Mode]
    costs: list[int]


_POOLS: WeakKeyDictionary[DynamicNetwork, _Pool] = WeakKeyDictionary()


def modes_of_pool(space: Space, sharing: Sharing) -> list[Mode]:
    """Return the modes of a pool; raises `ValueError` for a text that names none, or too many."""
    found: list[Mode] = []
    for text in sharing.pool:
        if text == UNIFORM:
            uniform = space.uniform_combinations()
            between = [mode for mode in uniform if mode not in (space.full, space.smallest)]
            found += between or uniform
            continue
        try:
            found.append(space.mode(text))
        except ValueError as error:
            raise ValueError(f"`sharing.pool` holds {text!r}, which is no mode: {error}") from None
    return found


def _draw_by_options(net: DynamicNetwork, rng: RandomSource) -> Mode:
    return net.space.sample(rng)


def _draw_by_macs(net: DynamicNetwork, rng: random.Random) -> Mode:
    """Draw a cost uniformly, then make random layers one step cheaper until it is reached.

    A knob that changes no MACs, as one of precision, is drawn by its options. So is one that changes
    what others cost, as the size of images, and before them: the cost lies between those of the modes
    that have it so.
    """
    knobs = {knob.name: knob for knob in net.space.knobs}
    first = {
        knob.name: knob.options[int(rng.random() * len(knob.options))]
        for knob in knobs_of_products(net, "macs")
    }
    largest = net.space.full.replace(first)
    target = rng.uniform(net.macs(net.space.smallest.replace(first)), net.macs(largest))
    of_knob = {name: dict.fromkeys(knob.options, 0) for name, knob in knobs.items()}
    for layer in net.counts_in(largest).layers:
        for n in knobs[layer.knob].options if layer.runs_in(largest) else ():
            of_knob[layer.knob][n] += layer.macs_at(n)
    knobs = {name: knob for name, knob in knobs.items() if name not in first}
    options, macs = dict(largest), net.macs(largest)
    for name, knob in knobs.items():
        if len(set(of_knob[name].values())) == 1:
            options[name] = knob.options[int(rng.random() * len(knob.options))]
    open_knobs = [name for name in knobs if len(set(of_knob[name].values())) > 1]
    while macs > target and open_knobs:
        name = open_knobs[int(rng.random() * len(open_knobs))]
        cheaper = knobs[name].cheaper(options[name])
        if cheaper is None:
            open_knobs.remove(name)
            continue
        macs -= of_knob[name][options[name]] - of_knob[name][cheaper]
        options[name] = cheaper
    return net.space.mode(options)
