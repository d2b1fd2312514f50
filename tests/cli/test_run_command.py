"""`wenable run`: what it takes, and what it does where one input of several is bad."""

import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import wenable as we
from tests.helpers.networks import small_resnet
from wenable.cli.main import app
from wenable.core.preprocessing import Preprocessing
from wenable.runtime import Session
from wenable.runtime.engine import EngineError
from wenable.runtime.engine_onnxruntime import OnnxRuntime

LABELS = ("ant", "bee", "cat", "dog", "elk")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose answer depends on the image's colours, exported."""
    torch.manual_seed(0)
    net = we.convert(small_resnet(), torch.zeros(1, 3, 16, 16), method=we.WeightEnabling((1, 2)))
    net.preprocessing = Preprocessing(16, (0.5,) * 3, (0.25,) * 3, labels=LABELS)
    return we.export(net, ["full"], tmp_path_factory.mktemp("run") / "net.wen")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "deeper").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "deeper/c.gif"):
        pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def run(bundle: Path, *arguments: object, stdin: bytes = b"", status: int = 0):
    command = ["run", bundle, *arguments, "--engine", "onnxruntime", "--threads", "1"]
    runner = CliRunner(env={"COLUMNS": "200"})
    result = runner.invoke(app, [str(each) for each in command], input=stdin)
    assert result.exit_code == status, (result.output, result.stderr, result.exception)
    return result


def rows(result) -> list[dict]:
    return json.loads(result.stdout)


def test_a_truncated_file_is_named_and_the_good_results_are_kept(bundle: Path, pictures: Path):
    bad = pictures / "a.png"
    bad.write_bytes(bad.read_bytes()[:200])
    absent = pictures / "absent.png"
    result = run(bundle, bad, pictures / "b.jpg", absent, "--json", status=1)
    assert "answer" in rows(result)[1]
    for number, path in ((0, bad), (2, absent)):
        assert str(path) in rows(result)[number]["error"]
        assert f"error: the image {path} cannot be read: " in result.stderr
    assert "2 of 3 inputs could not be run" in result.stderr
    shown = run(bundle, bad, pictures / "b.jpg", status=1)
    assert f"{pictures / 'b.jpg'}: " in shown.stdout
    assert str(bad) not in shown.stdout


def test_a_folder_a_pattern_and_standard_input_are_taken(
    bundle: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
):
    files = [pictures / "a.png", pictures / "b.jpg", pictures / "deeper" / "c.gif"]
    (pictures / "notes.txt").write_text("no image")
    (pictures / ".hidden.png").write_bytes(b"no image")
    one_by_one = rows(run(bundle, *files, "--json"))

    def answers(found: list[dict]) -> list:
        return [each["answer"] for each in found]

    whole = rows(run(bundle, pictures, "--json"))
    assert [each["input"] for each in whole] == [str(each) for each in files]
    assert answers(whole) == answers(one_by_one)
    assert answers(rows(run(bundle, f"{pictures}/*.*g", "--json"))) == answers(one_by_one)[:2]
    deep = rows(run(bundle, f"{pictures}/**/*.gif", "--json"))
    assert answers(deep) == answers(one_by_one)[2:]
    monkeypatch.chdir(pictures)
    assert [each["input"] for each in rows(run(bundle, "*.png", "--json"))] == ["a.png"]
    piped = rows(run(bundle, "-", "--json", stdin=files[0].read_bytes()))
    assert piped[0]["input"] == "standard input"
    assert answers(piped) == answers(one_by_one)[:1]
    array = io.BytesIO()
    np.save(array, np.zeros((1, 3, 16, 16), np.float32))
    assert len(rows(run(bundle, "-", "--json", stdin=array.getvalue()))) == 1


def test_a_file_whose_name_looks_like_a_pattern_is_the_file(bundle: Path, pictures: Path):
    strange = (pictures / "a.png").rename(pictures / "a[1].png")
    assert rows(run(bundle, strange, "--json"))[0]["input"] == str(strange)
    assert f"{strange}: " in run(bundle, strange).stdout


