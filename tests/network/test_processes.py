"""Several processes that train one network: the same as one process with the joined batch."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed

import wenable as we
from tests.helpers.algorithm_2 import algorithm_2
from tests.helpers.networks import IMAGES, Tokens, converted, small_resnet
from tests.helpers.processes import run_in_processes
from wenable.modules.processes import rank, sum_over_processes, true_in_any_process, world_size
from wenable.training import TrainConfig
from wenable.training.loop import Checkpoint

CONFIG = TrainConfig(passes=4, epochs=2, learning_rate=0.05, clip_grad=1.0)


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
    run_in_processes(2, work, folder)
    return [load_file(folder / f"{process}.safetensors") for process in (0, 1)]


def save_state(net: torch.nn.Module, process: int, folder: Path) -> None:
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    save_file(state, folder / f"{process}.safetensors")


def train_tokens(process: int, folder: Path) -> None:
    assert (rank(), world_size()) == (process, 2)
    assert sum_over_processes(torch.tensor(process + 1.0)) == 3
    assert true_in_any_process(process == 1, torch.device("cpu"))
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
    with pytest.raises(FloatingPointError, match=r"the loss of mode 1 is nan") as caught:
        we.train(network(Tokens), share, CONFIG)
    assert ("process 1 of this run" in str(caught.value)) == (process == 0)  # each knows the reason
    save_file({"done": torch.ones(1)}, folder / f"{process}.safetensors")


def test_nan_in_one_process_stops_both(tmp_path):
    assert len(run_two(nan_in_one, tmp_path)) == 2


def unlike(process: int, folder: Path) -> None:
    """What two processes do not have in common is told before the first step, by both."""
    negative = own_share(process)
    negative[0] = (negative[0][0], negative[0][1] - 9 * process)
    for share, config, message in (
        (
            own_share(process)[: 3 - process],
            CONFIG,
            "`batches an epoch`: process 0 has 3, process 1 has 2",
        ),
        (
            own_share(process),
            replace(CONFIG, seed=process),
            "`seed`: process 0 has 0, process 1 has 1",
        ),
        (
            own_share(process),
            replace(CONFIG, epochs=2 + process),
            "`epochs`: process 0 has 2, process 1",
        ),
        (own_share(process) * (1 - process), CONFIG, "`loader` is empty"),
        (negative, CONFIG, "must be classes from 0 to 4"),
    ):
        net, steps = network(Tokens), []
        before = copy.deepcopy(net.state_dict())
        with pytest.raises((ValueError, RuntimeError), match=message):
            we.train(net, share, config, on_step=steps.append)
        assert not steps
        assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    save_file({"done": torch.ones(1)}, folder / f"{process}.safetensors")


def test_processes_that_are_not_alike_are_refused_before_the_first_step(tmp_path):
    assert len(run_two(unlike, tmp_path)) == 2


# --- evaluating and exploring on parts of the data ----------------------------------------------------

PARTS = (slice(0, 17), slice(17, 40))
"""Of the images of both splits: which are whose. Each is one batch."""


def split_in_parts(seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images with labels that the full mode mostly gives, one batch for each process."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(40, *IMAGES[1:], generator=generator)
    with torch.no_grad():
        labels = network(small_resnet)(images).argmax(1)
    labels[::7] = 0
    return [(images[part], labels[part]) for part in PARTS]


EXPLORED = {"default": {}, "greedy": {"strategy": "greedy"}}


def explore_parts(process: int, folder: Path) -> None:
    search, calibration = (split_in_parts(seed) for seed in (3, 4))
    net = network(small_resnet)
    own = we.evaluate(net, "full", [search[process]])
    both = we.evaluate(net, "full", [search[process]], pooled=True)
    found = {"own": own.count, "both": [both.known, both.count, both.low, both.high]}
    for name, settings in EXPLORED.items():
        net = network(small_resnet)
        front = we.explore(
            net,
            [search[process]],
            [calibration[process]],
            min_accuracy=0.3,
            pooled=True,
            **settings,
        )
        assert set(net.calibrated_modes) == {*front.modes, front.chosen.mode, net.space.full}
        found[name] = front.to_json()
    for refused, settings in (
        ("runs in one process", {"strategy": "greedy-lazy"}),
        ("in one process", {"strategy": we.Greedy(folder / "j.jsonl")}),
    ):
        with pytest.raises(ValueError, match=refused):
            we.explore(net, search, calibration, min_accuracy=0.3, **settings)
    (folder / f"{process}.json").write_text(json.dumps(found))
    save_file({"done": torch.ones(1)}, folder / f"{process}.safetensors")


def test_two_processes_find_the_front_of_one_that_has_all_images(tmp_path):
    run_two(explore_parts, tmp_path)
    first, second = (json.loads((tmp_path / f"{each}.json").read_text()) for each in (0, 1))
    assert (first.pop("own"), second.pop("own")) == (17, 23)
    assert first == second  # to the last figure
    search, calibration = (split_in_parts(seed) for seed in (3, 4))
    expected = we.evaluate(network(small_resnet), "full", search)
    assert first["both"] == [expected.known, 40, expected.low, expected.high]
    for name, settings in EXPLORED.items():
        # Several processes run Algorithm 2 as it is written.
        alone = algorithm_2 if settings else we.explore
        front = alone(network(small_resnet), search, calibration, min_accuracy=0.3)
        assert we.Front.from_json(first[name]) == front
        assert len(front.explored) > 10
        assert {point.accuracy.count for point in front.explored} == {40}
