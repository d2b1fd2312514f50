"""Several processes that train one network: the same as one process with the joined batch."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed

import wenable as we
from tests.networks import IMAGES, Tokens, converted, small_resnet
from wenable.processes import rank, sum_over_processes, true_anywhere, world_size
from wenable.training import TrainConfig
from wenable.training.loop import Checkpoint

CONFIG = TrainConfig(passes=4, epochs=2, learning_rate=0.05, clip=1.0)


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    return [
        (
            torch.randn(8, *IMAGES[1:], generator=generator),
            torch.randint(5, (8,), generator=generator),
        )
        for _ in range(3)
    ]


def own_share(process: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(x[4 * process :][:4], y[4 * process :][:4]) for x, y in batches()]


def network(model: Callable[[], torch.nn.Module]) -> we.DynamicNetwork:
    torch.manual_seed(0)
    return converted(model())


def run_two(work: Callable[[int, Path], None], folder: Path) -> list[dict[str, torch.Tensor]]:
    """Run `work` in two processes and return what each saved."""
    torch.multiprocessing.spawn(_start, (work, folder), nprocs=2)
    return [load_file(folder / f"{process}.safetensors") for process in (0, 1)]


def _start(process: int, work: Callable[[int, Path], None], folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=process, world_size=2)
    try:
        work(process, folder)
    finally:
        distributed.destroy_process_group()


def save_state(net: torch.nn.Module, process: int, folder: Path) -> None:
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    save_file(state, folder / f"{process}.safetensors")


def train_tokens(process: int, folder: Path) -> None:
    assert (rank(), world_size()) == (process, 2)
    assert sum_over_processes(torch.tensor(process + 1.0)) == 3
    assert true_anywhere(process == 1, torch.device("cpu"))
    net = network(Tokens)
    we.train(net, own_share(process), CONFIG)
    save_state(net, process, folder)


def test_two_processes_end_with_the_weights_of_one(tmp_path):
    found = run_two(train_tokens, tmp_path)
    net = network(Tokens)
    before = copy.deepcopy(net.state_dict())
    we.train(net, batches(), CONFIG)
    for name, expected in net.state_dict().items():
        assert torch.equal(found[0][name], found[1][name]), name
        torch.testing.assert_close(found[0][name], expected, rtol=1e-4, atol=1e-6)
        assert name.endswith("order") or not torch.equal(before[name], expected)


def train_and_calibrate(process: int, folder: Path) -> None:
    net = network(small_resnet)
    we.train(net, own_share(process), replace(CONFIG, epochs=1))
    save_state(net, process, folder)
    we.calibrate(net, "1/2", own_share(process))
    kept = net.calibration("1/2")
    assert kept is not None
    assert kept.images == 24
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for name, each in (kept.statistics or {}).items():
        state |= {f"calibrated.{name}.mean": each.mean, f"calibrated.{name}.var": each.var}
    save_file(state, folder / f"{process}.safetensors")


def test_norms_of_two_processes_agree(tmp_path):
    """Each normalises by its own images in training; their averages, and calibrations, are shared."""
    first, second = run_two(train_and_calibrate, tmp_path)
    for name, tensor in first.items():
        if "num_batches" not in name:
            torch.testing.assert_close(tensor, second[name], rtol=0, atol=0, msg=name)
    # Calibration on the images of both is that of one process which sees the same batches.
    net = network(small_resnet)
    net.load_state_dict({n: t for n, t in first.items() if not n.startswith("calibrated.")})
    we.calibrate(net, "1/2", [*own_share(0), *own_share(1)])
    kept = net.calibration("1/2")
    assert kept is not None
    for name, each in (kept.statistics or {}).items():
        torch.testing.assert_close(each.mean, first[f"calibrated.{name}.mean"])
        torch.testing.assert_close(each.var, first[f"calibrated.{name}.var"])


def stop_and_go_on(process: int, folder: Path) -> None:
    path = folder / "run.safetensors"
    steps: list[int] = []
    net = network(Tokens)
    complete = we.train(
        net, own_share(process), CONFIG, on_step=lambda report: steps.append(report.step),
        checkpoint=Checkpoint(path, resume=True),
        should_stop=lambda: process == 1 and len(steps) == 2,  # one of them is enough
    )  # fmt: skip
    assert not complete
    assert steps == [1, 2]
    distributed.barrier()
    net = network(Tokens)
    assert we.train(net, own_share(process), CONFIG, checkpoint=Checkpoint(path, resume=True))
    save_state(net, process, folder)


def test_two_processes_go_on_where_they_were(tmp_path):
    stopped = run_two(stop_and_go_on, tmp_path)
    (tmp_path / "meeting").unlink(missing_ok=True)
    whole = run_two(train_tokens, tmp_path)
    for name, tensor in whole[0].items():
        assert torch.equal(stopped[0][name], tensor)
        assert torch.equal(stopped[1][name], tensor)


def nan_in_one(process: int, folder: Path) -> None:
    share = own_share(process)
    if process == 1:
        share[1][0][0, 0, 0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"not finite in another|the loss of mode"):
        we.train(network(Tokens), share, CONFIG)
    save_file({"done": torch.ones(1)}, folder / f"{process}.safetensors")


def test_nan_in_one_process_stops_both(tmp_path):
    assert len(run_two(nan_in_one, tmp_path)) == 2
