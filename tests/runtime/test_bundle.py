"""A bundle that is not what was written gives one clear error, whatever was done to it."""

import json
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wenable as we
from tests.helpers.mutations import Tensors, bundle_of, parts_of
from tests.helpers.networks import converted, small_resnet
from wenable.core.preprocessing import Preprocessing
from wenable.core.readings import Reading
from wenable.runtime.bundle import VERSION, Bundle, BundleError
from wenable.runtime.session import Session

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("bundle"), uniform=5)


def write(folder: Path, uniform: int) -> Path:
    """Write a bundle of so many uniform modes, the costliest first, and a mixed one."""
    net = converted(small_resnet()).eval()
    modes = [*net.space.uniform_modes()[:uniform], net.space.sample(random.Random(3))]
    images = torch.randn(
        16, *net.example_batch[0].shape[1:], generator=torch.Generator().manual_seed(5)
    )
    we.calibrate(net, modes, [images])
    net.preprocessing = Preprocessing(6, (0.5,) * 3, (0.2,) * 3, labels=("a", "b"))
    readings = {"1/2": {"accuracy": Reading(0.9, "top-1", count=100)}}
    return we.export(net, modes, folder / "net.wen", readings=readings)


@pytest.fixture
def path(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(written, tmp_path / "net.wen"))


def refused(path: Path, message: str = "") -> None:
    before = path.read_bytes(), sorted(path.parent.iterdir()), threading.active_count()
    for opening in (Bundle, lambda path: Session(path, engine="onnxruntime", threads=1)):
        with pytest.raises(BundleError, match=message) as caught:
            opening(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 1100
    assert (path.read_bytes(), sorted(path.parent.iterdir()), threading.active_count()) == before


def rewrite(path: Path, change: Any, *, sums: bool = True) -> None:
    """Change the manifest and the tensors, and make all hashes right again."""
    manifest, tensors = parts_of(path.read_bytes())
    change(manifest, tensors)
    path.write_bytes(bundle_of(manifest, tensors, sums=sums))


def test_what_was_written_opens_under_any_name(path: Path):
    opened = Bundle(path)
    for name in ("net", "net.safetensors", "net.txt", "ü 1.wen"):
        renamed = path.rename(path.with_name(name))
        again = Bundle(renamed)
        assert (again.graph_of(0), again.modes) == (opened.graph_of(0), opened.modes)
        path = renamed


@pytest.mark.parametrize("share", [0, 0.0001, 0.01, 0.3, 0.5, 0.9, 0.9999])
def test_a_truncated_file_is_refused(path: Path, share: float):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, "is truncated or no bundle")


def test_any_altered_byte_is_refused(path: Path):
    content, rng = path.read_bytes(), random.Random(0)
    length = int.from_bytes(content[:8], "little")
    positions = [
        *range(8),
        *(rng.randrange(8, 8 + length) for _ in range(92)),
        *(rng.randrange(8 + length, len(content)) for _ in range(100)),
    ]
    for position in positions:
        altered = bytearray(content)
        altered[position] ^= 1 << rng.randrange(8)
        path.write_bytes(altered)
        with pytest.raises(BundleError, match=r"altered|truncated|no bundle|damaged") as caught:
            Bundle(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"PK\3\4" + bytes(100), b"\x80\x04cos\nsystem\n(X\1\0\0\0xtR.", bytes(1000),
     b"\x89PNG\r\n\x1a\n" + bytes(50), b'{"format": "wenable-bundle"}'],
    ids=["empty", "a byte", "zip", "pickle", "zeros", "png", "json"],
)  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, content: bytes):
    (tmp_path / "net.wen").write_bytes(content)
    refused(tmp_path / "net.wen", "is truncated or no bundle")


def test_paths_that_cannot_serve_are_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"none.wen\) does not exist"):
        Bundle(tmp_path / "none.wen")
    with pytest.raises(FileNotFoundError, match="is a folder, not a file"):
        Bundle(tmp_path)


def test_a_newer_version_is_refused_by_its_number(path: Path):
    rewrite(path, lambda manifest, _: manifest.update(version=VERSION + 1, wenable="9.1"))
    refused(
        path, rf"has version {VERSION + 1} of .* by wenable 9.1; this reads up to {VERSION}: upg"
    )


