"""What a dynamic network holds and drops: packed blocks, statistics, whatever moves or changes it."""

import copy
import gc
import io
import random
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.func import functional_call

import wenable as we
from tests.helpers.networks import IMAGES, Dense, Tokens, converted, give_norms_a_past, small_resnet
from wenable.layers.weight_enabled import WeightEnabled

MAKERS = [small_resnet, Tokens, lambda: give_norms_a_past(Dense())]


def enabled_layers(net: nn.Module) -> list[WeightEnabled]:
    return [module for module in net.modules() if isinstance(module, WeightEnabled)]


def answer(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net(x)


@pytest.mark.parametrize("make", MAKERS)
def test_packed_answers_are_those_of_blocks_cut_in_every_pass(make: Callable[[], nn.Module]):
    torch.manual_seed(0)
    net, rng, x = converted(make()).eval(), random.Random(0), torch.randn(IMAGES)
    modes = [net.space.sample(rng) for _ in range(10)]
    we.calibrate(net, modes[:5], [torch.randn(IMAGES) for _ in range(3)])
    for mode in modes * 2:
        net.set_mode(mode)
        # With gradients wanted nothing is packed.
        torch.testing.assert_close(answer(net, x), net(x).detach(), rtol=1e-4, atol=1e-5)


def test_blocks_are_packed_once_and_hold_at_most_fifteen_sixteenths_of_the_weights():
    net, rng = converted().eval(), random.Random(0)
    for mode in (*net.space.uniform_modes(), *(net.space.sample(rng) for _ in range(100))):
        net.set_mode(mode)
        answer(net, torch.randn(IMAGES))
    held = {layer: dict(layer.packed) for layer in enabled_layers(net)}
    expected = sum(
        4 * layer.weights // n for layer in net.switchable_layers for n in layer.options if n > 1
    )
    weights = sum(4 * layer.weights for layer in net.switchable_layers)
    assert net.packed_bytes == expected <= weights * 15 / 16
    net.set_mode("1/2")
    answer(net, torch.randn(IMAGES))
    for layer, packed in held.items():  # the very same tensors: nothing was cut again
        assert all(layer.packed[n] is kept for n, kept in packed.items())
    net.drop_packed()
    assert net.packed_bytes == 0


def test_the_first_use_of_a_mode_holds_its_enabled_weights_and_no_more():
    net = converted().eval()
    assert net.packed_bytes == 0  # what the checks of `convert` packed is given back
    mode = net.space.mode("1/4")
    net.set_mode(mode)
    answer(net, torch.randn(IMAGES))
    enabled = sum(4 * layer.weights // mode[layer.knob] for layer in net.switchable_layers)
    assert net.packed_bytes == enabled


def test_a_calibrated_mode_holds_two_numbers_a_norm_channel():
    net = converted().eval()
    we.calibrate(net, ["1/2", "1/4"], [torch.randn(IMAGES) for _ in range(3)])
    channels = sum(norm.num_features for norm in net.switchable_norms().values())
    for mode in ("1/2", "1/4"):
        kept = net.calibration(mode)
        assert kept is not None
        tensors = [t for each in (kept.statistics or {}).values() for t in (each.mean, each.var)]
        assert sum(t.untyped_storage().nbytes() for t in tensors) == 8 * channels


def in_place(layer: nn.Module) -> None:
    with torch.no_grad():
        layer.get_parameter("weight").mul_(1.5)


def by_optimizer(layer: nn.Module) -> None:
    weight = layer.get_parameter("weight")
    weight.grad = torch.ones_like(weight)
    torch.optim.SGD([weight], 0.1).step()
    weight.grad = None


def by_fused_optimizer(layer: nn.Module) -> None:
    weight = layer.get_parameter("weight")
    weight.grad = torch.ones_like(weight)
    torch.optim.AdamW([weight], 0.1, fused=True).step()  # torch does not count this write
    weight.grad = None


def by_state_dict(layer: nn.Module) -> None:
    state = {name: tensor + 0.1 for name, tensor in layer.state_dict().items()}
    layer.load_state_dict(state)


def by_assignment(layer: nn.Module) -> None:
    layer.weight = nn.Parameter(layer.get_parameter("weight").detach() + 0.1)


def by_new_data(layer: nn.Module) -> None:
    weight = layer.get_parameter("weight")
    for _ in range(3):  # memory that is given back may come to serve the same weight again
        weight.data = weight.data + 0.1


def by_data_behind_eval(layer: nn.Module) -> None:
    layer.train()
    layer.get_parameter("weight").data.mul_(1.5)
    layer.eval()


def by_type_and_back(layer: nn.Module) -> None:
    layer.get_parameter("weight").data.mul_(1.5)
    layer.double().float()


@pytest.mark.parametrize(
    "change",
    [in_place, by_optimizer, by_fused_optimizer, by_state_dict, by_assignment, by_new_data,
     by_data_behind_eval, by_type_and_back],
)  # fmt: skip
def test_packed_blocks_are_never_those_of_older_weights(change: Callable[[nn.Module], None]):
    net, x = converted().eval(), torch.randn(IMAGES)
    for mode in ("1/2", "1/4"):
        net.set_mode(mode)
        before = answer(net, x)
    for layer in enabled_layers(net):
        change(layer)
    gc.collect()
    for mode in ("1/4", "1/2"):
        net.set_mode(mode)
        after = answer(net, x)
        assert not torch.equal(after, before)
        torch.testing.assert_close(after, net(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_the_joined_affine_of_slices_is_never_that_of_older_parameters(fused: bool):
    net, x = converted(give_norms_a_past(Dense())).eval(), torch.randn(IMAGES)
    mode = net.space.sample(random.Random(1))
    we.calibrate(net, mode, [torch.randn(IMAGES) for _ in range(3)])
    net.set_mode(mode)
    answer(net, x)
    parameters = [p for norm in net.switchable_norms().values() for p in norm.parameters()]
    if fused:
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        torch.optim.SGD(parameters, 0.5, fused=True).step()
    else:
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(0.5)
    torch.testing.assert_close(answer(net, x), net(x).detach(), rtol=1e-4, atol=1e-5)


def test_weights_put_in_for_one_call_are_used_and_not_kept():
    net, x = converted().eval(), torch.randn(IMAGES)
    net.set_mode("1/4")
    before = answer(net, x)
    others = {name: parameter.detach() * 1.5 for name, parameter in net.named_parameters()}
    with torch.no_grad():
        other = functional_call(net, others, (x,))
    assert not torch.equal(other, before)
    assert torch.equal(answer(net, x), before)


def test_inference_mode_packs_too_and_training_goes_on_behind_it():
    net, x = converted().eval(), torch.randn(IMAGES)
    net.set_mode("1/4")
    with torch.inference_mode():
        inferred = net(x)
    assert net.packed_bytes > 0
    assert torch.equal(answer(net, x), inferred)
    net(x).sum().backward()


def test_packed_blocks_stay_out_of_copies_and_files():
    net, x = converted().eval(), torch.randn(IMAGES)
    names = list(net.state_dict())
    net.set_mode("1/4")
    expected = answer(net, x)
    other = copy.deepcopy(net)
    assert (other.packed_bytes, list(net.state_dict())) == (0, names)
    assert torch.equal(answer(other, x), expected)
    in_place(enabled_layers(other)[0])
    assert torch.equal(answer(net, x), expected)


def test_packed_blocks_keep_the_memory_format():
    net = converted().eval().to(memory_format=torch.channels_last)
    net.set_mode("1/2")
    x = torch.randn(IMAGES).to(memory_format=torch.channels_last)
    torch.testing.assert_close(answer(net, x), net(x).detach(), rtol=1e-4, atol=1e-5)
    blocks = [layer.packed[2].blocks for layer in enabled_layers(net) if layer.weight.ndim == 4]
    assert blocks
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in blocks)


def test_calibrated_statistics_move_with_the_network():
    net, x = converted().eval(), torch.randn(IMAGES)
    we.calibrate(net, ["1/2", "1/4"], [torch.randn(IMAGES) for _ in range(3)])
    net.set_mode("1/2")
    expected = answer(net, x)
    net.double()
    torch.testing.assert_close(answer(net, x.double()).float(), expected, rtol=1e-4, atol=1e-5)
    for mode in ("1/2", "1/4"):
        kept = net.calibration(mode)
        assert kept is not None
        assert kept.statistics is not None
        assert {each.mean.dtype for each in kept.statistics.values()} == {torch.float64}


def test_a_switch_touches_only_what_differs():
    net = converted().eval()
    touched = []
    for layer in enabled_layers(net):
        switches = net._wenable.switches[net.space.position(layer.knob.name)]
        assert any(switch == layer.set_option for switch in switches)
    first, second = net.space.names[:2]
    net.set_mode(f"1,{first}=1/2")
    watched = tuple(
        tuple(lambda n, name=name: touched.append(name) for _ in switches)
        for name, switches in zip(net.space.names, net._wenable.switches, strict=True)
    )
    net._wenable.switches = watched
    net.set_mode(f"1,{first}=1/2,{second}=1/2")
    assert set(touched) == {second}


def test_a_dynamic_network_is_traced_in_its_mode():
    net, x = converted().eval(), torch.randn(IMAGES)
    net.set_mode("1/2")
    expected = answer(net, x)
    with torch.no_grad():
        program = torch.export.export(net, (x,), strict=False)
        torch.testing.assert_close(program.module()(x), expected, rtol=1e-4, atol=1e-5)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    assert torch.equal(answer(net, x), expected)
