"""What goes to ExecuTorch gives the answers of the extracted network, and says what it is."""

import importlib
import json
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import wenable as we
from results.records import ROOT, read_records, records_file
from tests.helpers.networks import IMAGES, converted, small_resnet
from tests.network.test_outputs import Answer, Gives, X
from wenable.core.preprocessing import Preprocessing
from wenable.core.readings import Reading
from wenable.exporting import executorch as ours
from wenable.exporting.executorch import export_executorch
from wenable.modules.outputs import tensors_of

MODES = ["full", "1/4", "1/2"]
ACCURACY = Reading(0.9, "top-1", low=0.8, high=0.95, count=100, source="test")
PREPROCESSING = Preprocessing(6, (0.5,) * 3, (0.2,) * 3, labels=("a", "b", "c", "d", "é"))


def calibrated(model: nn.Module | None = None) -> we.DynamicNetwork:
    net = converted(model).eval()
    images = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(5))
    we.calibrate(net, MODES, [images])
    net.preprocessing = PREPROCESSING
    return net


def program(path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runtime = importlib.import_module("executorch.runtime").Runtime.get()
    return runtime.load_program(path)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A network, the file with its modes, and what was lowered: lowering takes seconds."""
    pytest.importorskip("executorch")
    kept, lower = [], ours._lower

    def lower_and_keep(*arguments):
        kept.append(lower(*arguments))
        return kept[-1]

    torch.manual_seed(0)
    net = calibrated()
    path = tmp_path_factory.mktemp("executorch") / "net.pte"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ours, "_lower", lower_and_keep)
        file = export_executorch(net, MODES, path, readings={"1/4": {"accuracy": ACCURACY}})
    return net, file, kept[0]


def test_every_method_gives_the_answers_of_the_extracted_network(written):
    net, file, _ = written
    assert file.methods == {"1": "mode_0", "1/4": "mode_1", "1/2": "mode_2"}
    loaded = program(file.path)
    assert loaded.method_names == {"wenable", *file.methods.values()}
    answers = []
    for mode, method in file.methods.items():
        x = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(7))
        with torch.no_grad():
            expected = we.extract(net, mode).eval()(x)
        (found,) = loaded.load_method(method).execute([x])
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
        answers.append(found)
    assert all(not torch.allclose(each, answers[0], atol=1e-3) for each in answers[1:])


def test_what_a_host_needs_to_know_is_in_the_file(written):
    net, file, _ = written
    about = json.loads(program(file.path).load_method("wenable").execute([])[0])
    assert (about["format"], about["version"]) == ("wenable executorch", 1)
    assert {each["mode"]: each["method"] for each in about["modes"]} == dict(file.methods)
    assert about["inputs"] == [{"shape": [1, 3, 6, 6], "dtype": "float32"}]
    assert Preprocessing.from_json(about["preprocessing"]) == PREPROCESSING
    full, quarter, _ = (each["readings"] for each in about["modes"])
    assert full["macs"]["value"] == net.macs("full")
    assert Reading(**quarter["accuracy"]) == ACCURACY
    assert set(full) == {"macs"}


def test_sizes_and_what_xnnpack_does_not_run(written):
    net, file, (content, _) = written
    assert file.path.read_bytes() == content
    assert file.bytes == len(content)
    full = we.extract(net, "full")
    assert file.weight_bytes == sum(4 * each.numel() for each in full.parameters())
    assert set(file.undelegated) == set(file.methods)
    # XNNPACK has every layer of this network: were one left out, it would be named here.
    named = {each for names in file.undelegated.values() for each in names}
    assert not any("conv" in each or "linear" in each or "addmm" in each for each in named)


class TwoInputs(nn.Module):
    """A layer norm and a lookup, which XNNPACK has not, two inputs and a dictionary of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.names = nn.Embedding(7, 16)
        self.norm = nn.LayerNorm(16)
        self.fc1, self.fc2 = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor, kind: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = torch.relu(self.fc1(self.norm(x)))
        return {"hidden": hidden, "answer": self.fc2(hidden) + self.names(kind)}


def test_several_inputs_and_outputs_and_what_xnnpack_has_not(written, tmp_path):
    inputs = torch.randn(2, 16), torch.zeros(2, dtype=torch.long)
    net = we.convert(TwoInputs().eval(), inputs, method=we.WeightEnabling(classifier=True))
    file = export_executorch(net, ["1/4"], tmp_path / "net.pte")
    assert any("layer_norm" in each for each in file.undelegated["1/4"])
    assert any("embedding" in each for each in file.undelegated["1/4"])
    loaded = program(file.path)
    about = json.loads(loaded.load_method("wenable").execute([])[0])
    assert [each["shape"] for each in about["inputs"]] == [[1, 16], [1]]
    assert [each["dtype"] for each in about["inputs"]] == ["float32", "int64"]
    x, kind = torch.randn(1, 16), torch.tensor([3])
    with torch.no_grad():
        expected = we.extract(net, "1/4").eval()(x, kind)
    found = loaded.load_method("mode_0").execute([x, kind])
    torch.testing.assert_close(found, list(expected.values()), rtol=0, atol=1e-5)


def test_every_width_is_a_method(written, tmp_path):
    torch.manual_seed(0)
    model = small_resnet().eval()
    net = we.convert(model, torch.zeros(IMAGES), method=we.Slimmable((1.0, 0.5), 2)).eval()
    we.calibrate(net, net.space.uniform_modes(), [torch.randn(IMAGES)])
    file = export_executorch(net, ["1", "0.5"], tmp_path / "net.pte")
    assert list(file.methods) == ["1", "0.5"]
    loaded = program(file.path)
    x = net.example_batch[0]
    for mode, method in file.methods.items():
        with torch.no_grad(), net.using(mode):
            found = loaded.load_method(method).execute([x])[0]
            torch.testing.assert_close(found, net(x), rtol=1e-4, atol=1e-4)


def test_outputs_have_the_names_of_the_dataclass_they_are_in(written, tmp_path):
    net = we.convert(Gives(lambda a, b: Answer(a, hidden=b)), X)
    file = export_executorch(net, ["1"], tmp_path / "net.pte")
    loaded = program(file.path)
    about = json.loads(loaded.load_method("wenable").execute([])[0])
    assert about["outputs"] == ["logits", "hidden"]
    found = loaded.load_method("mode_0").execute([X[:1]])
    assert all(map(torch.allclose, found, tensors_of(net(X[:1]))))


def test_a_mode_that_differs_is_not_written(written, tmp_path, monkeypatch):
    _, _, lowered = written
    net = calibrated()
    with torch.no_grad():
        net.get_parameter("fc.bias").add_(0.5)  # what was lowered is of other weights
    we.calibrate(net, MODES, [torch.randn(16, 3, 6, 6)])
    monkeypatch.setattr(ours, "_lower", lambda plain, example, about: lowered)
    monkeypatch.setattr(ours, "_about", lambda *_: json.loads(_text_of(lowered[0])))
    path = tmp_path / "net.pte"
    path.write_text("the old file")
    message = r"mode 1 differs on ExecuTorch .* nothing was written"
    with pytest.raises(RuntimeError, match=message):
        export_executorch(net, MODES, path)
    assert path.read_text() == "the old file"
    assert list(tmp_path.iterdir()) == [path]


def _text_of(content: bytes) -> str:
    runtime = importlib.import_module("executorch.runtime").Runtime.get()
    return runtime.load_program(content).load_method("wenable").execute([])[0]


def test_a_text_that_does_not_come_back_is_not_written(written, tmp_path, monkeypatch):
    net, _, lowered = written
    monkeypatch.setattr(ours, "_lower", lambda plain, example, about: lowered)
    with pytest.raises(RuntimeError, match="method wenable does not give its text back"):
        export_executorch(net, MODES, tmp_path / "net.pte")  # without the readings
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("modes", "settings", "message"),
    [
        ([], {}, "`modes` is empty"),
        (["1", "full"], {}, "names a mode twice"),
        (["nonsense"], {}, "nonsense"),
        (["1"], {"readings": {"1/2": {}}}, "`readings` has mode 1/2, which is not among `modes`"),
    ],
)
def test_what_cannot_be_exported_is_refused(tmp_path, modes, settings, message):
    with pytest.raises(ValueError, match=message):
        export_executorch(calibrated(), modes, tmp_path / "net.pte", **settings)
    assert not list(tmp_path.iterdir())