def test_a_file_of_version_1_opens_and_answers_the_same(path: Path):
    def as_version_1(manifest: Any, _: Tensors) -> None:
        manifest.update(version=1, graph=manifest.pop("graphs")[0])
        for mode in manifest["modes"]:
            for name in ("graph", "views", "channels"):
                del mode[name]

    def answers() -> list[np.ndarray]:
        with Session(path, engine="onnxruntime", threads=1) as session:
            x = session.example(3)
            return [session.run(x, mode=mode) for mode in session.modes]

    before, structure = answers(), Bundle(path).structure
    rewrite(path, as_version_1)
    np.testing.assert_array_equal(before, answers())
    assert Bundle(path).structure == structure  # so a profile that was kept still fits


@pytest.mark.parametrize("version", [None, 0, -1, True, 1.0, "1", [1]])
def test_versions_that_are_none_are_refused(path: Path, version: Any):
    rewrite(path, lambda manifest, _: manifest.update(version=version))
    refused(path, "is damaged: its version is")


def test_a_file_of_an_older_release_opens(path: Path):
    rewrite(path, lambda manifest, _: manifest.update(wenable="0.0.1"))
    assert len(Bundle(path).modes) > 1


def test_files_without_a_manifest_are_refused(path: Path):
    content = path.read_bytes()
    manifest, tensors = parts_of(content)
    for metadata in ({}, {"wenable": ""}, {"wenable": "[1]"}, {"wenable": "{}"}, {"sha256": "0"}):
        path.write_bytes(with_metadata(tensors, metadata))
        refused(path, "is no bundle: it has no manifest")
    path.write_bytes(with_metadata(tensors, {"wenable": json.dumps(manifest)}))
    refused(path, "was altered: the SHA-256 of its manifest")


def with_metadata(tensors: Tensors, metadata: dict[str, str]) -> bytes:
    from safetensors.numpy import save

    return save(tensors, metadata)


def test_a_manifest_that_was_changed_is_refused(path: Path):
    manifest, tensors = parts_of(path.read_bytes())
    manifest["sha256"]["norms.0"] = manifest["sha256"]["norms.1"]
    path.write_bytes(bundle_of(manifest, tensors, sums=False))
    refused(path, "was altered: the SHA-256 of 'norms.0' does not match")
    del manifest["sha256"]["norms.0"]
    path.write_bytes(bundle_of(manifest, tensors, sums=False))
    refused(path, "was altered: its tensors are not those it lists")


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**60, 2**64 - 1])
def test_a_header_of_another_length_is_refused(path: Path, length: int):
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    refused(path, "is truncated or no bundle")


def test_a_file_larger_than_any_bundle_is_not_read(tmp_path: Path):
    path = tmp_path / "net.wen"
    with path.open("wb") as file:
        file.truncate(2**40)  # a hole: it takes no space
    with pytest.raises(BundleError, match="is larger than 2147483648 bytes"):
        Bundle(path)


def test_json_that_nests_without_end_is_refused(path: Path):
    _, tensors = parts_of(path.read_bytes())
    for deep in ("[" * 100_000, '{"x":' * 100_000 + "1" + "}" * 100_000):
        path.write_bytes(with_metadata(tensors, {"wenable": deep}))
        refused(path, "is no bundle: it has no manifest")


def _graph(change: Any) -> Any:
    return lambda manifest, _: change(manifest["graphs"][0])


def _node(**changes: Any) -> Any:
    return lambda manifest, _: manifest["graphs"][0]["nodes"][3].update(changes)


def _attribute(name: str, value: Any) -> Any:
    return lambda manifest, _: manifest["graphs"][0]["nodes"][3]["attributes"].update({name: value})


def _first(part: str, **changes: Any) -> Any:
    return lambda manifest, _: manifest[part][0].update(changes)


def _tensor(name: str, change: Any) -> Any:
    def apply(_: Any, tensors: Tensors) -> None:
        tensors[name] = change(tensors[name])

    return apply


