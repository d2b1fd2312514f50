"""The dynamic network: an ordinary network whose layers can be switched, and the mode it is in."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import nn

from wenable.core.preprocessing import Preprocessing
from wenable.core.space import Mode, ModeChoice, Space
from wenable.graph import TracedGraph, trace
from wenable.layers.batch_norm import Statistics, SwitchableBatchNorm
from wenable.layers.exits import ExitReached
from wenable.layers.roles import KeepsPackedWeights, NeedsInputRange
from wenable.methods.plan import LeftAlone, Method, Plan, SwitchableLayer
from wenable.modules.copying import copies_of_results, copy_network
from wenable.modules.example_inputs import ExampleInput, one_example
from wenable.modules.fingerprint import weights_fingerprint
from wenable.modules.passes import device_of, in_eval_mode
from wenable.network.concurrency import ModeGuard
from wenable.network.inputs import check_inputs, explained, in_places, input_names
from wenable.network.recounting import (
    Counts,
    Structure,
    more_weights,
    recount,
    structure_of,
)


class UncalibratedWarning(UserWarning):
    """A mode is used for a figure or a file though its norm statistics were never estimated."""


@dataclass(frozen=True)
class Calibration:
    """How the norm statistics of a mode were got.

    - `statistics`: norm -> mean and variance; None: those the network itself holds.
    - `images`: how many examples they were estimated on, None where the network came with them.
    - `weights`: a fingerprint of the weights they belong to.
    """

    statistics: Mapping[str, Statistics] | None
    images: int | None
    weights: int


@dataclass
class NetworkState:
    """What a dynamic network holds besides its layers."""

    plan: Plan
    method: Method
    original_class: type[nn.Module]
    example: tuple[ExampleInput, ...]
    counts: Mapping[int, Counts]
    """Option of the images' size -> what the network costs there; 1, the full size, is always there."""
    fixed_weights: int
    structure: Structure
    """What the network was made of when its MACs were counted."""
    examples: int
    """How many examples the input held that they were counted with."""
    mode: Mode
    switches: tuple[tuple[Callable[[int], None], ...], ...]
    """For every knob, in the order of the space, what sets each of its layers and norms."""
    norms: dict[str, SwitchableBatchNorm]
    calibrations: dict[Mode, Calibration] = field(default_factory=dict)
    guard: ModeGuard = field(default_factory=ModeGuard)
    preprocessing: Preprocessing | None = None


