"""Two files of one network are the same bytes, whoever writes them, so that they can be signed."""

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors import deserialize, safe_open
from safetensors.torch import save as safetensors_bytes

import wenable as we
from tests.helpers.networks import IMAGES, small_resnet
from wenable.core.readings import Reading
from wenable.core.stored_tensors import in_one_order
from wenable.exporting.int8 import export_int8

WRITE = "import sys; from tests.exporting.test_reproducible import write; write(sys.argv[1])"


def write(folder: str) -> None:
    """Write a file of each kind."""
    torch.manual_seed(0)
    net = we.convert(small_resnet(), torch.zeros(IMAGES), method=we.WeightEnabling(shuffle="all"))
    batch = torch.randn(16, *IMAGES[1:], generator=torch.Generator().manual_seed(5))
    we.calibrate(net, ["full", "1/2"], [batch])
    readings = {"1/2": {"latency": Reading(1.5, "ms"), "accuracy": Reading(0.5, "top-1")}}
    we.export(net, ["full", "1/2"], f"{folder}/net.wen", readings=readings)
    we.save(net, f"{folder}/net.safetensors")
    narrow = we.convert(
        small_resnet(), torch.zeros(IMAGES), method=we.SwitchablePrecision(bits=(32, 8))
    )
    we.calibrate(narrow, "8-bit", [batch])
    export_int8(narrow, "8-bit", f"{folder}/net.int8.onnx")


def checksums(folder: Path) -> dict[str, str]:
    return {each.name: sha256(each.read_bytes()).hexdigest() for each in sorted(folder.iterdir())}


def test_files_of_one_network_are_the_same_bytes_in_every_process(tmp_path: Path):
    """Here, and in a process with other hashes of texts, another folder, other names in memory."""
    here, there = tmp_path / "a", tmp_path / "longer" / "b"
    here.mkdir()
    there.mkdir(parents=True)
    write(str(here))
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / "src"), os.environ.get("PYTHONPATH", "")])
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths}
    command = [sys.executable, "-W", "ignore", "-c", WRITE, str(there)]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path / "longer")
    assert list(checksums(here)) == ["net.int8.onnx", "net.safetensors", "net.wen"]
    assert checksums(here) == checksums(there)
    # Nothing of the machine that wrote them stands in them.
    for path in (*here.iterdir(), *there.iterdir()):
        assert b".py" not in path.read_bytes()
        assert str(tmp_path).encode() not in path.read_bytes()


@pytest.mark.parametrize("texts", [{}, {"a": "1"}, {f"ü{i}": '"\\' * i for i in range(9)}])
def test_the_order_of_a_header_is_set_and_nothing_else_changed(texts: dict, tmp_path: Path):
    tensors = {
        f"t{i}": torch.arange(i, dtype=dtype) for i, dtype in enumerate((torch.int8, torch.float64))
    }
    contents = {in_one_order(safetensors_bytes(tensors, texts or None)) for _ in range(20)}
    assert len(contents) == 1
    content = contents.pop()
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with safe_open(path, framework="pt") as file:
        assert (file.metadata() or {}) == texts
        assert all(torch.equal(file.get_tensor(name), each) for name, each in tensors.items())
    assert sorted(name for name, _ in deserialize(content)) == sorted(tensors)
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    assert list(json.loads(content[8 : 8 + length]).get("__metadata__", {})) == sorted(texts)
