"""Makes an ordinary network dynamic, and sets its mode."""

from __future__ import annotations

import copy
import functools
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode

from wenable.graph import trace
from wenable.layers.batch_norm import Statistics, SwitchableBatchNorm
from wenable.methods.plan import Follower, LeftAlone, Method, Plan, SwitchableLayer
from wenable.methods.weight_enabling import WeightEnabling
from wenable.modules import device_of, in_eval_mode
from wenable.space import Mode, ModeChoice, Space


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
class _State:
    """What a dynamic network holds besides its layers."""

    plan: Plan
    method: Method
    original_class: type[nn.Module]
    example_shapes: tuple[tuple[int, ...], ...]
    example_dtypes: tuple[torch.dtype, ...]
    fixed_macs: int
    fixed_weights: int
    mode: Mode
    switches: dict[str, tuple[Callable[[int], None], ...]]
    norms: dict[str, SwitchableBatchNorm]
    calibrations: dict[Mode, Calibration] = field(default_factory=dict)


class DynamicNetwork(nn.Module):
    """What `convert` adds to the class of a network: the base of every dynamic network.

    The network stays an instance of its own class, with its own methods and parameter names; torch
    does the same in `torch.nn.utils.parametrize` and `fully_shard`.
    """

    _wenable: _State

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
    def original_class(self) -> type[nn.Module]:
        """The class of the network that was converted."""
        return self._wenable.original_class

    @property
    def example_batch(self) -> tuple[torch.Tensor, ...]:
        """One example for every input, always the same: random numbers, zeros for whole ones."""
        state, device = self._wenable, device_of(self)
        floating = next((p.dtype for p in self.parameters() if p.is_floating_point()), None)
        generator = torch.Generator().manual_seed(0)
        inputs = []
        for shape, dtype in zip(state.example_shapes, state.example_dtypes, strict=True):
            if dtype.is_floating_point:  # the network may have changed its type since
                drawn = torch.randn(1, *shape[1:], generator=generator)
                inputs.append(drawn.to(device, floating or dtype))
            else:
                inputs.append(torch.zeros(1, *shape[1:], dtype=dtype, device=device))
        return tuple(inputs)

    def example_to_json(self) -> list[dict[str, Any]]:
        """Return the shapes and types of the inputs that the network was traced with."""
        pairs = zip(self._wenable.example_shapes, self._wenable.example_dtypes, strict=True)
        return [
            {"shape": list(shape), "dtype": str(dtype).removeprefix("torch.")}
            for shape, dtype in pairs
        ]

    @property
    def switchable_layers(self) -> tuple[SwitchableLayer, ...]:
        """The layers that switch, with their sizes, costs and shuffles."""
        return self._wenable.plan.layers

    @property
    def left_alone(self) -> tuple[LeftAlone, ...]:
        """The layers that do not switch, each with the reason."""
        return self._wenable.plan.left_alone

    def set_mode(self, mode: ModeChoice) -> None:
        """Run in `mode` from now on: a `Mode`, a dict over all knobs, or a text as `"1/4"`.

        Norms take the statistics calibrated for this very mode where there are any, and otherwise
        those of their pattern. Raises `ValueError` for a mode outside the space; nothing is changed
        then.
        """
        state, mode = self._wenable, self.space.mode(mode)
        for name, n in zip(mode.space.names, mode.options, strict=True):
            for set_pattern in state.switches[name]:
                set_pattern(n)
        calibration = state.calibrations.get(mode)
        statistics = calibration.statistics if calibration else None
        for name, norm in state.norms.items():
            norm.use_statistics(statistics[name] if statistics else None)
        state.mode = mode

    @contextmanager
    def using(self, mode: ModeChoice) -> Iterator[DynamicNetwork]:
        """Run in `mode` inside a `with` block, and in the former mode after it."""
        before = self.mode
        self.set_mode(mode)
        try:
            yield self
        finally:
            self.set_mode(before)

    def macs(self, mode: ModeChoice | None = None) -> int:
        """Return the multiply-accumulates of a mode for one example, at the traced size.

        A layer in pattern 1/n counts 1/n of its full ones (WeNet, eq. 1 and 3); what cannot be
        switched counts as torch's `FlopCounterMode` counts it.
        """
        mode = self.mode if mode is None else self.space.mode(mode)
        switched = sum(layer.macs // mode[layer.knob] for layer in self.switchable_layers)
        return self._wenable.fixed_macs + switched

    def parameter_count(self, mode: ModeChoice | None = None) -> int:
        """Return how many parameters a mode enables: those of the network `extract` returns."""
        mode = self.mode if mode is None else self.space.mode(mode)
        switched = sum(layer.weights // mode[layer.knob] for layer in self.switchable_layers)
        return self._wenable.fixed_weights + switched

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
        the statistics that the network came with.
        """
        calibration = self._wenable.calibrations.get(self.space.mode(mode))
        if not self._wenable.norms:
            return True
        if calibration is None:
            return False
        own = calibration.statistics is None
        return _belongs(calibration, {own: weights_fingerprint(self, with_norms=own)})

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
        mode = self.space.mode(mode)
        self._wenable.calibrations[mode] = calibration
        if self.mode == mode:
            self.set_mode(mode)

    def calibration(self, mode: ModeChoice) -> Calibration | None:
        """Return what is stored for a mode, or None."""
        return self._wenable.calibrations.get(self.space.mode(mode))

    def forget_calibrations(self, modes: Iterable[Mode] | None = None) -> None:
        """Drop the statistics of these modes; of all where nothing is said."""
        for mode in list(self._wenable.calibrations) if modes is None else modes:
            self._wenable.calibrations.pop(mode, None)
        if self.mode not in self._wenable.calibrations:
            for norm in self._wenable.norms.values():
                norm.use_statistics(None)

    def switchable_norms(self) -> dict[str, SwitchableBatchNorm]:
        """Return the norms whose statistics depend on the mode, by qualified name."""
        return dict(self._wenable.norms)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load weights, as torch does; the statistics calibrated for the old ones are dropped."""
        self.forget_calibrations()
        return super().load_state_dict(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network in its present mode; a pass in training drops stored calibrations.

        Raises `ValueError` for an input with another number of dimensions than the example that the
        network was converted with, and where it fails on one of another size.
        """
        self._check_dimensions(args)
        if self.training and self._wenable.calibrations:
            self.forget_calibrations()
        try:
            return super().forward(*args, **kwargs)
        except (RuntimeError, ValueError) as error:
            explanation = self._explanation(error, args)
            if explanation is None:
                raise
            raise ValueError(explanation) from error

    def _check_dimensions(self, inputs: tuple[Any, ...]) -> None:
        # A single image without its batch would pass some layers and mean something else.
        for given, example in zip(inputs, self._wenable.example_shapes, strict=False):
            if example and isinstance(given, torch.Tensor) and given.ndim != len(example):
                raise ValueError(
                    f"`input` (of shape {tuple(given.shape)}) must have {len(example)} dimensions;"
                    f" the network was converted for ({', '.join(['N', *map(str, example[1:])])})"
                )

    def _explanation(self, error: Exception, inputs: tuple[Any, ...]) -> str | None:
        """Return a line that names the input, where its shape is not that of the example."""
        for given, example in zip(inputs, self._wenable.example_shapes, strict=False):
            shape = tuple(getattr(given, "shape", ()))
            if example and shape[1:] != example[1:]:
                first_line = str(error).strip().partition("\n")[0]
                return (
                    f"`input` (of shape {shape}) does not fit this network, which was converted for"
                    f" ({', '.join(['N', *map(str, example[1:])])}): {first_line}"
                )
        return None


def _belongs(calibration: Calibration, fingerprints: Mapping[bool, int]) -> bool:
    return calibration.weights == fingerprints[calibration.statistics is None]


def weights_fingerprint(net: nn.Module, *, with_norms: bool = False) -> int:
    """Return a checksum of the weights, and of the norms' running statistics where asked for."""
    tensors = list(net.parameters())
    if with_norms:
        tensors += [b for name, b in net.named_buffers() if name.endswith(("_mean", "_var"))]
    checksum = 0
    for tensor in tensors:
        values = tensor.detach().cpu().contiguous().flatten()
        checksum = zlib.crc32(values.view(torch.uint8).numpy().data, checksum)
    return checksum


def convert(
    model: nn.Module,
    example_input: torch.Tensor | tuple[Any, ...],
    *,
    method: Method | None = None,
) -> Any:
    """Return a dynamic copy of a network; its full mode gives the very bits the network gave.

    - `model`: any network that `torch.export` traces; it is left untouched.
    - `example_input`: a batch, shape `(N, ...)`, or a tuple of positional inputs. Its size is the
      one that MACs are counted at.
    - `method`: how to make it dynamic; `WeightEnabling()` where nothing is said.

    Returns an instance of the model's own class that is a `DynamicNetwork` as well. It starts in
    the full mode. Two checks are run before it is handed back: the full mode equals the original on
    the example bit for bit, and the smallest mode costs the MACs that it is said to.

    Raises `ValueError` where the network is already dynamic, cannot be traced, has NaN in its
    weights or nothing to switch; `RuntimeError` where a check fails.

    >>> net = convert(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.ones(2, 8))
    >>> net.set_mode("1/8"), net.macs(), net.macs("full")
    (None, 80, 192)
    """
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    _check_convertible(model, inputs)
    method = WeightEnabling() if method is None else method
    net: Any = _deep_copy(model)
    with in_eval_mode(net):
        graph = trace(net, inputs)
        expected, full_macs = _run_counted(net, inputs)
    plan = method.plan(net, graph)
    if "" in plan.replacements:
        raise ValueError(
            f"`model` (={type(model).__name__}) is a single layer; wrap it in torch.nn.Sequential"
        )
    weights = sum(parameter.numel() for parameter in net.parameters())
    put_in_place(net, plan.replacements)
    _leave_fused_path(net, plan.replacements)
    net._wenable = _State(
        plan=plan,
        method=plan.method,
        original_class=type(model),
        example_shapes=tuple(tuple(getattr(each, "shape", ())) for each in inputs),
        example_dtypes=tuple(getattr(each, "dtype", torch.float32) for each in inputs),
        fixed_macs=full_macs - sum(layer.macs for layer in plan.layers),
        fixed_weights=weights - sum(layer.weights for layer in plan.layers),
        mode=plan.space.full,
        switches={
            knob: tuple(_setter(net, follower) for follower in followers)
            for knob, followers in plan.followers.items()
        },
        norms={
            name: module
            for name, module in net.named_modules()
            if isinstance(module, SwitchableBatchNorm)
        },
    )
    net.__class__ = type(f"Dynamic{type(model).__name__}", (DynamicNetwork, type(model)), {})
    _check_converted(net, inputs, expected, {call.module for call in graph.norms})
    fingerprint = weights_fingerprint(net, with_norms=True)
    net._wenable.calibrations[net.space.full] = Calibration(None, None, fingerprint)
    return net


def warn_if_uncalibrated(net: DynamicNetwork, mode: Mode, use: str) -> bool:
    """Warn where a mode is used for a figure or a file uncalibrated; return whether it is."""
    if net.is_calibrated(mode):
        return False
    warnings.warn(
        f"mode {mode} is {use} with norm statistics that were never estimated for it (or for older"
        " weights); call wenable.calibrate(net, modes, batches) first",
        UncalibratedWarning,
        stacklevel=3,
    )
    return True


# --- steps of convert -----------------------------------------------------------------------------


def _check_convertible(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    if isinstance(model, DynamicNetwork):
        raise ValueError("`model` is already dynamic; convert the network it was made from")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("`model` is a scripted module; convert the network it was scripted from")
    if not any(isinstance(each, torch.Tensor) for each in inputs):
        raise ValueError(
            "`example_input` must be a tensor with a batch dimension, or a tuple of them"
        )
    if any(isinstance(each, torch.Tensor) and (not each.ndim or not len(each)) for each in inputs):
        raise ValueError("`example_input` must hold at least one example, in its first dimension")
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise ValueError(
                f"`model` has NaN or infinite weights in {name!r}; nothing was converted"
            )
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")) and not bool(buffer.isfinite().all()):
            raise ValueError(
                f"`model` has NaN or infinite values in {name!r}; nothing was converted"
            )
    taken = [name for name in vars(DynamicNetwork) if not name.startswith("_")]
    clash = [name for name in taken if hasattr(model, name) and not hasattr(nn.Module, name)]
    if clash:
        raise ValueError(
            f"`model` (={type(model).__name__}) already has an attribute {clash[0]!r}, which a"
            " dynamic network needs"
        )


def _deep_copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever a custom module raises
        raise ValueError(
            f"`model` (={type(model).__name__}) cannot be copied with copy.deepcopy: {error}"
        ) from error


def _setter(net: nn.Module, follower: Follower) -> Callable[[int], None]:
    module: Any = net.get_submodule(follower.module)
    if follower.part is None:
        return module.set_pattern
    return functools.partial(module.set_pattern, part=follower.part)


def _run_counted(net: nn.Module, inputs: tuple[Any, ...]) -> tuple[list[Any], int]:
    """Return the outputs, flattened, and the MACs for one example, counted by torch."""
    examples = next(each.shape[0] for each in inputs if isinstance(each, torch.Tensor))
    counter = FlopCounterMode(display=False)
    # Some networks draw random numbers even in eval mode; both runs get the same ones.
    with _without_gradients(net), _attention_in_steps(), torch.random.fork_rng(), counter:
        torch.manual_seed(0)
        outputs = net(*inputs)
    return tree_flatten(outputs)[0], counter.get_total_flops() // (2 * examples)


@contextmanager
def _attention_in_steps() -> Iterator[None]:
    """Keep torch's attention from its fused path, whose products the counter does not see."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _leave_fused_path(net: nn.Module, replaced: Iterable[str]) -> None:
    """Let every encoder layer that holds a switchable one run through its parts.

    In inference torch's encoder layer hands the weights of its parts to one fused operation, which
    knows nothing of modes; this attribute is what it asks before it does.
    """
    for name in replaced:
        parent = net.get_submodule(name.rpartition(".")[0])
        if isinstance(parent, nn.TransformerEncoderLayer):
            parent.activation_relu_or_gelu = 0


@contextmanager
def _without_gradients(net: nn.Module) -> Iterator[None]:
    """Let no parameter ask for a gradient: the counter fails on one that is handed to a module."""
    asking = [parameter for parameter in net.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        with torch.no_grad():
            yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


def put_in_place(net: nn.Module, replacements: Mapping[str, nn.Module]) -> None:
    """Put each replacement wherever the module it replaces is registered."""
    places: dict[int, list[str]] = {}
    for name, module in net.named_modules(remove_duplicate=False):
        places.setdefault(id(module), []).append(name)
    for name, replacement in replacements.items():
        for place in places[id(net.get_submodule(name))]:
            parent, _, leaf = place.rpartition(".")
            setattr(net.get_submodule(parent), leaf, replacement)


def _check_converted(
    net: Any, inputs: tuple[Any, ...], expected: list[Any], norms: set[str]
) -> None:
    """Compare the full mode with the original, and the cost of the smallest with its formula."""
    with in_eval_mode(net):
        outputs, macs = _run_counted(net, inputs)
    same = len(outputs) == len(expected) and all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(outputs, expected, strict=False)
    )
    if not same or macs != net.macs("full"):
        raise RuntimeError(
            "the converted network does not compute what the original did, so it is not handed back;"
            " this is a defect of wenable: please report the network"
        )
    entered: set[str] = set()
    handles = [
        norm.register_forward_pre_hook(lambda *_, name=name: entered.add(name))
        for name, norm in net.switchable_norms().items()
    ]
    with in_eval_mode(net), net.using("smallest"):
        _, macs = _run_counted(net, inputs)
        expected_macs = net.macs()
    for handle in handles:
        handle.remove()
    past = sorted(norms - entered)
    if past or macs != expected_macs:
        what = f"norm {past[0]!r} is" if past else "some layer is"
        raise RuntimeError(
            f"{what} reached past its registered place (through a plain list, say), so its mode"
            f" cannot be set; the smallest mode costs {macs} MACs, {expected_macs} were expected"
        )
