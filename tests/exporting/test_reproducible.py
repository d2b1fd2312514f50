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

from wenable.core.stored_tensors import in_one_order

WRITE = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
import wenable as we
from tests.helpers.networks import IMAGES, small_resnet
from wenable.exporting.int8 import export_int8
from wenable.core.readings import Reading

folder = sys.argv[1]
torch.manual_seed(0)
net = we.convert(small_resnet(), torch.zeros(IMAGES), method=we.WeightEnabling(shuffle="all"))
batch = torch.randn(16, *IMAGES[1:], generator=torch.Generator().manual_seed(5))
we.calibrate(net, ["full", "1/2"], [batch])
readings = {"1/2": {"latency": Reading(1.5, "ms"), "accuracy": Reading(0.5, "top-1")}}
we.export(net, ["full", "1/2"], f"{folder}/net.wen", readings=readings)
we.save(net, f"{folder}/net.safetensors")
narrow = we.convert(small_resnet(), torch.zeros(IMAGES), method=we.SwitchablePrecision(bits=(32, 8)))
we.calibrate(narrow, "8-bit", [batch])
export_int8(narrow, "8-bit", f"{folder}/net.int8.onnx")
"""


def written_by(seed: str, folder: Path, cwd: Path) -> dict[str, str]:
    """Write all kinds of files in a process of its own, and return their checksums."""
    folder.mkdir(parents=True)
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", WRITE, folder], check=True, env=environment, cwd=cwd)
    return {each.name: sha256(each.read_bytes()).hexdigest() for each in sorted(folder.iterdir())}


def test_files_of_one_network_are_the_same_bytes_in_every_process(tmp_path: Path):
    one = written_by("1", tmp_path / "a", tmp_path)
    other = written_by("2", tmp_path / "longer" / "b", tmp_path / "longer")
    assert list(one) == ["net.int8.onnx", "net.safetensors", "net.wen"]
    assert one == other
    # Nothing of the machine that wrote them stands in them.
    for path in (tmp_path / "a").iterdir():
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
