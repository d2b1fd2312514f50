"""Loads a saved network in a process of its own and compares its answers with those written down."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save

import wenable as we
from wenable.core.files import write_whole
from wenable.core.space import Mode
from wenable.modules.denormals import flush_denormals
from wenable.network.dynamic_network import DynamicNetwork
from wenable.training.data_sets import Data


def write_answers(net: DynamicNetwork, modes: Iterable[Mode], data: Data, out: Path) -> Path:
    """Write a few test images and what each mode answers to them."""
    # As a file holds it: in another memory format convolutions round otherwise.
    net = copy.deepcopy(net).to(memory_format=torch.contiguous_format)
    images = data.test[0][0][:50]
    several = list(dict.fromkeys(modes))
    tensors = {"images": images.clone()}
    with torch.inference_mode():
        for number, mode in enumerate(several):
            with net.using(mode):
                tensors[str(number)] = net(images)
    header = {"modes": json.dumps([str(mode) for mode in several])}
    return write_whole(out / "answers.safetensors", save(tensors, header))


def same_answers(network: Path, answers: Path) -> tuple[int, bool]:
    """Load both files; return how many modes were compared and whether all agree to the bit."""
    net = we.load(network)
    with safetensors.safe_open(answers, framework="pt") as file:
        modes = json.loads(file.metadata()["modes"])
        images = file.get_tensor("images")
        expected = [file.get_tensor(str(number)) for number in range(len(modes))]
    same = True
    with torch.inference_mode():
        for text, answer in zip(modes, expected, strict=True):
            with net.using(text):
                same = same and torch.equal(net(images), answer)
    return len(modes), same


if __name__ == "__main__":
    flush_denormals()
    compared, agree = same_answers(Path(sys.argv[1]), Path(sys.argv[2]))
    verdict = "the same answers, to the bit" if agree else "OTHER ANSWERS"
    print(f"loaded in a fresh process: {compared} modes give {verdict}")  # noqa: T201
    sys.exit(0 if agree else 1)