HOSTILE = {
    "an input of 2**60": (
        _graph(lambda graph: graph["inputs"][0].update(shape=[None, 2**30, 2**30])),
        r"the input 'x' has shape \(None, 1073741824, 1073741824\); it must begin with a batch and",
    ),
    "an input without a batch": (
        _graph(lambda graph: graph["inputs"][0].update(shape=[1, 3, 6, 6])), "must begin with a batch",
    ),
    "a size of 2**63": (
        _graph(lambda graph: graph["inputs"][0].update(shape=[None, 2**63])), "the shape .* of 'x'",
    ),
    "a type": (
        _graph(lambda graph: graph["inputs"][0].update(dtype="object")),
        r"the type \(='object'\) of 'x' is unknown; allowed: float32",
    ),
    "no inputs": (_graph(lambda graph: graph.update(inputs=[])), "inputs must be a list of 1 to"),
    "an input twice": (
        _graph(lambda graph: graph["inputs"].append(graph["inputs"][0])), "an input of the same name",
    ),
    "nodes as text": (_graph(lambda graph: graph.update(nodes="Relu")), "nodes must be a list of 1 to"),
    "nodes as numbers": (_graph(lambda graph: graph.update(nodes=[1, 2])), r"a node \(=1\) must be"),
    "too many nodes": (
        _graph(lambda graph: graph.update(nodes=graph["nodes"] * 1000)), "nodes must be a list of 1 to",
    ),
    "a node twice": (
        _graph(lambda graph: graph["nodes"].insert(3, graph["nodes"][2])), "makes '.*' twice",
    ),
    "nodes in another order": (_graph(lambda graph: graph["nodes"].reverse()), "before it is made"),
    "an output that is not made": (
        _graph(lambda graph: graph["outputs"][0].update(name="y")), "does not make its output 'y'",
    ),
    "opset 99": (_graph(lambda graph: graph.update(opset=99)), r"`opset` \(=99\) must be .* 13 to 40"),
    "opset as text": (_graph(lambda graph: graph.update(opset="20")), r"`opset` \(='20'\)"),
    "code for a name": (_node(op="__import__('os')"), "is no operation"),
    "a path for an operation": (_node(op="../../x"), "'../../x' is no operation"),
    "inputs of numbers": (_node(inputs=[1, 2]), r"an input of SwitchableConv \(=1\)"),
    "no weight": (_node(inputs=["relu"]), "reads 1 tensors and makes 1; allowed: reads 2 or 3"),
    "a weight that is computed": (_node(inputs=["relu", "relu"]), "is no tensor of it"),
    "no output": (_node(outputs=[]), "makes nothing"),
    "a layer that is not listed": (_node(layer="x"), "the layer 'x', which it does not list"),
    "a name with a newline": (_node(layer="a\nb"), "must be a printable text"),
    "half a character": (_node(layer="\ud800"), "must be a printable text"),
    "a graph for an attribute": (_attribute("body", {"graph": {}}), "the attribute 'body'"),
    "a list of texts": (_attribute("location", ["x"]), "the attribute 'location'"),
    "an empty list": (_attribute("pads", []), "the attribute 'pads'"),
    "a number of 80 bits": (_attribute("group", 2**80), "the attribute 'group'"),
    "a number no float holds": (_attribute("alpha", 1e300), "the attribute 'alpha'"),
    "NaN": (_attribute("alpha", float("nan")), "NaN is no number of JSON"),
    "infinity": (_attribute("alpha", float("inf")), "Infinity is no number of JSON"),
    "huge pads": (_attribute("pads", [2**40] * 4), "the attribute 'pads'"),
    "strides of 0": (_attribute("strides", [0, 0]), "the attribute 'strides'"),
    "the input of a layer": (_attribute("input", [16, 2**20, 2**20]), "has more than 268435456 values"),
    "another input of a layer": (_attribute("input", [8, 6, 6]), "has shape"),
    "a rank": (
        _graph(lambda graph: graph["nodes"][1]["attributes"].update(rank=2**40)), r"`rank` \(=1099511",
    ),
    "a mode that explodes": (
        _first("modes", mode=",".join(["1*999999"] * 1000)), "is not one of its 7 knobs",
    ),
    "a mode by an option of names": (_first("modes", mode="1,*a*a*a*=1/2"), "is not one of its 7"),
    "a short name that is a path": (_first("modes", id="../m1"), "must be as m01"),
    "a short name that is no text": (_first("modes", id=["m01"]), "must be as m01"),
    "short names twice": (
        lambda m, _: [each.update(id=name) for each, name in zip(m["modes"], ("m01", "m1"), strict=False)],
        "lists the short name 'm1' twice",
    ),
    "modes twice": (lambda m, _: m["modes"].append(m["modes"][0]), "lists the mode '1' twice"),
    "no modes": (lambda m, _: m.update(modes=[]), "`modes` must be a list of 1 to 4096"),
    "a million modes": (lambda m, _: m.update(modes=[0] * 10**6), "`modes` must be a list of 1 to"),
    "a reading that is a list": (
        _first("modes", readings={"accuracy": {"value": [1], "unit": "ms"}}), "must be a number",
    ),
    "a reading with a strange part": (
        _first("modes", readings={"accuracy": {"value": 1, "unit": "ms", "x": "y"}}), "damaged: .*'x'",
    ),
    "an identity that is a path": (lambda m, _: m.update(identity="../../x"), "is no SHA-256"),
    "a layer twice": (lambda m, _: m["layers"].append(m["layers"][0]), "lists the layer .* twice"),
    "channels that are half": (_first("layers", inputs=16.5), r"`inputs` of .* \(=16.5\) must be"),
    "channels that are not divided": (_first("layers", inputs=17), "do not divide"),
    "a knob that is not there": (_first("layers", knob="x"), "the knob 'x', which it does not list"),
    "a pointwise layer that is none": (
        lambda m, _: m["layers"][1].update(pointwise=True), "listed as pointwise and is not",
    ),
    "a norm twice": (lambda m, _: m["norms"].append(m["norms"][0]), "lists the norm .* twice"),
    "negative channels": (lambda m, _: m["norms"][0].__setitem__(1, -16), r"\(=-16\) must be a whole"),
    "a knob twice": (
        lambda m, _: m["space"]["knobs"].append(m["space"]["knobs"][0]), "lists the knob .* twice",
    ),
    "options that do not nest": (
        lambda m, _: m["space"]["knobs"][0].update(options=[1, 2, 3]), r"\(=\[1, 2, 3\]\) of .* nest",
    ),
    "a space of text": (lambda m, _: m.update(space="x"), r"`space` \(='x'\) must be an object"),
    "NaN in a weight": (_tensor("weights.fc.weight", lambda a: a * np.float32("nan")), "holds NaN"),
    "infinity in a weight": (
        _tensor("weights.fc.weight", lambda a: a / np.float32(0)), "'fc.weight' holds infinity",
    ),
    "one infinity in a convolution": (
        _tensor(
            "weights.block1.conv1.weight",
            lambda a: np.where(a == a.max(), -np.inf, a).astype(a.dtype),
        ),
        "'block1.conv1.weight' holds infinity",
    ),
    "infinity in a bias": (
        _tensor("weights.fc.bias", lambda a: a + np.float32("inf")), "'fc.bias' holds infinity",
    ),
    "infinite norms": (_tensor("norms.1", lambda a: a / 0), "the norms of mode 1/2 are not finite"),
    "norms cut off": (_tensor("norms.1", lambda a: a[:, :-1]), "lacks the norms of mode 1/2"),
    "norms of no mode": (lambda _, t: t.update({"norms.99": t["norms.1"]}), "belong to no mode"),
    "a tensor of no part": (lambda _, t: t.update({"../../x": t["norms.1"]}), "belongs to nothing"),
    "a tensor twice": (
        lambda _, t: t.update({"constants.fc.bias": t["weights.fc.bias"]}), "'fc.bias' twice",
    ),
    "a tensor that is also made": (
        lambda _, t: t.update({"constants.relu": t["weights.fc.bias"]}), "and its graph makes it",
    ),
    "a weight turned": (
        _tensor("weights.block1.conv1.weight", lambda a: a.transpose(1, 0, 2, 3)), "has shape",
    ),
    "a weight of whole numbers": (
        _tensor("weights.block1.conv1.weight", lambda a: a.astype(np.int32)), "type int32",
    ),
    "a tensor of complex numbers": (
        _tensor("weights.fc.bias", lambda a: a.astype(np.complex64)), "has type C64; allowed: F64",
    ),
    "a tensor missing": (lambda _, t: t.pop("weights.fc.weight"), "lacks the tensor 'fc.weight'"),
}  # fmt: skip


