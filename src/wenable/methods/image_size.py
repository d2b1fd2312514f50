"""Image size as a knob: a mode's images are made smaller before the first layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from torch import nn

from wenable.core.setting_types import as_tuple
from wenable.core.space import Knob, Space
from wenable.graph import TracedGraph
from wenable.layers.image_size import ImageSizes, Sides
from wenable.methods.norms import switchable_norms
from wenable.methods.plan import INPUTS, KnobTarget, LeftAlone, Plan
from wenable.methods.remaining import kind_of, remaining

KNOB = "size"
_KEPT = "keeps its weights at every size; smaller images have fewer positions"


@dataclass(frozen=True)
class ImageSize:
    """Let a network run on smaller images: fewer positions for every convolution, the same weights.

    There is one knob, `size`, whose options are written as sizes: `"160"`, and beside other knobs
    `"1/4,size=160"`. Option n is the n-th size from the largest. The network takes full images in
    every mode and makes them smaller itself, antialiased (`wenable.core.resampling`); images that have
    the mode's size already go straight in.

    - `sizes`: of the images' shorter side, from the largest down. The largest is that of the example
      input. Height and width shrink by the same ratio, and both must come out whole.

    Weights are those of every size; batch norms have statistics for each mode, the size included.
    Multiply-accumulates are counted for each size, from an image of that size on: making it smaller is
    not among them.

    Raises `ValueError` for sizes that do not descend; and when it meets a network, for an example of
    another size, for sides that do not come out whole, and for a network that does not run on
    smaller images or then gives outputs of another shape. Outputs `(N, C, H, W)` may shrink as the
    image does.

    >>> ImageSize((224, 192, 160)).sizes
    (224, 192, 160)

    Source: Yang et al., MutualNet: Adaptive ConvNet via Mutual Learning from Network Width and
    Resolution (ECCV 2020, arXiv:1909.12978); Wang et al., Resolution Switchable Networks for Runtime
    Efficient Image Recognition (ECCV 2020).
    """

    fits_bundle: ClassVar[bool] = True

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        one = isinstance(self.sizes, int)
        sizes = (self.sizes,) if one else as_tuple("sizes", self.sizes, "(64, 48, 32)")
        object.__setattr__(self, "sizes", sizes)
        whole = all(type(size) is int and size > 0 for size in sizes)
        if not whole or len(sizes) < 2 or any(a <= b for a, b in pairwise(sizes)):
            raise ValueError(
                f"`sizes` (={sizes}) must be two or more whole numbers above 0 that descend, the full"
                " size of the images' shorter side first"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return {"method": "image-size", "sizes": list(self.sizes)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ImageSize:
        """Return the method written by `to_json`; raises `ValueError` where it is not one."""
        if values.get("method") != "image-size":
            raise ValueError(f"`method` (={values.get('method')!r}) is not 'image-size'")
        try:
            return cls(tuple(int(size) for size in values["sizes"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"`values` is not the JSON form of the method: {error}") from error

    def plan(self, model: nn.Module, graph: TracedGraph) -> Plan:
        """Return the sizes of a traced network's images; its norms have statistics for each mode.

        Raises `ValueError` for an input without images of the largest size, and for a batch norm of
        a class that is not known.
        """
        place, full = self._images(graph)
        knob = Knob(
            KNOB, tuple(range(1, len(self.sizes) + 1)), labels=tuple(map(str, self.sizes)),
            by_name=True,
        )  # fmt: skip
        sides = {
            n: self._sides(full, size) for n, size in zip(knob.options, self.sizes, strict=True)
        }
        norms, _ = switchable_norms(model, graph, {})
        return Plan(
            space=Space((knob,)),
            replacements=norms,
            followers={KNOB: (KnobTarget(INPUTS),)},
            layers=(),
            left_alone=self._left_alone(model, graph),
            method=self,
            image_sizes=ImageSizes(place, sides),
        )

    def _left_alone(self, model: nn.Module, graph: TracedGraph) -> tuple[LeftAlone, ...]:
        names = dict.fromkeys(call.module for call in graph.layers)
        kinds = {name: kind_of(model.get_submodule(name)) for name in names}
        kept = [LeftAlone(name, kind, graph.macs(name), _KEPT) for name, kind in kinds.items()]
        return (*kept, *remaining(model, graph, names))

    def _images(self, graph: TracedGraph) -> tuple[int, Sides]:
        """Return which input is the images, and their height and width."""
        images = [place for place, shape in enumerate(graph.inputs) if shape and len(shape) == 4]
        if len(images) != 1:
            shapes = ", ".join(str(shape) for shape in graph.inputs if shape)
            raise ValueError(
                f"`example_input` (of shape {shapes}) must hold images (N, C, H, W) in exactly one input,"
                " for a network that switches their size"
            )
        *_, height, width = graph.inputs[images[0]] or (0, 0)
        if min(height, width) != self.sizes[0]:
            raise ValueError(
                f"`sizes` (={self.sizes}) must start at the shorter side of the example's images, which"
                f" are {height}x{width}: give an example of the largest size"
            )
        return images[0], (height, width)

    def _sides(self, full: Sides, size: int) -> Sides:
        """Return height and width at a size; both shrink by the same ratio."""
        for side in full:
            if side * size % self.sizes[0]:
                raise ValueError(
                    f"`sizes` holds {size}, at which images of {full[0]}x{full[1]} would have a side of"
                    f" {side * size / self.sizes[0]:.4g} pixels; height and width shrink by the same ratio,"
                    " and both must come out whole"
                )
        height, width = (side * size // self.sizes[0] for side in full)
        return height, width
