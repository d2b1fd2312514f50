"""A method of your own: elastic kernels, the 5x5 convolutions of a network run as 5x5, 3x3 or 1x1.

Run it with `python examples/own_method.py`: seconds on two cores. A method is a plan: the knobs, the
modules that switch, and what each option costs. Everything else (training, calibration, search,
extraction) then works with it. The idea is that of once-for-all networks (Cai et al., 2020), without
the small matrices that they put between the kernels.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

import wenable as we
from wenable.data import batches, digits
from wenable.graph import TracedGraph
from wenable.methods.norms import switchable_norms
from wenable.methods.plan import Plan, SwitchableLayer
from wenable.methods.remaining import remaining

SIZES = (5, 3, 1)


class ElasticConv2d(nn.Conv2d):
    """A 5x5 convolution of which an option uses the middle: option n is the n-th of `SIZES`."""

    def __init__(self, layer: nn.Conv2d) -> None:
        stride = cast(tuple[int, int], layer.stride)
        super().__init__(layer.in_channels, layer.out_channels, 5, stride, 2, device="meta")
        # The weights are taken over and not copied, so they keep their names and values.
        self.weight, self.bias = layer.weight, layer.bias
        self.option = 1

    def set_option(self, n: int) -> None:
        """Use option `n` from the next pass on."""
        self.option = n

    def _cut(self) -> tuple[torch.Tensor, int]:
        margin = self.option - 1
        middle = slice(margin, 5 - margin)
        return self.weight[:, :, middle, middle], 2 - margin

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve with the middle of the kernel, `(N, in, H, W)` to `(N, out, H', W')`."""
        weight, padding = self._cut()
        return nn.functional.conv2d(input, weight, self.bias, self.stride, padding)

    def to_plain(self) -> nn.Conv2d:
        """Return the plain convolution of the present option, for `extract`."""
        weight, padding = self._cut()
        stride = cast(tuple[int, int], self.stride)
        sizes = (self.in_channels, self.out_channels, weight.shape[-1])
        plain = nn.Conv2d(*sizes, stride, padding, bias=self.bias is not None)
        plain.weight = nn.Parameter(weight.detach().clone())
        if self.bias is not None:
            plain.bias = nn.Parameter(self.bias.detach().clone())
        return plain


@dataclass(frozen=True)
class ElasticKernels:
    """Switch every 5x5 convolution between 5x5, 3x3 and 1x1."""

    def plan(self, model: nn.Module, graph: TracedGraph) -> Plan:
        """Return the plan for a traced network; raises `ValueError` if no layer can switch."""
        found = [call.module for call in graph.layers if _fits(model.get_submodule(call.module))]
        if not found:
            raise ValueError("the network has no 5x5 convolution with padding 2 and groups 1")
        labels = tuple(f"{size}x{size}" for size in SIZES)
        knobs = {name: we.Knob(name, (1, 2, 3), labels=labels) for name in found}
        norms, followers = switchable_norms(model, graph, knobs)
        layers = {name: ElasticConv2d(cast(nn.Conv2d, model.get_submodule(name))) for name in found}
        return Plan(
            space=we.Space(tuple(knobs.values())),
            replacements={**layers, **norms},
            followers=followers,
            layers=tuple(_described(name, layers[name], graph.macs(name)) for name in found),
            left_alone=tuple(remaining(model, graph, found)),
            method=self,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the settings; `wenable.load` knows only the methods of the package."""
        return {"method": "elastic-kernels"}


def _fits(layer: nn.Module) -> bool:
    plain = type(layer) is nn.Conv2d and layer.groups == 1 and layer.dilation == (1, 1)
    return plain and layer.kernel_size == (5, 5) and layer.padding == (2, 2)


def _described(name: str, layer: ElasticConv2d, macs: int) -> SwitchableLayer:
    """Return a layer for the counts: its cost is in proportion to the area of the kernel."""
    outputs, inputs = layer.weight.shape[:2]
    return SwitchableLayer(
        name=name,
        knob=name,
        kind="convolution",
        options=(1, 2, 3),
        inputs=inputs,
        outputs=outputs,
        macs=macs,
        weights=layer.weight.numel(),
        shuffle=None,
        macs_by_option=tuple(macs * size**2 // 25 for size in SIZES),
        weights_by_option=tuple(inputs * outputs * size**2 for size in SIZES),
    )


def main() -> None:
    """Convert with the method, train, calibrate, and extract a mode."""
    torch.manual_seed(0)
    splits = digits()
    layers: list[nn.Module] = []
    for inputs in (1, 32, 32):
        layers += [nn.Conv2d(inputs, 32, 5, padding=2), nn.BatchNorm2d(32), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    net = we.convert(model, torch.zeros(1, 1, 8, 8), method=ElasticKernels())

    loader = batches(splits.train, 64, shuffle_seed=0)
    we.train(net, loader, we.TrainConfig(passes=3, epochs=6))
    modes = net.space.uniform_modes()
    we.calibrate(net, modes, list(batches(splits.train, 256)))
    test = list(batches(splits.test, 250))
    for mode in modes:
        print(f"{mode!s:>5}  {net.macs(mode) / 1e6:5.2f} M MACs  {we.evaluate(net, mode, test)}")
    plain = we.extract(net, "3x3")
    print(f"extracted: {plain.get_submodule('3')}")


if __name__ == "__main__":
    main()
