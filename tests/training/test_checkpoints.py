"""Runs that are stopped, killed or fail end, when they go on, like one that was not."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import wenable as we
from tests.helpers.networks import Tokens, converted, small_resnet
from tests.helpers.training_runs import SETTINGS, batches, same, weights_of, with_dropout
from wenable.core.preprocessing import Preprocessing
from wenable.training import (
    ScheduleChangeWarning,
    StepReport,
)
from wenable.training.loop import Checkpoint
from wenable.training.state import TrainState, read_checkpoint


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsproptf"])
def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(tmp_path, optimizer):
    config = replace(SETTINGS, optimizer=optimizer, learning_rate=0.01)
    whole = with_dropout()
    assert we.train(whole, batches(4), config)
    path = tmp_path / "run.safetensors"

    def go_on_until(stop_at: int) -> tuple[int, bool, list[torch.Tensor]]:
        net, steps = with_dropout(), []  # a new process has nothing but the file
        torch.manual_seed(stop_at)
        complete = we.train(
            net,
            batches(4),
            config,
            on_step=lambda report: steps.append(report.step),
            checkpoint=Checkpoint(path, resume=True),
            should_stop=lambda: steps[-1] >= stop_at,
        )
        return len(steps), complete, weights_of(net)

    runs = [go_on_until(stop_at) for stop_at in (1, 4, 6, 7, 12)]
    assert [(steps, complete) for steps, complete, _ in runs] == [
        (1, False), (3, False), (2, False), (1, False), (5, True),
    ]  # fmt: skip
    assert same(runs[-1][2], weights_of(whole))


_KILLED_AND_GONE_ON = """
import os, random, signal, sys, time, torch
sys.path.insert(0, {root!r})
torch.set_num_threads(1)  # a process that forks must not have started others
import wenable as we
from dataclasses import replace
from tests.helpers.training_runs import SETTINGS, batches, with_dropout, weights_of
from wenable.training.loop import Checkpoint
from safetensors.torch import save_file
folder, config = sys.argv[1], replace(SETTINGS, epochs=12, implementations="timed")

def train(name):
    net = with_dropout()
    we.train(net, batches(4), config, checkpoint=Checkpoint(f"{{folder}}/{{name}}", 0, resume=True))
    weights = dict(enumerate(weights_of(net)))
    save_file({{str(i): w.contiguous() for i, w in weights.items()}}, f"{{folder}}/{{name}}.result")

started = time.monotonic()
train("whole")  # left in peace; what it timed is remembered
taken, rng, kills = time.monotonic() - started, random.Random(), 0
while kills < 20:
    child = os.fork()
    if not child:
        train("killed")
        os._exit(0)
    time.sleep(rng.uniform(0, taken / 6))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    kills += os.WIFSIGNALED(status)
    if os.WIFEXITED(status):  # it was done before: kill the next from the beginning
        os.unlink(f"{{folder}}/killed")
