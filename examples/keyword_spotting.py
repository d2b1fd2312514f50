"""Spot sounds in a stream, chunk by chunk, each within the time until the next one comes.

Run it with `python examples/keyword_spotting.py`: a few minutes on two free cores, less with fewer
`--sounds` and `--epochs`. The sounds are made here: tones, chirps up and down, clicks and noise, at a level
and a place of their own in each second.
"""

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import nn

import wenable as we
from wenable.runtime import Session

RATE = 4000  # samples a second
WINDOW, CHUNK = RATE, RATE // 10  # a decision about the last second, ten times a second
CLASSES = ("noise", "tone", "chirp up", "chirp down", "clicks")


def sound(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return one second with a sound of half a second in noise, shape `(WINDOW,)`."""
    seconds = np.arange(WINDOW // 2) / RATE
    pitch, slope = rng.uniform(300, 700), rng.uniform(800, 1600)
    if kind == "noise":
        made = np.zeros(len(seconds))
    elif kind == "tone":
        made = np.sin(2 * np.pi * pitch * seconds)
    elif kind == "clicks":
        made = (np.arange(len(seconds)) % int(RATE / rng.uniform(8, 20)) < 8).astype(float)
    else:
        sweep = pitch * seconds + slope * seconds**2 / 2
        made = np.sin(2 * np.pi * (sweep if kind == "chirp up" else sweep[::-1]))
    whole = 0.1 * rng.standard_normal(WINDOW)
    start = rng.integers(0, WINDOW - len(made) + 1)
    whole[start : start + len(made)] += rng.uniform(0.2, 1.0) * made
    return whole.astype(np.float32)


def dataset(count: int, seed: int) -> torch.utils.data.TensorDataset:
    """Return sounds of all classes in turn, shape `(count, 1, WINDOW)`, with their classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    waves = np.stack([sound(CLASSES[label], rng) for label in labels])
    return torch.utils.data.TensorDataset(
        torch.from_numpy(waves[:, None]), torch.from_numpy(labels)
    )


def network() -> nn.Module:
    """Return a network on waveforms: convolutions over time, strided, then separable ones."""
    layers: list[nn.Module] = []
    sizes = ((1, 32, 16, 8), (32, 64, 8, 4), (64, 64, 4, 2))
    for inputs, outputs, kernel, stride in sizes:
        layers += [
            nn.Conv1d(inputs, outputs, kernel, stride, bias=False),
            nn.BatchNorm1d(outputs),
            nn.ReLU(),
        ]
    for _ in range(2):
        layers += [
            nn.Conv1d(64, 64, 5, padding=2, groups=64, bias=False),
            nn.Conv1d(64, 64, 1, bias=False),
        ]
        layers += [nn.BatchNorm1d(64), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, len(CLASSES))
    )


def make_bundle(path: Path, sounds: int, epochs: int) -> None:
    """Train all modes on sounds that are made here, and export them with their accuracies."""
    torch.manual_seed(0)
    net = we.convert(network(), torch.zeros(1, 1, WINDOW))
    loader = torch.utils.data.DataLoader(dataset(sounds, seed=0), 64, shuffle=True)
    we.train(net, loader, we.TrainConfig(passes=4, epochs=epochs, learning_rate=0.1))
    modes = net.space.uniform_modes()
    we.calibrate(net, modes, list(torch.utils.data.DataLoader(dataset(500, seed=1), 100)))
    held_out = list(torch.utils.data.DataLoader(dataset(500, seed=2), 100))
    accuracies = {mode: {"accuracy": we.evaluate(net, mode, held_out)} for mode in modes}
    for mode, each in accuracies.items():
        print(
            f"{mode}: {each['accuracy'].known:.0%} of the sounds, {net.macs(mode) / 1e6:.2f} MMAC"
        )
    we.export(net, modes, path, readings=accuracies)


def listen(path: Path, seconds: int = 10, budget_ms: float = 20.0) -> None:
    """Answer for every chunk of a stream, with the last second that was heard, within a budget."""
    rng = np.random.default_rng(3)
    played = [CLASSES[number % len(CLASSES)] for number in range(seconds)]
    stream = np.concatenate([sound(kind, rng) for kind in played])
    heard = np.zeros(WINDOW, np.float32)
    right, late, took = 0, 0, []
    with Session(path, threads=1) as session:
        session.warm_up()
        for chunk, samples in enumerate(stream.reshape(-1, CHUNK), start=1):
            heard = np.concatenate([heard[CHUNK:], samples])
            begun = time.perf_counter()
            scores = session.run(heard[None, None], deadline_ms=budget_ms)
            took.append(1e3 * (time.perf_counter() - begun))
            late += took[-1] > budget_ms
            if chunk * CHUNK % WINDOW == 0:  # a sound has just ended: what was it?
                right += CLASSES[int(scores.argmax())] == played[chunk * CHUNK // WINDOW - 1]
        modes = Counter(each.name for each in session.controller().decisions)
    print(f"{len(took)} chunks of {1000 * CHUNK // RATE} ms, a budget of {budget_ms:g} ms each")
    print(f"late: {late}; slowest {max(took):.1f} ms, median {np.median(took):.2f} ms")
    print(f"sounds told right: {right} of {seconds}; modes: {dict(modes)}")


def main() -> None:
    """Make the file, then listen with it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sounds", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=6)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sounds.wen"
        make_bundle(path, given.sounds, given.epochs)
        listen(path)


if __name__ == "__main__":
    main()
