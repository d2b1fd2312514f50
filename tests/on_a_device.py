"""Runs bundles in an environment without torch, as a device has it: `make test-device`.

    python tests/on_a_device.py out/demo/net.wen out/device

The second is the folder that `tests/for_a_device.py` wrote, with a bundle of each method.

Not collected by pytest, which this environment lacks. It ends with status 0 where everything holds.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_S = 0.3
EXACT, ROUNDED = 1e-4, 0.02
"""Of the largest output: how far modes of float32 may be off, and those with integers of 8 bits."""


def main(bundle: str, folder: str) -> None:
    for name in ("torch", "torchvision", "timm", "onnx", "scipy"):
        assert importlib.util.find_spec(name) is None, f"{name} is installed here"
    took_s = imported_in_s()
    print(f"import wenable.runtime: {took_s:.3f} s (goal {LIMIT_S})")
    answers = {name: answers_of(bundle, name) for name in engines()}
    first = answers["onnxruntime"]
    for name, found in answers.items():
        for mode, values in found.items():
            scale = max(map(abs, first[mode]))
            worst = max(abs(a - b) for a, b in zip(values, first[mode], strict=True)) / scale
            assert worst < EXACT, f"{name} differs in {mode} by {worst}"
        print(f"{name}: {len(found)} modes")
    check_methods(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        profile = str(Path(folder) / "here.json")
        run("profile", bundle, "--threads", "1", "--out", profile)
        assert json.loads(Path(profile).read_text())["latencies"]
        run("doctor")
    print("everything holds")


def imported_in_s() -> float:
    """Return the time of the import in a fresh process, the least of five."""
    code = "import time; t = time.perf_counter(); import wenable.runtime; print(time.perf_counter() - t)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            for _ in range(5)]  # fmt: skip
    return min(float(each.stdout) for each in runs)


def engines() -> tuple[str, ...]:
    from wenable.runtime.engines import installed_engines

    assert set(installed_engines()) == {"onnxruntime", "openvino"}
    return installed_engines()


def answers_of(bundle: str, engine: str) -> dict[str, list[float]]:
    """Return each mode's answers on one input, after one request under a deadline."""
    from wenable.runtime import Session

    session = Session(bundle, engine=engine, threads=1)
    x = session.example()
    session.warm_up()
    session.run(x, deadline_ms=1000.0)
    assert session.controller().decisions[-1].meets
    return {mode: session.run(x, mode=mode).ravel().tolist() for mode in session.modes}


def check_methods(folder: Path) -> None:
    """Run every mode of every method's bundle, beside the answers that PyTorch gave."""
    import numpy as np

    from wenable.runtime import Session

    paths = sorted(folder.glob("*.wen"))
    assert len(paths) >= 10, f"{folder} holds {len(paths)} bundles"
    for path in paths:
        expected = np.load(path.with_suffix(".npz"))
        worst = {False: 0.0, True: 0.0}
        for engine in engines():
            with Session(path, engine=engine, threads=1) as session:
                session.run(expected["images"], deadline_ms=1000.0)
                for number, mode in enumerate(expected["modes"].tolist()):
                    answer, wanted = (
                        session.run(expected["images"], mode=mode),
                        expected[str(number)],
                    )
                    rounded = any(f"{bits}-bit" in mode for bits in (16, 8, 4))
                    off = float(np.abs(answer - wanted).max() / np.abs(wanted).max())
                    assert off < (ROUNDED if rounded else EXACT), f"{path}, {engine}, {mode}: {off}"
                    worst[rounded] = max(worst[rounded], off)
        bits = f", {worst[True]:.1e} in few bits" if worst[True] else ""
        print(f"{path.stem}: {len(expected['modes'])} modes, off by {worst[False]:.1e}{bits}")


def run(*arguments: str) -> None:
    started = time.perf_counter()
    command = [str(Path(sys.executable).parent / "wenable"), *arguments]
    subprocess.run(command, capture_output=True, text=True, check=True)
    print(f"wenable {arguments[0]}: {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
