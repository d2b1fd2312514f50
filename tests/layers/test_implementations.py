"""The ways to compute a layer while training: all the same function; the fastest is taken."""

import contextlib
import copy
import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import wenable as we
from tests.helpers import references
from tests.helpers.networks import converted, small_resnet
from tests.helpers.training_runs import SETTINGS, batches, same, weights_of, with_dropout
from tests.layers.test_layers import convolutions
from wenable.core.space import Knob
from wenable.layers import WeightEnabledConv2d, WeightEnabledLinear
from wenable.layers.implementations import DENSE, GROUPED, MATMUL, SPLIT
from wenable.layers.weight_enabled import WeightEnabled
from wenable.training import TrainConfig
from wenable.training import implementations as choosing
from wenable.training.implementation_memory import (
    ImplementationMemory,
    default_memory_path,
    fastest,
)
from wenable.training.implementations import choose_implementations, use_implementations
from wenable.training.loop import Checkpoint
from wenable.training.state import read_checkpoint


def gradients(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Return the gradients of the input and of every parameter, and the output."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(x)
    torch.manual_seed(1)
    wanted = [x, *layer.parameters()]
    given = torch.randn(y.shape, dtype=y.dtype)
    return [*torch.autograd.grad(y, wanted, given), y.detach()]


@settings(max_examples=60)
@given(convolutions(), st.booleans())
def test_every_way_of_a_convolution_is_a_masked_dense_one(drawn, channels_last):
    conv, chain, shuffle, x = drawn
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
        conv = conv.to(memory_format=torch.channels_last)
    layer = WeightEnabledConv2d(conv.double(), Knob("layer", chain), shuffle)
    x = x.double()
    order = references.shuffled_order(conv.in_channels, shuffle)
    for n in chain:
        layer.switch_to(n)
        allowed = references.mask(conv.out_channels, conv.in_channels, n, order)[..., None, None]
        if n == 1:
            allowed = torch.ones_like(allowed)
        masked = copy.deepcopy(conv)
        masked.weight.data.mul_(allowed)
        expected = gradients(masked, x)
        expected[1] = expected[1] * allowed
        for way in layer.implementations_of(n):
            layer.use_implementations({n: way})
            for found, wanted in zip(gradients(layer, x), expected, strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_a_pointwise_convolution_can_be_a_product_and_others_cannot():
    pointwise = WeightEnabledConv2d(nn.Conv2d(8, 8, 1), Knob("layer", (1, 2, 8)))
    wide = WeightEnabledConv2d(nn.Conv2d(8, 8, 3, padding=1), Knob("layer", (1, 2, 8)))
    padded = WeightEnabledConv2d(nn.Conv2d(8, 8, 1, padding=1), Knob("layer", (1, 2, 8)))
    assert pointwise.implementations_of(1) == (GROUPED, MATMUL)
    assert pointwise.implementations_of(8) == (GROUPED, "merged to 2", DENSE, MATMUL)
    assert wide.implementations_of(2) == (GROUPED, DENSE, SPLIT)
    assert MATMUL not in wide.implementations_of(8) + padded.implementations_of(8)
    with pytest.raises(
        ValueError, match=r"'matmul' is no implementation of option 1/2 of 'layer'; all"
    ):
        wide.use_implementations({2: MATMUL})


@pytest.mark.parametrize("shuffle", [1, 2, 4])
@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 8)])
def test_every_way_of_a_dense_layer_is_a_masked_one(shuffle, shape):
    linear = nn.Linear(8, 16).double()
    layer = WeightEnabledLinear(linear, Knob("layer", (1, 2, 4, 8)), shuffle)
    x, order = torch.randn(shape).double(), references.shuffled_order(8, shuffle)
    for n in (2, 4, 8):
        layer.switch_to(n)
        expected = x @ references.masked_weight(linear.weight, n, order).T + linear.bias
        for way in layer.implementations_of(n):
            layer.use_implementations({n: way})
            torch.testing.assert_close(layer(x), expected)
            assert gradients(layer, x)[1].ne(0).sum() == 8 * 16 // n


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d])
def test_in_autocast_every_way_answers_in_the_type_of_the_plain_layer(kind: Any, channels_last):
    x = torch.randn(3, 8) if kind is nn.Linear else torch.randn(3, 8, 4, 4)
    if channels_last and x.ndim == 4:
        x = x.to(memory_format=torch.channels_last)
    plain: Any = kind(8, 8) if kind is nn.Linear else kind(8, 8, 1)
    knob = Knob("layer", (1, 2, 4))
    layer = (WeightEnabledLinear if kind is nn.Linear else WeightEnabledConv2d)(plain, knob)
    with torch.autocast("cpu", torch.bfloat16):
        expected = plain(x).dtype
        assert expected == torch.bfloat16
        for n in knob.options:
            layer.switch_to(n)
            with torch.no_grad():
                assert layer(x).dtype == expected
            for way in layer.implementations_of(n):
                layer.use_implementations({n: way})
                assert layer(x).dtype == expected


def test_without_gradients_a_layer_is_computed_as_extract_writes_it():
    layer = WeightEnabledConv2d(nn.Conv2d(16, 16, 3), Knob("layer", (1, 4)))
    layer.switch_to(4)
    layer.use_implementations({4: DENSE})
    x = torch.randn(1, 16, 6, 6)
    with torch.no_grad():
        assert torch.equal(layer(x), layer.to_plain()(x))


def test_the_fastest_is_taken_only_where_it_is_clearly_so():
    assert fastest({GROUPED: 1.0, DENSE: 0.92, MATMUL: 1.2}) == GROUPED
    assert fastest({GROUPED: 1.0, DENSE: 0.85, MATMUL: 0.8}) == MATMUL


