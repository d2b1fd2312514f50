"""What a mode costs, against closed forms that are written out here, and whatever kernel ran."""

import copy
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import wenable as we
from wenable.graph import examples_in, run_counted


def counted(model: nn.Module, *inputs: torch.Tensor) -> int:
    return run_counted(model.eval(), inputs)[1]


class Function(nn.Module):
    """A network that is one function of its inputs."""

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(*inputs)


# --- one operation --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Linear(6, 10), (2, 6), 2 * 60),
        (nn.Linear(6, 10), (6,), 60),
        (nn.Linear(6, 10, bias=False), (2, 3, 5, 6), 30 * 60),
        (nn.Conv1d(4, 6, 3), (2, 4, 10), 2 * 8 * 6 * 4 * 3),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 8, 8), 2 * 16 * 6 * 4 * 9),
        (nn.Conv2d(4, 6, 3, padding="same", dilation=2), (2, 4, 8, 8), 2 * 64 * 6 * 4 * 9),
        (nn.Conv2d(4, 6, 3), (4, 8, 8), 36 * 6 * 4 * 9),
        (nn.Conv2d(4, 8, 3, groups=4), (2, 4, 8, 8), 2 * 36 * 8 * 9),
        (nn.Conv3d(2, 4, 3), (1, 2, 4, 4, 4), 8 * 4 * 2 * 27),
        # Each number of the input is multiplied with every output channel's kernel.
        (nn.ConvTranspose1d(4, 6, 3, stride=2), (2, 4, 10), 2 * 10 * 4 * 6 * 3),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (2, 4, 8, 8), 2 * 64 * 4 * 6 * 4),
        (nn.ConvTranspose2d(4, 8, 4, stride=2, groups=4), (2, 4, 8, 8), 2 * 64 * 4 * 2 * 16),
        (nn.ConvTranspose3d(2, 4, 2), (1, 2, 3, 3, 3), 27 * 2 * 4 * 8),
    ],
)
def test_layers_cost_what_their_shapes_say(layer: nn.Module, shape: tuple[int, ...], macs: int):
    x = torch.randn(shape)
    assert counted(layer, x) == macs
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:  # right for these, and written by others
        layer(x if layer.__class__ is not nn.Linear or x.ndim > 1 else x[None])
    assert counter.get_total_flops() == 2 * macs


@pytest.mark.parametrize(
    ("function", "shapes", "macs"),
    [
        (torch.matmul, [(7, 5), (5, 3)], 7 * 5 * 3),
        (torch.matmul, [(2, 4, 7, 5), (5, 3)], 8 * 7 * 5 * 3),
        (torch.matmul, [(4, 1, 7, 5), (2, 5, 3)], 8 * 7 * 5 * 3),
        (torch.matmul, [(7, 5), (5,)], 35),
        (torch.matmul, [(5,), (5, 3)], 15),
        (torch.matmul, [(5,), (5,)], 5),
        (torch.mv, [(7, 5), (5,)], 35),
        (torch.dot, [(5,), (5,)], 5),
        (torch.inner, [(2, 7, 5), (3, 5)], 14 * 3 * 5),
        (torch.addmm, [(7, 3), (7, 5), (5, 3)], 7 * 5 * 3),
        (torch.addmv, [(7,), (7, 5), (5,)], 35),
        (torch.bmm, [(2, 7, 5), (2, 5, 3)], 2 * 7 * 5 * 3),
        (torch.baddbmm, [(2, 7, 3), (2, 7, 5), (2, 5, 3)], 2 * 7 * 5 * 3),
        (torch.addbmm, [(7, 3), (2, 7, 5), (2, 5, 3)], 2 * 7 * 5 * 3),
        (
            lambda a, b: torch.einsum("bqc,bchw->bqhw", a, b),
            [(2, 7, 5), (2, 5, 3, 4)],
            2 * 7 * 5 * 12,
        ),
        (lambda a, b: torch.einsum("bi,bi->b", a, b), [(2, 5), (2, 5)], 10),
        (lambda a, b: torch.tensordot(a, b, dims=2), [(7, 3, 5), (3, 5, 2)], 7 * 15 * 2),
        (lambda a, b, c: torch.linalg.multi_dot([a, b, c]), [(2, 9), (9, 3), (3, 8)], 54 + 48),
        (F.bilinear, [(2, 6, 3), (2, 6, 4), (5, 3, 4)], 12 * 5 * 12),
        (F.linear, [(2, 6), (10, 6)], 120),
        (F.conv2d, [(2, 4, 8, 8), (6, 4, 3, 3)], 2 * 36 * 6 * 36),
        (lambda x, w: F.conv2d(x, w, groups=2), [(2, 4, 8, 8), (6, 2, 3, 3)], 2 * 36 * 6 * 18),
        (F.conv_transpose2d, [(2, 4, 8, 8), (4, 6, 3, 3)], 2 * 64 * 4 * 54),
        (lambda a, b: a * b + a.outer(b)[0], [(5,), (5,)], 0),
        (lambda a: F.avg_pool2d(F.interpolate(a, scale_factor=2), 3).softmax(1), [(2, 3, 8, 8)], 0),
    ],
)
def test_functions_cost_what_their_shapes_say(function, shapes: list[tuple[int, ...]], macs: int):
    assert counted(Function(function), *map(torch.randn, shapes)) == macs


