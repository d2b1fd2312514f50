"""A small bundle, opened, and images for it."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

import wenable as we
from tests.helpers.networks import converted, small_resnet
from wenable.runtime.session import Session


def small_bundle(folder: Path) -> Path:
    """Return a bundle of a small network: its uniform modes, and a mixed one."""
    net = converted(small_resnet()).eval()
    modes = [*net.space.uniform_modes(), net.space.sample(random.Random(3))]
    images = torch.randn(
        16, *net.example_batch[0].shape[1:], generator=torch.Generator().manual_seed(5)
    )
    we.calibrate(net, modes, [images])
    return we.export(net, modes, folder / "net.wen")


def opened(path: Path, **settings: Any) -> Session:
    return Session(path, engine="onnxruntime", threads=1, **settings)


def images(count: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 6, 6), dtype=np.float32)


class Counting:
    """An engine that counts how often it prepares each model."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.prepared = engine, Counter[bytes]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def prepare(self, model: bytes) -> Any:
        self.prepared[model] += 1
        return self.engine.prepare(model)