def test_choosing_times_every_way_once_and_remembers(tmp_path, monkeypatch):
    net, path = converted(), tmp_path / "new" / "memory.json"
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    images = batches(1)[0][0]
    with monkeypatch.context() as patch:
        # The device, not the machine under the tests, decides: a slow one makes `dense` the fastest.
        patch.setattr(
            choosing, "_times", lambda calls, _: {n: _cost(n, c) for n, c in calls.items()}
        )
        memory = ImplementationMemory(path)
        chosen = choose_implementations(net, (images,), contextlib.nullcontext, memory)
    layers = {name: m for name, m in net.named_modules() if isinstance(m, WeightEnabled)}
    assert set(chosen) == set(layers)
    for name, ways in chosen.items():
        assert ways == {n: DENSE if n > 1 else GROUPED for n in layers[name].knob.options}
    # Nothing is left of it in the network, in its norms or in the random numbers.
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(not layer.implementations and layer.option == 1 for layer in layers.values())
    monkeypatch.setattr(choosing, "time_implementations", _never)
    assert (
        choose_implementations(net, (images,), contextlib.nullcontext, ImplementationMemory(path))
        == chosen
    )
    with pytest.raises(AssertionError, match="timed"):  # another device
        choose_implementations(
            net, (images,), contextlib.nullcontext, ImplementationMemory(path, "other")
        )
    with pytest.raises(AssertionError, match="timed"):  # another size
        choose_implementations(
            net, (images[:1],), contextlib.nullcontext, ImplementationMemory(path)
        )


def _cost(name: str, call) -> float:
    call()  # each of them runs
    return {GROUPED: 2.0, DENSE: 1.0}.get(name, 3.0)


def _never(*_):
    raise AssertionError("timed")


def test_what_is_timed_is_a_whole_pass():
    layer = WeightEnabledConv2d(nn.Conv2d(8, 8, 1), Knob("layer", (1, 2, 4)))
    times = choosing.time_implementations(layer, torch.empty(2, 8, 4, 4), contextlib.nullcontext)
    assert {n: set(of_option) for n, of_option in times.items()} == {
        n: set(layer.implementations_of(n)) for n in (1, 2, 4)
    }
    assert all(ms > 0 for of_option in times.values() for ms in of_option.values())
    assert layer.weight.grad is None


@pytest.mark.parametrize("content", ["{", '{"format": "other", "version": 1}', "[]", "\0"])
def test_a_damaged_memory_is_told_of_and_replaced(tmp_path, content):
    path = tmp_path / "memory.json"
    path.write_text(content)
    with pytest.warns(RuntimeWarning, match="cannot be read .* timed anew"):
        memory = ImplementationMemory(path)
    memory.put("key", {2: {GROUPED: 1.0}})
    with pytest.warns(RuntimeWarning, match="cannot be read"):
        memory.write()
    assert json.loads(path.read_text())["devices"][memory.device]["key"] == {"2": {GROUPED: 1.0}}


def test_a_memory_that_cannot_be_written_stops_nothing(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    memory = ImplementationMemory(blocked / "memory.json")
    memory.put("key", {2: {GROUPED: 1.0}})
    with pytest.warns(RuntimeWarning, match="cannot be written .* times the implementations again"):
        memory.write()


def test_two_runs_add_to_one_memory(tmp_path):
    path = tmp_path / "memory.json"
    first, second = ImplementationMemory(path), ImplementationMemory(path)
    first.put("one", {2: {GROUPED: 1.0}})
    second.put("two", {2: {GROUPED: 1.0}})
    first.write()
    second.write()
    assert set(json.loads(path.read_text())["devices"][first.device]) == {"one", "two"}


def test_a_timed_run_ends_where_a_grouped_one_does_but_for_rounding(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = TrainConfig(passes=4, epochs=1, learning_rate=0.01)
    nets = {}
    for way in ("grouped", "timed"):
        torch.manual_seed(0)
        nets[way] = converted(small_resnet())
        we.train(nets[way], batches(2), dataclasses.replace(config, implementations=way))
    assert default_memory_path().is_file()
    assert Path(tmp_path) in default_memory_path().parents
    for one, other in zip(weights_of(nets["grouped"]), weights_of(nets["timed"]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_the_choice_is_part_of_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = dataclasses.replace(SETTINGS, implementations="timed")
    way = [DENSE]
    monkeypatch.setattr(
        choosing, "_times", lambda calls, _: {n: 1.0 if n in way else 2.0 for n in calls}
    )
    whole = with_dropout()
    we.train(whole, batches(4), config)
    path, stopped = tmp_path / "run.safetensors", with_dropout()
    first = Checkpoint(path, every_s=0)
    assert not we.train(stopped, batches(4), config, checkpoint=first, should_stop=lambda: True)
    # Another day the machine is another one, and nothing is remembered.
    way[0] = GROUPED
    default_memory_path().unlink()
    header, _ = read_checkpoint(path)
    assert {way for ways in header["implementations"].values() for way in ways.values()} == {
        GROUPED, DENSE,
    }  # fmt: skip
    resumed = with_dropout()
    assert we.train(resumed, batches(4), config, checkpoint=Checkpoint(path, resume=True))
    assert same(weights_of(resumed), weights_of(whole))
    anew = with_dropout()
    with warnings.catch_warnings():
        we.train(anew, batches(4), config)
    assert not same(weights_of(anew), weights_of(whole))  # so the checkpoint did make a difference


def test_implementations_of_unknown_layers_are_refused():
    with pytest.raises(
        ValueError, match=r"`implementations` names 'nothing', which is no switchable"
    ):
        use_implementations(converted(), {"nothing": {2: DENSE}})