# --- attention ------------------------------------------------------------------------------------


BACKENDS = [nullcontext, lambda: sdpa_kernel(SDPBackend.MATH)]


@pytest.mark.parametrize("context", BACKENDS)
@pytest.mark.parametrize("settings", [{}, {"is_causal": True}, {"attn_mask": torch.zeros(7, 9)}])
def test_attention_costs_the_same_fused_or_not(context, settings):
    queries, keys, values = (torch.randn(2, 4, n, d) for n, d in ((7, 8), (9, 8), (9, 8)))
    fused = Function(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **settings))
    written_out = Function(lambda q, k, v: (q @ k.mT).softmax(-1) @ v)
    closed = 2 * 4 * 7 * 9 * (8 + 8)
    with context():
        assert counted(fused, queries, keys, values) == closed
    assert counted(written_out, queries, keys, values) == closed


def test_heads_that_share_keys_and_wider_values_count_as_they_are():
    shared = Function(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True))
    x = (torch.randn(2, 8, 7, 16), torch.randn(2, 2, 9, 16), torch.randn(2, 2, 9, 16))
    assert counted(shared, *x) == 2 * 8 * 7 * 9 * 32
    wide = (torch.randn(2, 4, 7, 8), torch.randn(2, 4, 9, 8), torch.randn(2, 4, 9, 12))
    assert counted(Function(F.scaled_dot_product_attention), *wide) == 2 * 4 * 7 * 9 * (8 + 12)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("gradients", [True, False])
def test_torchs_own_attention_costs_its_projections_and_products(need_weights, gradients):
    attention = nn.MultiheadAttention(16, 4, batch_first=True).requires_grad_(gradients)
    x = torch.randn(2, 10, 16)
    network = Function(lambda y: attention(y, y, y, need_weights=need_weights)[0])
    network.attention = attention
    assert counted(network, x) == 2 * (4 * 10 * 16 * 16 + 2 * 10 * 10 * 16)


def test_a_transformer_costs_the_same_on_every_way_through_it():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2).eval()
    per_layer = 4 * 10 * 16 * 16 + 2 * 10 * 10 * 16 + 2 * 10 * 16 * 32
    x = torch.randn(3, 10, 16)
    assert counted(encoder, x) == 3 * 2 * per_layer
    padded = Function(lambda y: encoder(y, src_key_padding_mask=torch.zeros(3, 10).bool()))
    padded.encoder = encoder
    assert counted(padded, x) == 3 * 2 * per_layer


# --- recurrent layers -----------------------------------------------------------------------------


@pytest.mark.filterwarnings(
    "ignore:TF32 acceleration"
)  # torch's own notice when oneDNN is switched
@pytest.mark.parametrize("mkldnn", [True, False])
@pytest.mark.parametrize(
    ("kind", "gates"),
    [
        (nn.LSTM, 4),
        (nn.GRU, 3),
        (nn.RNN, 1),
        (lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k), 1),
    ],
)
@pytest.mark.parametrize("batch_first", [True, False])
def test_recurrent_layers_cost_every_weight_at_every_step(kind, gates, batch_first, mkldnn):
    with torch.backends.mkldnn.flags(enabled=mkldnn):
        x = torch.randn(3, 7, 5)
        one = kind(5, 6, batch_first=batch_first)
        assert counted(one, x) == 21 * gates * 6 * (5 + 6)
        assert counted(one, x[0]) == 7 * gates * 6 * (5 + 6)  # without a batch
        two = kind(5, 6, num_layers=2, bidirectional=True, batch_first=batch_first)
        first, second = gates * 6 * (5 + 6), gates * 6 * (12 + 6)
        assert counted(two, x) == 21 * 2 * (first + second)