class DynamicNetwork(nn.Module):
    """What `convert` adds to the class of a network: the base of every dynamic network.

    The network stays an instance of its own class, with its own methods and parameter names; torch
    does the same in `torch.nn.utils.parametrize` and `fully_shard`.
    """

    _wenable: NetworkState

    @property
    def space(self) -> Space:
        """Everything that can be switched, in execution order."""
        return self._wenable.plan.space

    @property
    def mode(self) -> Mode:
        """The mode of the next forward pass."""
        return self._wenable.mode

    @property
    def conversion_method(self) -> Method:
        """The method and the settings that this network was converted with."""
        return self._wenable.method

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How images become this network's input; None where nobody said. Saved with the network."""
        return self._wenable.preprocessing

    @preprocessing.setter
    def preprocessing(self, preprocessing: Preprocessing | None) -> None:
        self._wenable.preprocessing = preprocessing

    @property
    def original_class(self) -> type[nn.Module]:
        """The class of the network that was converted."""
        return self._wenable.original_class

    @property
    def example_batch(self) -> tuple[Any, ...]:
        """One example for every input, always the same: random numbers, zeros for whole ones.

        An input that is no tensor is the value that the network was converted with.
        """
        floating = next((p.dtype for p in self.parameters() if p.is_floating_point()), None)
        return one_example(self._wenable.example, device_of(self), floating)

    @property
    def named_inputs(self) -> dict[str, ExampleInput]:
        """The inputs that it was converted with, by the names that its own forward has, in order."""
        example = self._wenable.example
        return dict(zip(input_names(self.original_class, len(example)), example, strict=False))

    @property
    def inputs_are_tensors(self) -> tuple[bool, ...]:
        """Of each input that it was converted with, whether it is a tensor, and no plain value."""
        return tuple(each.is_tensor for each in self._wenable.example)

    def example_to_json(self) -> list[dict[str, Any]]:
        """Return the shapes and types of the inputs that the network was traced with."""
        return [each.to_json() for each in self._wenable.example]

    @property
    def switchable_layers(self) -> tuple[SwitchableLayer, ...]:
        """The layers that switch, with their sizes, costs and shuffles, for images of the full size."""
        return self._counted().counts[1].layers

    @property
    def left_alone(self) -> tuple[LeftAlone, ...]:
        """What multiplies and does not switch, each with the reason.

        Layers of every kind that have a weight, and parameters that a module's own code multiplies
        with; not the products of activations, as those of attention, which have none.
        """
        return self._counted().counts[1].left_alone

    @property
    def examples_counted(self) -> int:
        """How many examples the input held that MACs were counted with, and are divided by.

        1 if its first dimension was found to be no batch: MACs are those of the whole input then.
        """
        return self._wenable.examples

    @property
    def macs_besides_layers(self) -> Mapping[str, int]:
        """What modules multiply besides layers, in every mode, for one example, by qualified name.

        The products of attention, and those with parameters that are no layer's weight; for images of
        the full size.
        """
        return self._counted().counts[1].macs_besides_layers

    def _counted(self) -> NetworkState:
        """Return the state, counted again if layers were replaced since."""
        state, structure = self._wenable, structure_of(self)
        if structure != state.structure:
            counts = {
                option: recount(
                    self,
                    state.structure,
                    replace(state.plan, layers=before.layers),
                    self._traced_anew(option),
                )
                for option, before in state.counts.items()
            }
            full = counts[1]
            state.plan = replace(state.plan, layers=full.layers, left_alone=full.left_alone)
            state.counts = counts
            state.fixed_weights += more_weights(state.structure, structure)
            state.structure = structure
        return state

    def counts_in(self, mode: Mode) -> Counts:
        """Return what the network costs at the image size of a mode: layers, and what no knob changes.

        Its layers' `macs_in` and `weights_in` say what each costs in the mode.
        """
        return self._counted().counts[self._wenable.plan.size_in(mode)]

    def _traced_anew(self, size: int = 1) -> TracedGraph:
        """Trace a copy in the full mode, on an input as large as the one it was converted with.

        - `size`: the option of the images' size; images of that size go straight in.
        """
        floating = next((p.dtype for p in self.parameters() if p.is_floating_point()), None)
        inputs = one_example(self._wenable.example, device_of(self), floating, whole=True)
        twin = copy_network(self)
        twin.set_mode(self._wenable.plan.full_at(size))
        with in_eval_mode(twin):
            return trace(twin, twin.of_present_size(inputs))

    def of_present_size(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return inputs with images as large as the present mode has them, as a pass makes them."""
        sizes = self._wenable.plan.image_sizes
        return inputs if sizes is None else sizes(inputs)

    def set_mode(self, mode: ModeChoice) -> None:
        """Run in `mode` from now on: a `Mode`, a dict over all knobs, or a text as `"1/4"`.

        Norms take the statistics calibrated for this very mode where there are any, and otherwise
        those of their option. Only what differs from the present mode is touched.

        Raises `ValueError` for a mode outside the space, and `RuntimeError` where another thread
        runs the network (`wenable.network.concurrency`); nothing is changed then.
        """
        state, mode = self._wenable, self.space.mode(mode)
        with state.guard.changing(mode):
            for switches, before, n in zip(
                state.switches, state.mode.options, mode.options, strict=True
            ):
                if n != before:
                    for set_option in switches:
                        set_option(n)
            state.mode = mode
            self._use_statistics()

    def _use_statistics(self) -> None:
        """Give the norms the statistics that are stored for the present mode, if there are any."""
        state = self._wenable
        calibration = state.calibrations.get(state.mode)
        statistics = calibration.statistics if calibration else None
        for name, norm in state.norms.items():
            norm.use_statistics(statistics[name] if statistics else None)

    @contextmanager
    def using(self, mode: ModeChoice) -> Iterator[DynamicNetwork]:
        """Run in `mode` inside a `with` block, and in the former mode after it.

        Other threads wait with `using` and `set_mode` until the block has ended.
        """
        with self._wenable.guard.holding():
            before = self.mode
            self.set_mode(mode)
            try:
                yield self
            finally:
                self.set_mode(before)

    def macs(self, mode: ModeChoice | None = None) -> int:
        """Return the multiply-accumulates of a mode for one example, at the traced size.

        A mode with smaller images was traced with those; making them smaller is not counted.

        A layer in option 1/n counts 1/n of its full ones (WeNet, eq. 1 and 3), unless its method says
        what each option costs. What is not switched counts as its operations say, whatever kernel
        computes them: recurrent layers, the products of attention and functions among them. If the
        input's first dimension is no batch, the whole input counts: see `examples_counted`. If layers
        were replaced after `convert`, the network is counted again.

        Raises `ValueError` if one of those had a knob.
        """
        mode = self.mode if mode is None else self.space.mode(mode)
        counts = self.counts_in(mode)
        return counts.fixed_macs + sum(layer.macs_in(mode) for layer in counts.layers)

    def bit_operations(self, mode: ModeChoice | None = None) -> int:
        """Return the multiply-accumulates of a mode times the bits of both factors, for one example.

        A model of what hardware for narrow numbers would do, not of time on this machine: a product
        of 32-bit numbers counts 1024, one of 8-bit integers 64 (the BOPs of Baskin et al., UNIQ,
        2021, without the additions).
        """
        mode = self.mode if mode is None else self.space.mode(mode)
        counts = self.counts_in(mode)
        switched = sum(layer.macs_in(mode) * layer.bits_in(mode) ** 2 for layer in counts.layers)
        return counts.fixed_macs * 32**2 + switched

    def parameter_count(self, mode: ModeChoice | None = None) -> int:
        """Return how many parameters a mode enables: those of the network `extract` returns."""
        mode = self.mode if mode is None else self.space.mode(mode)
        state = self._counted()
        switched = sum(layer.weights_in(mode) for layer in state.plan.layers)
        return state.fixed_weights + switched

    @property
    def calibrated_modes(self) -> tuple[Mode, ...]:
        """The modes whose norm statistics belong to the present weights."""
        fresh = self._fingerprints()
        return tuple(
            mode for mode, kept in self._wenable.calibrations.items() if _belongs(kept, fresh)
        )

    def _fingerprints(self) -> dict[bool, int]:
        """Return the checksums of the present weights, with and without the norms' statistics."""
        wanted = {kept.statistics is None for kept in self._wenable.calibrations.values()}
        return {own: weights_fingerprint(self, with_norms=own) for own in wanted}

    def is_calibrated(self, mode: ModeChoice) -> bool:
        """Say whether the norm statistics of a mode were estimated with the present weights.

        A network without batch norm needs none. The full mode of a freshly converted network keeps
        the statistics that the network came with. A layer of low precision needs the range of its
        input besides, from training or from calibration with the present weights.
        """
        mode = self.space.mode(mode)
        if not self.knows_input_ranges(mode):
            return False
        calibration = self._wenable.calibrations.get(mode)
        if not self._wenable.norms:
            return True
        if calibration is None:
            return False
        own = calibration.statistics is None
        return _belongs(calibration, {own: weights_fingerprint(self, with_norms=own)})

    def knows_input_ranges(self, mode: ModeChoice) -> bool:
        """Say whether each layer that a mode runs in low precision knows the range of its input.

        It does from training, or from calibration with the present weights.
        """
        mode = self.space.mode(mode)
        left_out = {each.name for each in self._wenable.plan.layers if not each.weights_in(mode)}
        # The class is asked: an object that lacks a method composes an error to say so.
        layers = [
            cast(NeedsInputRange, layer)
            for name, layer in self.named_modules()
            if issubclass(type(layer), NeedsInputRange) and name not in left_out
        ]
        if not all(layer.knows_its_input(mode) for layer in layers):
            return False
        weights = {layer.input_calibrated_for(mode) for layer in layers} - {None}
        return not weights or weights == {weights_fingerprint(self)}

    def store_calibration(
        self, mode: Mode, statistics: Mapping[str, Statistics], images: int
    ) -> None:
        """Keep the norm statistics of a mode, estimated on `images` examples, with the network.

        Raises `ValueError` unless there is one for every norm.
        """
        if set(statistics) != set(self._wenable.norms):
            missing = sorted(set(self._wenable.norms) ^ set(statistics))
            raise ValueError(f"`statistics` does not match the network's norms at {missing[:3]}")
        for name, each in statistics.items():
            if not (bool(each.mean.isfinite().all()) and bool(each.var.isfinite().all())):
                raise ValueError(
                    f"the statistics of {name!r} in mode {mode} are not finite: look for NaN in the"
                    " images; nothing was stored"
                )
        calibration = Calibration(dict(statistics), images, weights_fingerprint(self))
        self.restore_calibration(mode, calibration)

    def restore_calibration(self, mode: Mode, calibration: Calibration) -> None:
        """Put back what `calibration` returned, as a file kept it."""
        norms, kept = self._wenable.norms, calibration.statistics
        if kept is not None:
            kept = {name: norms[name].in_place_of_its_own(each) for name, each in kept.items()}
        self._wenable.calibrations[self.space.mode(mode)] = replace(calibration, statistics=kept)
        self._use_statistics()

    def calibration(self, mode: ModeChoice) -> Calibration | None:
        """Return what is stored for a mode, or None."""
        return self._wenable.calibrations.get(self.space.mode(mode))

    def forget_calibrations(self, modes: Iterable[Mode] | None = None) -> None:
        """Drop the statistics of these modes; of all where nothing is said."""
        for mode in list(self._wenable.calibrations) if modes is None else modes:
            self._wenable.calibrations.pop(mode, None)
        self._use_statistics()

    @property
    def packed_bytes(self) -> int:
        """The memory held by the blocks that inference packed, at most 15/16 of the weights.

        That is for options 1 to 1/16; each option a layer was used in keeps 1/n of its weight,
        shared by all modes. A mode itself keeps its statistics, two numbers a norm channel.
        """
        return sum(layer.packed_bytes for layer in self._packing_layers())

    def drop_packed(self) -> None:
        """Give that memory back; needed after weights were written through `.data` or numpy."""
        for layer in self._packing_layers():
            layer.drop_packed()

    def _packing_layers(self) -> Iterator[KeepsPackedWeights]:
        # A dynamic network has the same attributes, for all its layers.
        layers = (each for each in self.modules() if not isinstance(each, DynamicNetwork))
        return (each for each in layers if isinstance(each, KeepsPackedWeights))

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        # What torch does for `to`, `cuda`, `half`: the stored statistics go where the network goes.
        moved = super()._apply(fn, recurse)
        for mode, kept in self._wenable.calibrations.items():
            if kept.statistics is not None:
                statistics = {
                    name: Statistics(fn(each.mean), fn(each.var))
                    for name, each in kept.statistics.items()
                }
                self._wenable.calibrations[mode] = replace(kept, statistics=statistics)
        self._use_statistics()
        return moved

    def switchable_norms(self) -> dict[str, SwitchableBatchNorm]:
        """Return the norms whose statistics depend on the mode, by qualified name."""
        return dict(self._wenable.norms)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load weights, as torch does; the statistics calibrated for the old ones are dropped."""
        self.forget_calibrations()
        return super().load_state_dict(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Return another network with weights of its own, in the same mode."""
        own: Any = getattr(super(), "__deepcopy__", None)
        if own is not None:
            return own(memo)
        memo.update({key: each for key, each in copies_of_results(self).items() if key not in memo})
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return copied

    def __copy__(self) -> Any:
        """Return a network that shares everything with this one, its mode too."""
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse to be pickled: the class of a dynamic network exists in this process only."""
        raise TypeError(
            f"a dynamic network ({type(self).__name__}) cannot be pickled, as by torch.save or to send it"
            " to another process; write it with wenable.save(net, path), and read it with wenable.load"
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network in its present mode; a pass in training drops stored calibrations.

        Inputs may be given by name.

        Raises `ValueError` for an input with another number of dimensions than the example that the
        network was converted with, for images of a size that is neither the full nor the mode's if modes
        have one, and where it fails on one of another size; `RuntimeError` where
        it would run in another thread's mode (`wenable.network.concurrency`).
        """
        state = self._wenable
        if kwargs:
            args, kwargs = in_places(args, kwargs, self.original_class, len(state.example))
        check_inputs(args, state.example, state.plan.image_sizes)
        if self.training and state.calibrations:
            self.forget_calibrations()
        if torch.compiler.is_compiling():  # a lock cannot be traced, and nothing runs
            return self._run(*args, **kwargs)
        state.guard.enter(state.mode)
        try:
            return self._run(*args, **kwargs)
        except (RuntimeError, ValueError) as error:
            floating = next((p.dtype for p in self.parameters() if p.is_floating_point()), None)
            explanation = explained(error, args, state.example, floating)
            if explanation is None:
                raise
            raise ValueError(explanation) from error
        finally:
            state.guard.leave()

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().forward(*self.of_present_size(args), **kwargs)
        except ExitReached as reached:
            return reached.outputs


def _belongs(calibration: Calibration, fingerprints: Mapping[bool, int]) -> bool:
    return calibration.weights == fingerprints[calibration.statistics is None]