@pytest.mark.filterwarnings(
    "ignore:divide by zero:RuntimeWarning", "ignore:invalid value:RuntimeWarning"
)
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_claims_with_right_hashes_are_refused(path: Path, what: str):
    change, message = HOSTILE[what]
    rewrite(path, change)
    refused(path, message)


@pytest.mark.parametrize(
    "part",
    [
        "space",
        "graphs",
        "layers",
        "norms",
        "modes",
        "preprocessing",
        "identity",
        "sha256",
        "version",
    ],
)
def test_a_part_that_is_missing_or_of_another_kind_is_named(path: Path, part: str):
    content = path.read_bytes()
    for value in (None, 1, "x", [1], {"x": 1}, [[]], True):
        if (part, value) in (("preprocessing", None),):
            continue
        manifest, tensors = parts_of(content)
        manifest[part] = value
        path.write_bytes(bundle_of(manifest, tensors, sums=part != "sha256"))
        refused(path, "damaged|altered")
    manifest, tensors = parts_of(content)
    del manifest[part]
    path.write_bytes(bundle_of(manifest, tensors, sums=part != "sha256"))
    refused(path, "damaged: it lacks|its version is None|was altered")


def test_names_like_paths_are_only_names(path: Path, tmp_path: Path):
    def rename(manifest: Any, tensors: Tensors) -> None:
        tensors["weights.../../x"] = tensors.pop("weights.fc.weight")
        manifest["graphs"][0]["nodes"][-1]["inputs"][1] = "../../x"

    expected = Session(path, engine="onnxruntime", threads=1).run(np.ones((1, 3, 6, 6), np.float32))
    rewrite(path, rename)
    session = Session(path, engine="onnxruntime", threads=1)
    np.testing.assert_array_equal(session.run(np.ones((1, 3, 6, 6), np.float32)), expected)
    assert list(tmp_path.iterdir()) == [path]