def test_an_uncalibrated_mode_is_told_of_and_nothing_else(written, tmp_path, monkeypatch):
    net, _, lowered = written
    monkeypatch.setattr(ours, "_lower", lambda plain, example, about: lowered)
    monkeypatch.setattr(ours, "_check", lambda *_: None)
    with pytest.warns(we.UncalibratedWarning, match="exported") as told:
        file = export_executorch(net, ["1", "1/8"], tmp_path / "net.pte")
    assert [each.filename for each in told] == [__file__]
    assert list(file.methods) == ["1", "1/8"]


def test_a_network_that_cannot_be_held_is_refused(written, tmp_path, monkeypatch):
    net, _, _ = written

    def no_export(*_, **__):
        raise TypeError("no such operator\nand forty lines more")

    monkeypatch.setattr(torch.export, "export", no_export)
    message = "ExecuTorch cannot hold the network: no such operator$"
    with pytest.raises(RuntimeError, match=message):
        export_executorch(net, ["1"], tmp_path / "net.pte")
    assert not list(tmp_path.iterdir())


def test_without_executorch_the_error_says_what_to_install(tmp_path, monkeypatch):
    def absent(name: str):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(ours, "import_module", absent)
    message = r"^executorch is not installed: pip install 'wenable\[executorch\]'$"
    with pytest.raises(ModuleNotFoundError, match=message):
        export_executorch(calibrated(), ["1"], tmp_path / "net.pte")
    assert not list(tmp_path.iterdir())