# torch's own notice, once in a process
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_a_projected_lstm_and_packed_sequences_count_what_they_hold():
    projected = nn.LSTM(5, 6, proj_size=4)
    assert counted(projected, torch.randn(7, 3, 5)) == 21 * (4 * 6 * (5 + 4) + 6 * 4)
    lengths = [7, 4, 2]
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(7, 3, 5), lengths)
    for kind, gates in ((nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)):
        layer = kind(5, 6, bidirectional=True)
        network = Function(lambda _, layer=layer: layer(packed)[0].data)
        network.layer = layer
        assert counted(network, torch.ones(1)) == sum(lengths) * 2 * gates * 6 * (5 + 6)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTMCell, 4), (nn.GRUCell, 3), (nn.RNNCell, 1)])
def test_cells_cost_their_weights_once(kind, gates: int):
    assert counted(kind(5, 6), torch.randn(3, 5)) == 3 * gates * 6 * (5 + 6)
    assert counted(kind(5, 6), torch.randn(5)) == gates * 6 * (5 + 6)


# --- whole networks -------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.lstm = nn.Linear(64, 64), nn.LSTM(64, 128, batch_first=True)
        self.wide, self.head = nn.Linear(128, 256), nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.wide(self.lstm(self.before(x))[0])))


def test_a_recurrent_layer_counts_in_every_mode():
    net = we.convert(Recurrent(), torch.randn(2, 20, 64))
    lstm = 20 * 4 * 128 * (64 + 128)
    fixed = lstm + 20 * 2560
    switched = 20 * (64 * 64 + 128 * 256)
    assert lstm == 1_966_080
    assert {each.name: each.macs for each in net.left_alone} == {"lstm": lstm, "head": 20 * 2560}
    for n in (1, 2, 4, 8, 16):
        assert net.macs(f"1/{n}") == fixed + switched // n


def test_the_network_of_the_report_has_its_two_million():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.lstm = nn.Linear(32, 64), nn.LSTM(64, 128)
            self.b = nn.Linear(128, 22)

        def forward(self, x):
            return self.b(self.lstm(self.a(x))[0][-1])

    net = we.convert(Net(), torch.randn(20, 1, 32))
    # 20 steps of the first layer and the LSTM, and one of the last: the whole input is one example.
    assert net.macs() == 20 * (32 * 64 + 4 * 128 * 192) + 128 * 22
    assert examples_in(Net().eval(), (torch.randn(20, 1, 32),)) == 1


