"""Fine-tune a timm network so that it runs in many modes, and report them on the test split.

    python examples/fine_tune_timm.py                           # random weights on digits: seconds
    python examples/fine_tune_timm.py --network resnet18 --pretrained --data FOLDER --image-size 224

`--pretrained` downloads weights. FOLDER holds `train/CLASS/*` and `test/CLASS/*`.
"""

import argparse
from typing import Any

import timm
import torch
from torch.nn.functional import interpolate
from torch.utils.data import TensorDataset

import wenable as we
from wenable.data import ImageBatches, ImageSettings, batches, digits, image_folder
from wenable.data.transforms import evaluation_transform, training_transform


def digits_batches(size: int) -> tuple[Any, list, list, int]:
    """Return training, calibration and test batches of digits in three channels, and 10 classes."""

    def as_photos(part: TensorDataset) -> TensorDataset:
        images, labels = part.tensors
        return TensorDataset(interpolate(images, size=size).expand(-1, 3, -1, -1), labels)

    splits = digits()
    train, test = as_photos(splits.train), as_photos(splits.test)
    return (
        batches(train, 64, shuffle_seed=0),
        list(batches(train, 250)),
        list(batches(test, 250)),
        10,
    )


def folder_batches(folder: str, size: int) -> tuple[Any, list, list, int]:
    """Return the same of a folder of images."""
    splits = image_folder(folder)
    settings = ImageSettings(size=size)
    shown = evaluation_transform(settings)
    train = ImageBatches(splits.train, training_transform(settings), 64, shuffle=True)
    calibration = list(ImageBatches(splits.train.some(1024), shown, 64))
    test = list(ImageBatches(splits.test, shown, min(64, len(splits.test))))
    return train, calibration, test, len(splits.train.classes)


def main() -> None:
    """Convert, fine-tune with four modes a step, calibrate and evaluate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", default="test_resnet", help="a name of timm")
    parser.add_argument("--pretrained", action="store_true", help="start from timm's weights")
    parser.add_argument("--data", help="a folder of images; digits without one")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    given = parser.parse_args()

    torch.manual_seed(0)
    size = given.image_size
    made = folder_batches(given.data, size) if given.data else digits_batches(size)
    train, calibration, test, classes = made
    model = timm.create_model(given.network, pretrained=given.pretrained, num_classes=classes)
    net = we.convert(model, torch.zeros(1, 3, size, size))
    print(f"{given.network}: {len(net.switchable_layers)} layers switch")

    # If the full mode has pretrained weights, the others learn from it; else all from the labels.
    settings = we.TrainConfig(passes=4, epochs=given.epochs, distillation=given.pretrained)
    we.train(net, train, settings)

    modes = net.space.uniform_modes()
    we.calibrate(net, modes, calibration)
    for mode in modes:
        share = net.macs(mode) / net.macs("full")
        print(f"{mode!s:>5}  {share:6.1%} of the MACs  {we.evaluate(net, mode, test)}")


if __name__ == "__main__":
    main()
