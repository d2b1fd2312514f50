"""Writes what `make test-device` runs without torch: a bundle of each method, and the answers of its modes.

    python tests/for_a_device.py out/device

For each method, and for some that are composed, `NAME.wen` and `NAME.npz`: images, and the answer of every
mode for them, of the network itself in PyTorch. Not collected by pytest.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch

import wenable as we
from tests.helpers.methods import METHODS, MODES
from tests.helpers.networks import IMAGES, small_resnet

SIDE = 16
SIZES = we.ImageSize((SIDE, 8))
ALL_METHODS = METHODS | {
    "groups": we.WeightEnabling((1, 2, 4)),
    "groups and sizes": [we.WeightEnabling((1, 2, 4)), SIZES],
    "widths sizes and precision": [
        we.Slimmable((1.0, 0.5), divisor=4), SIZES, we.SwitchablePrecision((32, 8)),
    ],
}  # fmt: skip
ALL_MODES = MODES | {
    "groups": ("1", "1/2", "1/4"),
    "groups and sizes": ("1", "1/4", "1,size=8", "1/4,size=8"),
    "widths sizes and precision": ("1", "0.5,size=8", "0.5,size=8,precision=8-bit"),
}


def main(folder: str) -> None:
    """Write the files into a folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, method in ALL_METHODS.items():
        path = Path(folder) / f"{name.replace(' ', '-')}.wen"
        write(method, ALL_MODES[name], path)
        print(path)


def write(method: object, modes: tuple[str, ...], path: Path) -> None:
    """Write a bundle and the answers of its modes."""
    torch.manual_seed(7)
    x = torch.randn(3, IMAGES[1], SIDE, SIDE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that 8 bits are slower here is no news
        net = we.convert(small_resnet(), x, method=method).eval()  # pyright: ignore
        we.calibrate(net, modes, [torch.randn(16, *x.shape[1:])])
        we.export(net, modes, path)
    answers = {}
    for number, mode in enumerate(modes):
        with torch.no_grad(), net.using(mode):
            answers[str(number)] = net(x).numpy()
    np.savez(path.with_suffix(".npz"), images=x.numpy(), modes=np.array(modes), **answers)


if __name__ == "__main__":
    main(sys.argv[1])