def test_exporting_leaves_the_network_as_it_was(written, tmp_path, monkeypatch):
    _, _, lowered = written
    net = calibrated()
    net.set_mode("1/2")
    net.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    monkeypatch.setattr(ours, "_lower", lambda plain, example, about: lowered)
    export_executorch(net, MODES, tmp_path / "net.pte", readings={"1/4": {"accuracy": ACCURACY}})
    assert net.training
    assert net.mode == net.space.uniform(2)
    assert all(torch.equal(before[name], each) for name, each in net.state_dict().items())


PAGE = Path(__file__).parents[2] / "docs" / "guides" / "executorch.md"


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_the_host_in_cpp_gives_what_the_host_in_python_gives(written, tmp_path):
    """The very program and command of the page, for the sizes of this network."""
    _, file, _ = written
    shutil.copy(file.path, tmp_path / "net.pte")
    text = PAGE.read_text(encoding="utf-8")
    code = re.findall(r"```cpp\n(.*?)```", text, re.DOTALL)[0]
    (tmp_path / "host.cpp").write_text(code.replace("32 * 32", "6 * 6").replace("32, 32", "6, 6"))
    [command] = [each for each in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "g++" in each]
    command = command.replace("$(python ", f"$({sys.executable} ")
    built = subprocess.run(
        ["bash", "-ec", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr[-2000:]
    ran = subprocess.run(
        [tmp_path / "host"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    (expected,) = program(file.path).load_method("mode_1").execute([torch.zeros(1, 3, 6, 6)])
    assert ran.stdout.split() == [f"{each:.4f}" for each in expected[0].tolist()]


def test_the_page_says_what_was_measured():
    text = PAGE.read_text(encoding="utf-8")
    found = read_records(records_file(ROOT, "executorch"))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    for row in found["rows"]:
        sizes = (
            f"{row['bytes']:,} | {row['weight_bytes']:,} | {row['bytes'] / row['weight_bytes']:.2f}"
        )
        added = row["resident_mib_added"]
        held = " + ".join(f"{added[mode]:.0f}" for mode in found["modes"])
        assert all(each > 0 for each in added.values())
        assert sum(sizes in line and f"| {held} |" in line for line in lines) == 1
    assert all(f"{name} {each}" in text for name, each in found["versions"].items())