def test_names_that_look_like_parts_of_the_file_stay_apart(path: Path):
    def rename(manifest: Any, tensors: Tensors) -> None:
        tensors["weights.constants.norms.0"] = tensors.pop("weights.fc.weight")
        manifest["graphs"][0]["nodes"][-1]["inputs"][1] = "constants.norms.0"

    rewrite(path, rename)
    assert (
        Session(path, threads=1, engine="onnxruntime").run(np.ones((1, 3, 6, 6), np.float32)).any()
    )


def test_an_opened_bundle_cannot_be_written_to(path: Path):
    bundle = Bundle(path)
    for array in (*bundle.weights_of(0).tensors.values(), bundle.weights_of(0).norms["stem.1"][0]):
        assert not array.flags.writeable
    path.write_bytes(b"")  # what was opened no longer needs the file
    assert np.isfinite(bundle.weights_of(0).tensors["fc.weight"]).all()


def test_opening_executes_nothing(path: Path):
    code = """
import sys
from wenable.runtime.bundle import Bundle
Bundle(sys.argv[1])
seen = []
def watch(event, arguments):
    if event in ("open", "exec", "compile", "import") or event.split(".")[0] in (
        "pickle", "marshal", "os", "subprocess", "shutil", "socket", "ctypes", "tempfile"):
        seen.append((event, str(arguments)[:200]))
sys.addaudithook(watch)
Bundle(sys.argv[1])
found = [each for each in seen if each[0] != "open" or sys.argv[1] not in each[1]]
print(found, [each for each in seen if "'w" in each[1]], len(seen))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[] [] 1"


@pytest.mark.parametrize(("engine", "count"), [("onnxruntime", 1000), ("openvino", 400)])
def test_many_damaged_files_give_one_clear_error_or_run(
    written: Path, tmp_path: Path, tmp_path_factory: Any, engine: str, count: int
):
    pytest.importorskip(engine)
    if engine == "openvino":  # it takes longer to compile a mode than to open a file of them
        written = write(tmp_path_factory.mktemp("bundle"), uniform=2)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "faulthandler", "-m", "tests.helpers.mutations",
         str(written), str(tmp_path), "bundle", str(count), engine],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    number = (tmp_path / "number").read_text()
    assert done.returncode == 0, f"file {number} ended the process: {done.stderr[-2000:]}"
    summary = json.loads(done.stdout)
    assert not summary["wrong"]
    assert sum(summary["found"].values()) == count
    assert summary["found"]["refused"] >= count // 2  # all whose hashes were not made right
    assert summary["found"]["ran"] >= count // 50  # what does no harm is not refused
    assert sorted(tmp_path.iterdir()) == [tmp_path / "damaged.wen", tmp_path / "number"]
