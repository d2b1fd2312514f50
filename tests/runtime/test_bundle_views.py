"""Views, graphs and grids that a bundle claims and that cannot be give one error in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wenable as we
from tests.helpers.methods import MODES, converted_by
from tests.helpers.mutations import Tensors, bundle_of, parts_of
from wenable.runtime.bundle import Bundle, BundleError
from wenable.runtime.session import Session

Change = Callable[[dict[str, Any], Tensors], object]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {
        method: we.export(converted_by(method), MODES[method], folder / f"{method}.wen")
        for method in ("slimmable", "precision", "exits")
    }


# What is claimed of the second mode: width 0.5, 16 bits, the exit behind block1

LAYER, DENSE = "block1.conv1.weight", "fc.weight"


def _mode(**changes: Any) -> Change:
    return lambda manifest, _: manifest["modes"][1].update(changes)


def _view(name: str, **changes: Any) -> Change:
    def apply(manifest: dict[str, Any], _: Tensors) -> None:
        view = manifest["modes"][1]["views"].setdefault(name, {})
        view.update(changes)

    return apply


def _dropped(name: str) -> Change:
    return lambda manifest, _: manifest["modes"][1]["views"].pop(name)


def _channels(**changes: Any) -> Change:
    return lambda manifest, _: manifest["modes"][1]["channels"].update(changes)


def _many_modes(manifest: dict[str, Any], tensors: Tensors) -> None:
    """Modes whose views all differ and cut nothing off: each has to be checked by itself."""
    count, knob = 4000, manifest["space"]["knobs"][0]
    knob.update(options=[*range(1, count + 1)], labels=[f"w{n}" for n in range(count)])
    weights = sorted(
        name for name in tensors if name.startswith("weights.") and tensors[name].ndim > 1
    )
    first = manifest["modes"][0]
    manifest["modes"] = [{**first, "mode": f"w{n}", "views": {}} for n in range(count)]
    for number, mode in enumerate(manifest["modes"]):
        for place, name in enumerate(weights):
            sizes = tensors[name].shape[: number // 3**place % 3]
            whole = dict(zip(("rows", "columns"), sizes, strict=False))
            mode["views"][name.removeprefix("weights.")] = whole
    tensors.update({f"norms.{n}": tensors["norms.0"] for n in range(count)})


HOSTILE: dict[str, tuple[str, Change, str]] = {
    "rows beyond the weight": (
        "slimmable", _view(LAYER, rows=9), r"the view of 'block1.conv1.weight': `rows` \(=9\) leaves",
    ),
    "columns beyond the weight": ("slimmable", _view(LAYER, columns=17), r"`columns` \(=17\) leaves"),
    "no rows": ("slimmable", _view(LAYER, rows=0), r"`rows` \(=0\) must be a whole number above 0"),
    "half a row": ("slimmable", _view(LAYER, rows=3.5), r"`rows` \(=3.5\) must be"),
    "rows before the first": ("slimmable", _view(LAYER, rows=-4), r"`rows` \(=-4\) must be"),
    "rows of 2**80": ("slimmable", _view(LAYER, rows=2**80), "leaves a tensor"),
    "ranges beyond the weight": (
        "slimmable", _view(LAYER, columns=[[0, 4], [15, 17]]), r"`columns` \(=\(\(0, 4\), .* leaves",
    ),
    "ranges of fewer columns than the input has": (
        "slimmable", _view(LAYER, columns=[[0, 3], [8, 12]]), "Conv in 1 groups reads",
    ),
    "ranges that turn back": ("slimmable", _view(LAYER, rows=[[4, 8], [0, 4]]), "ranges that ascend"),
    "a range without an end": ("slimmable", _view(LAYER, rows=[[0]]), r"`rows` \(=\[\[0\]\]\) must be"),
    "columns of a bias": ("slimmable", _view("fc.bias", columns=1), r"`columns` \(=1\) leaves"),
    "rows that the next layer lacks": ("slimmable", _view(LAYER, rows=5), "is made: Conv|folded|channels"),
    "columns that the input lacks": ("slimmable", _view(LAYER, columns=7), "Conv in 1 groups reads"),
    "a view left out": ("slimmable", _dropped(LAYER), "channels, the weight before it|Conv in 1 groups"),
    "columns of a dense layer": ("slimmable", _view(DENSE, columns=3), "a dense layer reads shapes"),
    "rows of a dense layer": ("slimmable", _view(DENSE, rows=3), r"the bias of .* has shape \(5,\)"),
    "another number of outputs": (
        "slimmable",
        lambda m, t: (_view(DENSE, rows=3)(m, t), _view("fc.bias", rows=3)(m, t)),
        "makes outputs of shapes",
    ),
    "groups that do not divide": ("slimmable", _view(LAYER, groups=3), "3 groups for .*do not divide it"),
    "groups of a dense layer": ("slimmable", _view(DENSE, groups=5), "not the weight of a convolution"),
    "groups of what is no weight": ("slimmable", _view("fc.bias", groups=5), "not the weight of a conv"),
    "groups of another input": ("slimmable", _view(LAYER, groups=2), "Conv in 2 groups reads shapes"),
    "a view of nothing": ("slimmable", _view("x", rows=1), "it lacks the tensor 'x', of which a mode"),
    "a view of whole numbers": ("slimmable", _view("val_93", rows=1), "which is of int64"),
    "a view that is a list": ("slimmable", _mode(views={LAYER: [4, 8]}), "the view of .* must be an obj"),
    "a view with another part": ("slimmable", _view(LAYER, order=[1, 0]), "a view has no 'order'"),
    "views that are a list": ("slimmable", _mode(views=[1]), "`views` of mode 0.5 .* must be an object"),
    "more views than a network has weights": (
        "slimmable", _mode(views={str(n): {} for n in range(5000)}), "has more than 4096 entries",
    ),
    "a graph that is not there": ("slimmable", _mode(graph=1), r"`graph` \(=1\) of mode 0.5 must be"),
    "a graph before the first": ("slimmable", _mode(graph=-1), r"`graph` \(=-1\) of mode"),
    "a graph by name": ("slimmable", _mode(graph="0"), r"`graph` \(='0'\) of mode"),
    "no graphs": ("slimmable", lambda m, _: m.update(graphs=[]), "`graphs` must be a list of 1 to"),
    "channels that a norm lacks": (
        "slimmable", _channels(**{"stem.1": 17}), "the channels of 'stem.1' in mode 0.5 .* from 1 to 16",
    ),
    "channels of no norm": ("slimmable", _channels(x=1), "has the norm 'x', which it lacks"),
    "other channels": ("slimmable", _channels(**{"stem.1": 9}), "lacks the norms of mode 0.5"),
    "channels of another norm": (
        "slimmable",
        lambda m, _: m["modes"][1]["channels"].update({"stem.1": 9, "block1.bn3": 15}),
        "the norm '.*' has .* channels",
    ),
    "norms cut off": (
        "slimmable", lambda _, t: t.update({"norms.1": t["norms.1"][:, :-1]}), "lacks the norms of mode",
    ),
    "a label twice": (
        "slimmable", lambda m, _: m["space"]["knobs"][0].update(labels=["1", "0.5", "0.5"]), "`labels`",
    ),
    "labels of numbers": (
        "slimmable", lambda m, _: m["space"]["knobs"][0].update(labels=[1, 2, 3]), "must be a printable",
    ),
    "a mode that is no label": ("slimmable", _mode(mode="0.75"), "is not one of its 1 knobs"),
    "a mode twice by its label": ("slimmable", _mode(mode="1"), "lists the mode '1' twice"),
    "a mode of too many labels": ("slimmable", _mode(mode="0.5*9"), "is not one of its 1 knobs"),
    "a mode of names": ("slimmable", _mode(mode="1,w*=0.5"), "is not one of its 1 knobs"),
    "a precision of 32 bits": ("precision", _view(LAYER, bits=32), r"`bits` \(=32\) must be"),
    "a precision of 1 bit": ("precision", _view(LAYER, bits=1), r"`bits` \(=1\) must be"),
    "a scale of 0": ("precision", _view(LAYER, scale=0.0), r"`scale` \(=0.0\) must be"),
    "a negative scale": ("precision", _view(LAYER, scale=-1.0), r"`scale` \(=-1.0\) must be"),
    "a scale that is huge": ("precision", _view(LAYER, scale=1e300), r"`scale` \(=1e\+300\) must be"),
    "a zero outside of the grid": ("precision", _view(LAYER, zero=2**16), r"`zero` \(=65536\) must be"),
    "half a zero": ("precision", _view(LAYER, zero=0.5), r"`zero` \(=0.5\) must be"),
    "a grid without a scale": (
        "precision", lambda m, _: m["modes"][1]["views"][LAYER].pop("scale"), "lacks 'scale'",
    ),
    "a bias that is rounded": (
        "precision", _view("fc.bias", bits=8, scale=1.0, zero=0), "not the weight of a layer alone",
    ),
    "a graph that makes other outputs": (
        "exits", lambda m, _: m["graphs"][1]["outputs"][0].update(name="relu"), "outputs of other names",
    ),
    "a graph that reads other inputs": (
        "exits",
        lambda m, _: m["graphs"][1]["inputs"][0].update(dtype="float64"),
        "inputs of other names",
    ),
    "a tensor that another graph makes": (
        "exits",
        lambda m, t: t.update({f"constants.{m['graphs'][1]['nodes'][0]['outputs'][0]}": np.ones(1)}),
        "is a tensor of it, and its graph makes it",
    ),
    "a norm that is not there": (
        "exits",
        lambda m, _: m["graphs"][1]["nodes"][0].update(
            op="Norm", layer="x", inputs=["x"], attributes={"rank": 4}
        ),
        "has the norm 'x', which it does not list",
    ),
    "operations without end, mode by mode": (
        "slimmable", _many_modes, "its modes have more than 65536 operations together",
    ),
}  # fmt: skip


def _rewritten(written: dict[str, Path], folder: Path, method: str, change: Change) -> Path:
    manifest, tensors = parts_of(written[method].read_bytes())
    change(manifest, tensors)
    path = folder / "net.wen"
    path.write_bytes(bundle_of(manifest, tensors))
    return path


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_views_with_right_hashes_are_refused(
    written: dict[str, Path], tmp_path: Path, what: str
):
    method, change, message = HOSTILE[what]
    path = _rewritten(written, tmp_path, method, change)
    with pytest.raises(BundleError, match=message) as caught:
        Bundle(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1100


@pytest.mark.parametrize("method", ["slimmable", "precision", "exits"])
def test_what_was_written_opens(written: dict[str, Path], tmp_path: Path, method: str):
    path = Path(shutil.copy(written[method], tmp_path / "net.wen"))
    bundle = Bundle(path)
    assert len(bundle.modes) == len(MODES[method])
    assert bundle.why_not_any_mode()  # they differ in more than groups


def test_the_structure_tells_how_modes_are_cut(written: dict[str, Path], tmp_path: Path):
    def narrower(manifest: dict[str, Any], tensors: Tensors) -> None:
        other, norms = manifest["modes"][2], tensors["norms.2"]
        manifest["modes"][1].update(views=other["views"], channels=other["channels"])
        tensors["norms.1"] = norms

    before = Bundle(written["slimmable"]).structure
    assert Bundle(_rewritten(written, tmp_path, "slimmable", narrower)).structure != before

    def trained_further(_: dict[str, Any], tensors: Tensors) -> None:
        tensors["weights.fc.weight"] = 2 * tensors["weights.fc.weight"]

    assert Bundle(_rewritten(written, tmp_path, "slimmable", trained_further)).structure == before


def test_batches_are_checked_for_every_kind_of_mode(written: dict[str, Path]):
    bundle = Bundle(written["exits"])
    bundle.check_batch(7)
    held = [bundle.computed_bytes(batch, 0) for batch in (1, 7)]
    assert held[1] == 7 * held[0]


def test_a_session_has_the_modes_by_their_labels(written: dict[str, Path]):
    with Session(written["slimmable"], engine="onnxruntime", threads=1) as session:
        x = session.example()
        assert session.modes == ("1", "0.5", "0.25")
        by_label, by_name = session.run(x, mode="0.5"), session.run(x, mode="m02")
        with pytest.raises(ValueError, match=r"'0\.75', which is no option of 'width'"):
            session.run(x, mode="0.75")
    np.testing.assert_array_equal(by_label, by_name)