class Shared(nn.Module):
    """One convolution over maps of several sizes, as the head of a detector."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.tower = nn.Conv2d(8, 64, 1), nn.Conv2d(64, 64, 3, padding=1)
        self.head = nn.Conv2d(64, 4, 1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.stem(x)
        sizes = (x, F.max_pool2d(x, 2), F.max_pool2d(x, 4))
        return [self.head(self.tower(each)) for each in sizes]


@pytest.mark.parametrize("method", [we.WeightEnabling((1, 2)), we.SwitchablePrecision((32, 8))])
def test_a_layer_called_at_several_sizes_costs_the_sum(method):
    net = we.convert(Shared(), torch.randn(2, 8, 16, 16), method=method)
    layers = {each.name: each.macs for each in (*net.left_alone, *net.switchable_layers)}
    assert layers["tower"] == (256 + 64 + 16) * 9 * 64 * 64 == 12_386_304
    assert layers["head"] == (256 + 64 + 16) * 64 * 4
    assert sum(layers.values()) == net.macs("full")


# --- what a count is for --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "shape", "examples"),
    [
        (nn.Conv2d(4, 4, 3), (3, 4, 8, 8), 3),
        (nn.Conv2d(4, 4, 3), (4, 8, 8), 1),
        (nn.LSTM(4, 4), (5, 2, 4), 1),
        (nn.LSTM(4, 4, batch_first=True), (5, 2, 4), 5),
        (nn.GRU(4, 4), (5, 4), 1),
        (nn.TransformerEncoderLayer(8, 2, 8), (5, 2, 8), 1),
        (nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), (5, 2, 8), 5),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()), (2, 3, 6, 6), 2),
        (Function(lambda x: x.unfold(1, 2, 2).flatten(0, 1)), (2, 6), 2),  # windows in the batch
        (Function(lambda x: x.cumsum(0)), (4, 3), 1),
        (Function(lambda x: x.flip(0).cumsum(0).flip(0)), (4, 3), 1),
        (Function(lambda x: x.mean(0)), (4, 3), 1),
    ],
)
@pytest.mark.parametrize("ones", [False, True])
def test_whether_the_first_dimension_is_a_batch_is_tried(model, shape, examples, ones):
    x = torch.ones(shape) if ones else torch.randn(shape)
    assert examples_in(model.eval(), (x,)) == examples


def test_tokens_and_several_inputs_have_their_batch():
    words = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2)).eval()
    assert examples_in(words, (torch.zeros(4, 3, dtype=torch.long),)) == 4
    assert examples_in(words, (torch.arange(12).reshape(4, 3) % 9,)) == 4
    masked = Function(lambda x, mask: (x @ x.mT + mask).softmax(-1) @ x)
    assert examples_in(masked, (torch.randn(2, 5, 4), torch.zeros(5, 5))) == 2


def test_an_image_without_a_batch_counts_whole():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    model.append(nn.Conv2d(8, 2, 1))
    whole = 64 * (3 * 8 * 9 + 8 * 8 * 9 + 16)
    assert run_counted(model, (torch.randn(3, 8, 8),))[1] == whole
    # Layers find their channels behind the batch, so nothing in it switches.
    with pytest.raises(ValueError, match="reads an input without a batch"):
        we.convert(model, torch.randn(3, 8, 8))
    assert we.convert(model, torch.randn(3, 3, 8, 8)).macs() == whole
    assert we.convert(model, torch.randn(1, 3, 8, 8)).macs() == whole


# --- layers that are replaced after `convert` ------------------------------------------------------


def plain_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(8 * 9, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def test_counts_follow_a_new_head():
    net = we.convert(plain_network(), torch.randn(2, 4, 6, 6), method=we.WeightEnabling((1, 2)))
    convolutions, dense = 36 * 9 * (32 + 64), 72 * 64
    assert [net.macs(f"1/{n}") for n in (1, 2)] == [
        (convolutions + dense) // n + 640 for n in (1, 2)
    ]
    weights = net.parameter_count()
    net.set_mode("1/2")
    net[7] = nn.Linear(64, 3)
    assert net.macs("full") == convolutions + dense + 64 * 3
    assert net.macs() == (convolutions + dense) // 2 + 64 * 3
    assert net.parameter_count("full") == weights - 7 * 65
    assert net.bit_operations("full") == net.macs("full") * 1024
    assert net.mode == net.space.mode("1/2")
    assert [(each.name, each.macs, each.reason) for each in net.left_alone] == [
        ("7", 192, "was put in after `convert`")
    ]
    net[7].weight = nn.Parameter(torch.randn(5, 64))  # another size in the same place
    net[7].bias = nn.Parameter(torch.randn(5))
    assert net.macs("full") == convolutions + dense + 64 * 5


def test_counts_follow_what_changes_the_size_of_later_layers():
    net = we.convert(plain_network(), torch.randn(2, 4, 12, 12)[:, :, :6, :6])
    net[1] = nn.Sequential(
        nn.Conv2d(8, 8, 1, groups=8), nn.MaxPool2d(2), nn.Upsample(scale_factor=2)
    )
    assert net.macs("full") == 36 * 9 * (32 + 64) + 36 * 8 + 72 * 64 + 640
    net[1] = nn.MaxPool2d(2)  # the next convolution runs on a quarter of the positions
    net[3] = nn.Identity()
    assert net.macs("full") == 36 * 9 * 32 + 9 * 9 * 64 + 72 * 64 + 640
    assert {each.name: each.macs for each in net.switchable_layers}["2"] == 9 * 9 * 64


def test_a_replaced_layer_with_a_knob_is_refused_and_counted_no_more():
    net = we.convert(plain_network(), torch.randn(2, 4, 6, 6))
    net[2] = nn.Conv2d(8, 8, 1)
    for count in (net.macs, net.parameter_count, net.bit_operations):
        with pytest.raises(ValueError, match="'2' was replaced after `convert`"):
            count()
    exits = we.convert(Images(), torch.randn(2, 4, 6, 6), method=we.EarlyExits(("body",)))
    exits.fc = nn.Linear(8, 5)
    with pytest.raises(ValueError, match="'fc' was replaced after `convert`"):
        exits.macs()


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.tail = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.gru, self.fc = nn.GRU(8, 8, batch_first=True), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.tail(self.body(x)).flatten(2).mT
        return self.fc((self.gru(rows)[0] @ rows.mT @ rows).mean(1))


def test_an_exit_saves_what_stands_behind_it_recurrent_or_attention():
    net = we.convert(Images(), torch.randn(2, 4, 6, 6), method=we.EarlyExits(("body",)))
    body, tail = 36 * 9 * 4 * 8, 36 * 9 * 8 * 8
    behind = 36 * 3 * 8 * 16 + 2 * 36 * 36 * 8 + 8 * 5
    assert net.macs("full") == body + tail + behind
    assert net.macs("body") == body + 8 * 5


def test_a_copy_of_a_network_keeps_its_counts():
    net = we.convert(plain_network(), torch.randn(2, 4, 6, 6))
    twin = copy.deepcopy(net)
    assert twin.macs() == net.macs()
    twin[7] = nn.Linear(64, 3)
    assert twin.macs() == net.macs() - 7 * 64