def test_as_many_classes_are_shown_as_are_asked_for(bundle: Path, pictures: Path):
    image = pictures / "a.png"
    assert len(rows(run(bundle, image, "--json"))[0]["answer"]) == 3
    best = rows(run(bundle, image, "--json", "--top-k", 1))[0]["answer"]
    every = rows(run(bundle, image, "--json", "--top-k", 99))[0]["answer"]
    assert every[0] == best[0]
    assert {name for name, _ in every} == set(LABELS)
    assert sum(share for _, share in every) == pytest.approx(1)
    assert [share for _, share in every] == sorted((s for _, s in every), reverse=True)


def test_every_example_of_an_array_gets_its_answer(bundle: Path, tmp_path: Path):
    x = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    found = rows(run(bundle, tmp_path / "x.npy", "--json"))
    assert [each["input"] for each in found] == [f"{tmp_path}/x.npy[{n}]" for n in (0, 1)]
    np.save(tmp_path / "y.npy", x[1:])
    alone = rows(run(bundle, tmp_path / "y.npy", "--json"))[0]["answer"]
    assert [name for name, _ in alone] == [name for name, _ in found[1]["answer"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/*.png"], "no file fits the pattern no/*.png"),
        (["-", "-"], "standard input (-) was named twice"),
        (["EMPTY"], "holds no images and no .npy arrays"),
        (["-"], "the image standard input cannot be read: it is no image that Pillow knows"),
        (["-", "--top-k", "0"], "`--top-k` (=0) must be at least 1"),
        (
            ["-", "--mode", "1", "--deadline-ms", "5"],
            "`--mode` and `--deadline-ms` were both given",
        ),
        (["objects.npy"], "the array objects.npy cannot be read: "),
        (["short.npy"], "the array short.npy cannot be read: "),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    Path("short.npy").write_bytes(b"\x93NUMPY\x01")
    result = run(bundle, *arguments, status=1)
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1
    assert message in lines[0]


def test_each_input_says_whether_it_met_its_deadline(bundle: Path, pictures: Path):
    given = (pictures / "a.png", pictures / "b.jpg")
    kept = run(bundle, *given, "--deadline-ms", "1e5", "--strict")
    assert kept.stdout.count(" of 100000 ms, met, mode 1)") == 2
    assert "missed" not in kept.stderr
    missed = run(bundle, *given, "--deadline-ms", "1e-6")
    assert missed.stdout.count(" of 1e-06 ms, MISSED, mode 1)") == 2
    assert "the deadline of 1e-06 ms was missed by 2 of 2" in missed.stderr
    strict = run(bundle, *given, "--deadline-ms", "1e-6", "--strict", "--json", status=1)
    assert [each["met"] for each in rows(strict)] == [False, False]
    assert all(each["latency_ms"] > each["deadline_ms"] == 1e-6 for each in rows(strict))


def test_the_first_input_is_not_timed_cold(bundle: Path, tmp_path: Path, monkeypatch):
    """Batches of two sizes, so that each has a first call; what is slow at first is slowed down here."""
    prepare = OnnxRuntime.prepare

    def slow_at_first(self: OnnxRuntime, model: bytes, batch: int | None = None) -> Any:
        runner, seen = prepare(self, model, batch), set[int]()

        def call(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            size = len(next(iter(inputs.values())))
            if size not in seen:
                seen.add(size)
                time.sleep(0.5)
            return runner(inputs)

        return call

    monkeypatch.setattr(OnnxRuntime, "prepare", slow_at_first)
    for size in (1, 3):
        np.save(tmp_path / f"{size}.npy", np.zeros((size, 3, 16, 16), np.float32))
    for options in ((), ("--deadline-ms", "1e5"), ("--mode", "1")):
        found = rows(run(bundle, tmp_path / "1.npy", tmp_path / "3.npy", *options, "--json"))
        assert len(found) == 4
        assert max(each["latency_ms"] for each in found) < 400


def test_strict_and_deadlines_that_make_no_sense_are_refused(bundle: Path, pictures: Path):
    given = pictures / "a.png"
    refused = run(bundle, given, "--strict", status=1)
    assert "`--strict` was given without `--deadline-ms`" in refused.stderr
    for deadline in ("0", "-1", "nan", "inf"):
        refused = run(bundle, given, "--deadline-ms", deadline, status=1)
        assert "must be a finite number above 0" in refused.stderr


def test_an_input_that_the_engine_fails_on_does_not_take_the_others_with_it(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, count in (("a", 1), ("b", 3), ("c", 1)):
        np.save(tmp_path / f"{name}.npy", np.zeros((count, 3, 16, 16), np.float32))
    run_session = Session.run

    def without_memory(self, x, **settings):
        if len(x) == 3:
            raise EngineError("there is no memory for this batch")
        return run_session(self, x, **settings)

    monkeypatch.setattr(Session, "run", without_memory)
    paths = [tmp_path / f"{name}.npy" for name in "abc"]
    result = run(bundle, *paths, "--json", status=1)
    assert [("error" in row, "answer" in row) for row in rows(result)] == [
        (False, True), (True, False), (False, True)
    ]  # fmt: skip
    assert "there is no memory for this batch" in result.stderr


class Ending(torch.nn.Module):
    """A network whose last operation is not a dense layer."""

    def __init__(self, last: str) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 16, 3), torch.nn.Conv2d(16, 16, 3)
        self.dense, self.last = torch.nn.Linear(16, 5), last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.dense(self.second(self.first(x).relu()).relu().mean((2, 3)))
        if self.last == "softmax":
            return (9 * y).softmax(1)
        if self.last == "argmax":
            return y.argmax(1, keepdim=True)
        if self.last == "signs":
            return y > 0
        below = x.mean((1, 2, 3))[:, None] + 1  # NaN, or a logarithm of zero, for dark images
        return y + (below.sqrt() if self.last == "root" else below.log())


def ending(last: str, folder: Path) -> Path:
    torch.manual_seed(0)
    net = we.convert(Ending(last).eval(), torch.zeros(1, 3, 8, 8), method=we.WeightEnabling((1, 2)))
    return we.export(net, ["full"], folder / "net.wen")


def test_the_shares_of_a_network_that_ends_in_a_softmax_are_its_own(tmp_path: Path):
    path = ending("softmax", tmp_path)
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    with Session(path, engine="onnxruntime", threads=1) as session:
        expected = session.run(x)
    found = rows(run(path, tmp_path / "x.npy", "--json", "--top-k", "5"))
    for row, shares in zip(found, expected, strict=True):
        told = {int(name): share for name, share in row["answer"]}
        assert [told[number] for number in range(5)] == pytest.approx(shares.tolist())


@pytest.mark.parametrize(("last", "shape"), [("argmax", [2, 1]), ("signs", [2, 5])])
def test_whole_numbers_and_truth_values_are_no_classes(last: str, shape: list[int], tmp_path: Path):
    path = ending(last, tmp_path)
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 8, 8), np.float32))
    assert [row["shapes"] for row in rows(run(path, tmp_path / "x.npy", "--json"))] == [[shape]] * 2


def test_an_example_that_the_network_answers_nan_for_has_failed(tmp_path: Path):
    path = ending("root", tmp_path)
    x = np.zeros((2, 3, 8, 8), np.float32)
    x[1] = -100
    np.save(tmp_path / "x.npy", x)
    result = run(path, tmp_path / "x.npy", "--json", status=1)
    good, bad = rows(result)
    assert "answer" in good
    assert bad == {"input": f"{tmp_path}/x.npy[1]", "error": "the network answered NaN"}
    assert f"error: {tmp_path}/x.npy[1]: the network answered NaN" in result.stderr


def test_an_example_with_minus_infinity_for_all_classes_has_failed(tmp_path: Path):
    path = ending("log", tmp_path)
    np.save(tmp_path / "x.npy", np.full((1, 3, 8, 8), -1, np.float32))
    [row] = rows(run(path, tmp_path / "x.npy", "--json", status=1))
    assert row["error"] == "the network answered infinity"
