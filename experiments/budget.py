"""What every method of a comparison is given: the same data, passes, batches and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from wenable.training.config import TrainConfig
from wenable.training.recipes import Recipe, recipe_named

PathSearch = Literal["greedy", "greedy-lazy"]
APART, SHELF = "comparisons apart", "off the shelf"
"""What `Scale.fewer_seeds` may name besides networks: comparisons apart from the paper's claim, and small
networks off the shelf."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How much of what one network is trained on, whatever the method.

    - `epochs`, `passes`, `batch_size`: of Algorithm 1; `passes` forward and backward a step.
    - `recipe`: where optimizer and augmentation come from; `learning_rate` replaces its own.
    - `calibration_images`, `search_images`, `test_images`: how many of each split are used; None for
      all of them.
    """

    epochs: int
    passes: int
    batch_size: int
    recipe: str = "cifar"
    learning_rate: float = 0.1
    calibration_images: int = 1024
    search_images: int | None = 2000
    test_images: int | None = None

    def recipe_for(self, seed: int) -> Recipe:
        """Return the recipe of a run with this budget."""
        recipe = recipe_named(self.recipe)
        training = replace(
            recipe.training,
            epochs=self.epochs,
            passes=self.passes,
            learning_rate=self.learning_rate,
            implementations="grouped",
            seed=seed,
        )
        return replace(
            recipe,
            training=training,
            batch_size=self.batch_size,
            calibration_images=self.calibration_images,
        )

    def training(self, seed: int) -> TrainConfig:
        """Return the settings of a run with this budget."""
        return self.recipe_for(seed).training

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


SAME_EPOCHS, SAME_PASSES = "same epochs", "same passes"


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a comparison is: the networks, each with its budget, and the seeds.

    - `resnet`, `mobilenet`, `efficientnet`: names in `experiments.networks`; an empty one is left out.
    - `image_size`: what the data are prepared for.
    - `fewer_seeds`: for a network, for `APART` or `SHELF`, the seeds that are run where these are not all.
    - `shelf_passes`: how long small networks off the shelf are trained: over as many epochs as the dynamic
      network, whose steps have several passes, or for as many passes, which is several times the epochs.
    - `networks_apart`: the networks that comparisons apart from the main one are made with; None for all.
    - `longer`: how many times as long comparisons apart are trained; 1 for no longer.
    - `path_search`: the search that stands for Algorithm 2, for a network whose path takes too long to
      find exactly: `"greedy-lazy"`, an approximation, named in the results.
    """

    resnet: str
    mobilenet: str
    efficientnet: str
    budgets: Mapping[str, Budget]
    seeds: tuple[int, ...]
    image_size: int = 32
    fewer_seeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    path_search: Mapping[str, PathSearch] = field(default_factory=dict)
    shelf_passes: tuple[str, ...] = (SAME_EPOCHS, SAME_PASSES)
    networks_apart: tuple[str, ...] | None = None
    longer: int = 1

    def seeds_of(self, network: str, what: str = "") -> tuple[int, ...]:
        """Return the seeds of a network: all, or those of `APART` or `SHELF`."""
        allowed = self.fewer_seeds.get(what, self.seeds)
        return tuple(seed for seed in self.fewer_seeds.get(network, self.seeds) if seed in allowed)

    def path_search_of(self, network: str) -> PathSearch:
        """Return the search that stands for Algorithm 2."""
        return self.path_search.get(network, "greedy")

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks of the scale, the ResNet first."""
        return tuple(name for name in (self.resnet, self.mobilenet, self.efficientnet) if name)


_SMOKE = Budget(1, 2, 16, calibration_images=16, search_images=None)
_GPU = Budget(60, 6, 256, calibration_images=2048, search_images=None)
_PAPER = {"calibration_images": 4096, "search_images": 10_000}

SCALES = {
    "smoke": Scale(
        "tiny-bottleneck-resnet", "", "", {"tiny-bottleneck-resnet": _SMOKE},
        seeds=(0, 1),
        longer=2,
    ),
    "cpu": Scale(
        "small-bottleneck-resnet", "mobilenet-v2-0.35", "",
        {
            "small-bottleneck-resnet": Budget(2, 4, 64),
            "mobilenet-v2-0.35": Budget(1, 4, 64, search_images=1000),
        },
        seeds=(0, 1, 2),
        fewer_seeds={"mobilenet-v2-0.35": (0,), APART: (0,), SHELF: (0,)},
        path_search={"mobilenet-v2-0.35": "greedy-lazy"},
        shelf_passes=(SAME_EPOCHS,),
        networks_apart=("small-bottleneck-resnet",),
        longer=3,
    ),
    "gpu": Scale(
        "resnet50", "mobilenet-v2", "efficientnet-b0",
        {"resnet50": _GPU, "mobilenet-v2": _GPU, "efficientnet-b0": _GPU},
        seeds=(0, 1, 2),
        longer=2,
    ),
    "imagenet": Scale(
        "imagenet-resnet50", "imagenet-mobilenet-v2", "imagenet-efficientnet-b0",
        {
            "imagenet-resnet50": Budget(90, 20, 256, "paper-resnet50", 0.1, **_PAPER),
            "imagenet-mobilenet-v2": Budget(300, 20, 256, "paper-mobilenet-v2", 0.045, **_PAPER),
            "imagenet-efficientnet-b0": Budget(450, 20, 768, "paper-efficientnet-b0", 0.048, **_PAPER),
        },
        seeds=(0,),
        image_size=224,
    ),
}  # fmt: skip
"""`smoke` runs in the tests, `cpu` on two processor cores in hours, `gpu` on one GPU, and `imagenet` is
the paper's setting, which nobody here has run."""


def scale_named(name: str) -> Scale:
    """Return a scale by name; raises `ValueError` for an unknown one."""
    if name not in SCALES:
        raise ValueError(f"`--scale` (={name!r}) is unknown; allowed: {', '.join(SCALES)}")
    return SCALES[name]