train("killed")
print(kills)
"""


def test_a_run_that_is_killed_twenty_times_ends_like_one_that_was_not(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code = _KILLED_AND_GONE_ON.format(root=str(Path(__file__).parents[2]))
    command = [sys.executable, "-c", code, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, "20"), ended.stderr
    whole, killed = load_file(tmp_path / "whole.result"), load_file(tmp_path / "killed.result")
    assert same([whole[name] for name in sorted(whole)], [killed[name] for name in sorted(whole)])


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    net = with_dropout()
    we.train(net, batches(2), replace(SETTINGS, epochs=1), checkpoint=Checkpoint(path))
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        we.train(with_dropout(), batches(2), SETTINGS, checkpoint=Checkpoint(path))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_nan_stops_and_the_last_checkpoint_is_good(tmp_path):
    path = tmp_path / "run.safetensors"
    good, bad = batches(2), batches(2)
    bad[1][0][0, 0, 0, 0] = float("nan")

    class Spoilt:
        def __len__(self) -> int:
            return 2

        def batches(self, epoch: int, start: int = 0):
            return iter((bad if epoch == 1 else good)[start:])

    net = with_dropout()
    with pytest.raises(FloatingPointError, match="the weights are as before this step"):
        we.train(net, Spoilt(), SETTINGS, checkpoint=Checkpoint(path))
    header, tensors = read_checkpoint(path)
    assert header["step"] == 2
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    we.train(with_dropout(), batches(2), SETTINGS, checkpoint=Checkpoint(path))
    for net, config, count, message in (
        (with_dropout(), replace(SETTINGS, seed=1), 2, "belongs to a run with `seed` = 0"),
        (
            with_dropout(),
            SETTINGS,
            3,
            "belongs to a run of 2 steps an epoch; with this data there are 3",
        ),
        (
            with_dropout(),
            replace(SETTINGS, epochs=2),
            2,
            r"6 steps, of 3 epochs; `epochs` \(=2\) must",
        ),
        (converted(Tokens()), SETTINGS, 2, "belongs to another network"),
    ):
        before = weights_of(net)
        with pytest.raises(ValueError, match=message):
            we.train(net, batches(count), config, checkpoint=Checkpoint(path, resume=True))
        assert same(before, weights_of(net))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is truncated or no checkpoint"):
        TrainState(with_dropout(), SETTINGS, 6).load(path)
    with pytest.raises(FileNotFoundError):
        TrainState(with_dropout(), SETTINGS, 6).load(tmp_path / "nothing")


def test_a_run_of_a_network_that_looks_the_same_is_not_gone_on_with(tmp_path):
    """Shuffles, sizes of images and the names of classes are in no tensor."""
    path, model = tmp_path / "run.safetensors", small_resnet()

    def network(shuffle="none", size=6, labels=("cat", "dog")):
        net = we.convert(
            model, torch.zeros(1, 3, size, size), method=we.WeightEnabling(shuffle=shuffle)
        )
        net.preprocessing = Preprocessing(size, (0.5,) * 3, (0.25,) * 3, labels=labels)
        return net

    TrainState(network(), SETTINGS, 6).save(path)
    TrainState(network(), SETTINGS, 6).load(path)
    TrainState(network(labels=()), SETTINGS, 6).load(path)
    for other, words in (
        ({"shuffle": "all"}, "other method"),
        ({"size": 8}, "other multiply-accumulates"),
        ({"labels": ("cat", "cow")}, "other classes"),
    ):
        with pytest.raises(ValueError, match=f"a run whose network has {words}"):
            TrainState(network(**other), SETTINGS, 6).load(path)


def test_a_loader_of_unknown_order_cannot_go_on_inside_an_epoch(tmp_path):
    path = tmp_path / "run.safetensors"
    data = torch.utils.data.DataLoader([(x[0], y[0]) for x, y in batches(8)], 4, shuffle=True)
    checkpoint = Checkpoint(path, resume=True)
    config = replace(SETTINGS, ema_decay=0.0)
    we.train(with_dropout(), data, config, checkpoint=checkpoint, should_stop=lambda: True)
    with pytest.raises(ValueError, match="cannot go on inside an epoch"):
        we.train(with_dropout(), data, config, checkpoint=checkpoint)


def test_a_run_stopped_at_the_end_of_an_epoch_reports_that_epoch(tmp_path):
    ended: list[int] = []
    checkpoint = Checkpoint(tmp_path / "run.safetensors", resume=True)
    for _ in range(3):
        complete = we.train(
            with_dropout(), batches(1), SETTINGS, on_epoch=ended.append, checkpoint=checkpoint,
            should_stop=lambda: True,
        )  # fmt: skip
    assert ended == [0, 0, 1, 1, 2]  # once more where it goes on, in case that nobody saw it
    assert complete


def test_a_run_killed_before_the_end_of_an_epoch_was_noted_notes_it_when_it_goes_on(tmp_path):
    checkpoint = Checkpoint(tmp_path / "run.safetensors", resume=True)
    noted: list[int] = []

    def killed(epoch: int) -> None:
        if epoch == 1 and checkpoint_steps() == 4 and not noted[1:]:
            raise KeyboardInterrupt  # after the checkpoint, before anything was noted
        noted.append(epoch)

    def checkpoint_steps() -> int:
        return int(read_checkpoint(checkpoint.path)[0]["step"])

    with pytest.raises(KeyboardInterrupt):
        we.train(with_dropout(), batches(2), SETTINGS, on_epoch=killed, checkpoint=checkpoint)
    assert noted == [0]
    noted.append(-1)
    we.train(with_dropout(), batches(2), SETTINGS, on_epoch=killed, checkpoint=checkpoint)
    assert noted == [0, -1, 1, 2]


def test_more_epochs_go_on_by_the_schedule_of_the_new_number(tmp_path):
    short = replace(SETTINGS, epochs=2, warmup=0.0, schedule="cosine", learning_rate=0.1)
    long = replace(short, epochs=5)
    checkpoint = Checkpoint(tmp_path / "run.safetensors", resume=True)
    net = with_dropout()
    assert we.train(net, batches(2), short, checkpoint=checkpoint)
    reports: list[StepReport] = []
    net = with_dropout()
    with pytest.warns(ScheduleChangeWarning) as caught:
        assert we.train(net, batches(2), long, on_step=reports.append, checkpoint=checkpoint)
    assert [report.step for report in reports] == [5, 6, 7, 8, 9, 10]
    # the cosine of ten steps, from the fifth on, by its definition
    rates = [0.1 * (1 + math.cos(math.pi * step / 10)) / 2 for step in range(4, 10)]
    assert [report.learning_rate for report in reports] == pytest.approx(rates)
    said = str(caught[0].message)
    assert "goes on to 5 epochs, begun as one of 2" in said
    assert f"is {rates[0]:.3g} at step 4 where it was to be 0, and follows" in said
    # what was extended is kept: going on once more changes nothing
    assert we.train(with_dropout(), batches(2), long, checkpoint=checkpoint)


def test_fewer_epochs_and_growing_passes_say_what_changes(tmp_path):
    config = replace(SETTINGS, epochs=4, passes=5, grow_from=2, schedule="constant", warmup=0.0)
    checkpoint = Checkpoint(tmp_path / "run.safetensors", resume=True)
    steps: list[StepReport] = []
    we.train(
        with_dropout(), batches(2), config, on_step=steps.append, checkpoint=checkpoint,
        should_stop=lambda: len(steps) == 3,
    )  # fmt: skip
    with pytest.warns(
        ScheduleChangeWarning, match=r"is 0\.02 at step 3 where it was to be 0\.02"
    ) as caught:
        we.train(with_dropout(), batches(2), replace(config, epochs=2), checkpoint=checkpoint)
    assert "a step makes 5 passes where it was to make 3" in str(caught[0].message)
