"""Damages bundles in every way, and says what a session makes of them. Imports no torch.

`python -m tests.helpers.mutations BUNDLE FOLDER SEED COUNT ENGINE` prints what became of COUNT
damaged files as JSON. It is a process of its own: one that an engine ends is told from a test that
fails. FOLDER then holds the file that was tried last, and its number.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import resource
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from wenable.runtime.bundle import Bundle, BundleError, checksum
from wenable.runtime.engine import EngineError
from wenable.runtime.session import Session

Tensors = dict[str, np.ndarray]
ODD = (
    None, True, False, 0, -1, 1, 2, 7, 2**31, 2**62, 2**63, 10**30, -(2**63), 0.5, -1.5, 1e30, 1e300,
    math.nan, math.inf, -math.inf, "", "x", "../../x", "a\nb", "\0", "\ud800", "é", "1/2", "1*9,1/2",
    "Loop", "If", "Scan", "Expand", "ConstantOfShape", [], {}, [[]], [None], [1, "x"], [2**62] * 4,
    [-1] * 4, [1.5, 2.5], "x" * 5000, [0] * 5000, {"x": {"x": []}},
)  # fmt: skip


def parts_of(content: bytes) -> tuple[dict[str, Any], Tensors]:
    """The manifest and the tensors of a bundle."""
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    return json.loads(metadata["wenable"]), load(content)


def bundle_of(manifest: dict[str, Any], tensors: Tensors, *, sums: bool = True) -> bytes:
    """The content of a bundle, with its hashes made right."""
    tensors = {name: np.array(array, order="C") for name, array in tensors.items()}
    if sums:
        manifest["sha256"] = {name: checksum(array) for name, array in tensors.items()}
    text = json.dumps(manifest)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return save(tensors, {"wenable": text, "sha256": digest})


def mutated_manifest(manifest: Any, rng: random.Random) -> None:
    """Change one place of a JSON value, chosen so that each depth is met."""
    place: Any = manifest
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = rng.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.85:
            place = place[key]
            continue
        break
    kind = rng.randrange(6)
    other = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
    if kind == 0:
        del place[key]
    elif kind == 1 and type(place[key]) is int:
        place[key] = rng.choice(
            [-1, 0, 1, 2, 3, 8, 16, 64, 1000, 2**31, 2**40, 2**63]
        ) * rng.choice([1, 1, place[key]])
    elif kind == 2:
        place[key], place[other] = place[other], place[key]
    elif kind == 3 and isinstance(place, list):
        place.insert(other, place[key])
    elif kind == 4 and isinstance(place, list):
        del place[rng.randrange(len(place)) :]
    else:
        place[key] = rng.choice(ODD)


def mutated_graph(manifest: Any, rng: random.Random) -> None:
    """Change an operation, an attribute or a name to another that there might be."""
    nodes = rng.choice(manifest["graphs"])["nodes"]
    node, other = rng.choice(nodes), rng.choice(nodes)
    names = sorted({name for each in nodes for name in (*each["inputs"], *each["outputs"])})
    kind = rng.randrange(5)
    if kind == 0:
        node["op"] = rng.choice(OPERATIONS)
    elif kind == 1:
        place = node[rng.choice(["inputs", "outputs"])]
        place[rng.randrange(len(place))] = rng.choice([*names, "", "new"])
    elif kind == 2:
        numbers = [
            rng.choice([-1, 0, 1, 2, 3, 64, 1000, 2**31]) for _ in range(rng.randrange(1, 5))
        ]
        value = rng.choice([numbers, numbers[0], 0.5, "SAME_UPPER", [0.5, 1.5]])
        node.setdefault("attributes", {})[rng.choice(ATTRIBUTES)] = value
    elif kind == 3:
        node["layer"] = other.get("layer", "")
    else:
        rng.choice(manifest["graphs"])["opset"] = rng.randrange(10, 45)


OPERATIONS = """Abs Add ArgMax AveragePool BatchNormalization Cast Clip Concat Conv ConvTranspose
    CumSum DepthToSpace Div Dropout Einsum Expand Flatten Gather GatherND Gemm GlobalAveragePool
    GridSample GRU Hardmax Identity If InstanceNormalization LayerNormalization Loop LpPool LRN LSTM
    MatMul Max MaxPool MaxUnpool Mod Multinomial NonMaxSuppression NonZero Norm OneHot Pad Pow
    QuantizeLinear RandomNormalLike Range ReduceMean Relu Reshape Resize RoiAlign Scan ScatterND
    SequenceAt Shape Size Slice Softmax SpaceToDepth Split Squeeze StringSplit SwitchableConv
    SwitchableLinear Tile TopK Transpose Trilu Unique Unsqueeze Upsample Where""".split()
ATTRIBUTES = """alpha axes axis auto_pad beta blocksize ceil_mode dilations direction group input
    kernel_shape keepdims mode num_outputs output_padding pads perm rank strides to""".split()


def mutated_tensors(tensors: Tensors, rng: random.Random) -> None:
    name, kind = rng.choice(sorted(tensors)), rng.randrange(7)
    array = tensors[name].copy()
    if kind == 0:
        del tensors[name]
        return
    if kind == 1:
        tensors[name + rng.choice(["", "x", ".weight"])] = array[..., :-1]
    elif kind == 2:
        types = [np.float64, np.float16, np.int64, np.uint8, np.bool_, np.uint32, np.complex64]
        with np.errstate(all="ignore"):
            tensors[name] = array.astype(rng.choice(types))
    elif kind == 3:
        array.flat[rng.randrange(array.size)] = (
            rng.choice([np.nan, np.inf, -np.inf, 1e38])
            if array.dtype.kind == "f"
            else rng.choice([-1, 0, 5, 2**40, 2**62])
        )
        tensors[name] = array
    elif kind == 4:
        tensors[name] = array.reshape(rng.choice([(-1,), (1, -1), (-1, 1, 1), (1, 1, 1, 1, -1)]))
    elif kind == 5:
        other = rng.choice(sorted(tensors))
        tensors[name], tensors[other] = tensors[other], tensors[name]
    else:
        tensors[name] = np.zeros(rng.choice([(0,), (), (0, 3), (1,) * 20]), array.dtype)


def mutated_bytes(content: bytes, rng: random.Random) -> bytes:
    """Damage a file as disks and transfers do; no hash is made right."""
    kind, altered = rng.randrange(5), bytearray(content)
    length = int.from_bytes(content[:8], "little")
    ends = rng.choice([8, 8 + length, len(content)])
    if kind == 0:
        return content[: rng.randrange(len(content))]
    if kind == 1:
        altered[rng.randrange(ends)] ^= 1 << rng.randrange(8)
    elif kind == 2:
        start = rng.randrange(ends)
        altered[start : start + rng.randrange(1, 64)] = rng.randbytes(rng.randrange(1, 64))
    elif kind == 3:
        altered[:8] = rng.choice([0, 1, length - 1, length + 8, 2**31, 2**60]).to_bytes(8, "little")
    else:
        altered += rng.randbytes(rng.randrange(1, 4096))
    return bytes(altered)


def damaged(content: bytes, rng: random.Random, *, rehashed: bool) -> bytes | None:
    """A damaged bundle; None where the format itself cannot hold what was drawn."""
    if not rehashed:
        return mutated_bytes(content, rng)
    manifest, tensors = parts_of(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        change: Callable[[], None] = rng.choice(
            [
                lambda: mutated_manifest(manifest, rng),
                lambda: mutated_graph(manifest, rng),
                lambda: mutated_tensors(tensors, rng),
            ]
        )
        try:
            change()
        except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError):
            continue  # an earlier change took away what this one wanted
    try:
        return bundle_of(manifest, tensors)
    except (ValueError, UnicodeError, TypeError, KeyError):
        return None


def outcome(path: Path, engine: str) -> str:
    """What became of a file: "refused", "engine", "input", "ran"; raises what should not be."""
    try:
        bundle = Bundle(path)
    except BundleError as error:
        _check_message(error)
        if str(path) not in str(error):
            raise AssertionError(f"the message does not name the file: {error}") from error
        return "refused"
    if any(math.prod(size or 1 for size in each.shape) > 2**20 for each in bundle.inputs):
        return "large input"
    try:
        session = Session(path, engine=engine, threads=1)
        inputs = tuple(
            np.zeros([size or 1 for size in each.shape], each.dtype) for each in bundle.inputs
        )
        for mode in session.modes:
            session.run(inputs, mode=mode)
    except (BundleError, EngineError, ValueError) as error:
        _check_message(error)
        return "input" if type(error) is ValueError else type(error).__name__
    return "ran"


def _check_message(error: Exception) -> None:
    if "\n" in str(error) or not str(error).strip():
        raise AssertionError(f"not one line: {error!r}")


def main(bundle: str, folder: str, seed: str, count: str, engine: str) -> None:
    """Try COUNT damaged files, half of them with their hashes made right, and print a summary."""
    # What would take the machine's memory fails here instead.
    resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, resource.RLIM_INFINITY))
    content, path = Path(bundle).read_bytes(), Path(folder) / "damaged.wen"
    found: Counter[str] = Counter()
    wrong: list[str] = []
    for number in range(int(count)):
        rng, made = random.Random(f"{seed} {number}"), None
        while made is None:
            made = damaged(content, rng, rehashed=number % 2 == 1)
        (Path(folder) / "number").write_text(str(number))
        path.write_bytes(made)
        try:
            found[outcome(path, engine)] += 1
        except Exception as error:
            wrong.append(f"{number}: {type(error).__name__}: {error}"[:300])
    print(json.dumps({"found": found, "wrong": wrong}))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
