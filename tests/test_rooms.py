"""The shape of the house: who may import whom, what is public, and what stays free of torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import wenable as we

SOURCE = Path(we.__file__).parent

# Each room and what it may import of ours, beyond itself; `docs/development/architecture.md` has
# the same table.
ROOMS: dict[str, set[str]] = {
    "version": set(),
    "core": set(),
    "images": set(),
    "zoo": set(),
    "data": {"core", "images"},
    "measure": {"core"},
    "strategies": {"core"},
    "report": {"core"},
    "runtime": {"core", "images", "measure", "version"},
    "profiling": {"core", "measure", "runtime"},
    "serving": {"runtime"},
    "modules": {"measure"},
    "graph": {"core", "modules"},
    "layers": {"core"},
    "methods": {"core", "graph", "layers"},
    "network": {"core", "graph", "layers", "methods", "modules"},
    "training": {"core", "data", "layers", "modules", "network"},
    "search": {"core", "layers", "measure", "modules", "network", "strategies"},
    "saving": {"core", "layers", "methods", "modules", "network", "report", "version", "zoo"},
    "exporting": {"core", "graph", "layers", "modules", "network", "runtime", "version"},
    "cascades": {"core", "graph", "layers", "measure", "modules", "network"},
}
FREE_OF_TORCH = (
    "version", "core", "images", "measure", "strategies", "runtime", "profiling", "report", "serving",
)  # fmt: skip


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the room"
            found.add(node.module or "")
            if node.module == "wenable":
                found |= {f"wenable.{alias.name}" for alias in node.names}
    return found


def rooms_imported_by(path: Path) -> set[str]:
    return {room_of(each) for each in imports_of(path) if each.split(".")[0] == "wenable"}


def files_by_room() -> dict[str, list[Path]]:
    rooms: dict[str, list[Path]] = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).parts
        deepest = 3 if parts[:2] in (("measure", "meters"), ("runtime", "native")) else 2
        assert len(parts) <= deepest, f"{path} lies too deep"
        if parts != ("__init__.py",):
            rooms.setdefault(parts[0].removesuffix(".py"), []).append(path)
    return rooms


def test_every_room_imports_only_what_it_may():
    rooms = files_by_room()
    assert set(rooms) == set(ROOMS) | {"cli"}
    for room, paths in rooms.items():
        if room == "cli":  # arguments to calls: it may import all, and nothing imports it
            continue
        for path in paths:
            ours = rooms_imported_by(path)
            assert ours <= ROOMS[room] | {room}, f"{path.name} imports {ours - ROOMS[room]}"


def test_no_room_may_import_what_it_does_not():
    for room, paths in files_by_room().items():
        if room != "cli":
            used = set().union(*map(rooms_imported_by, paths))
            assert ROOMS[room] <= used, f"{room} may import {ROOMS[room] - used} and does not"


def test_the_order_of_the_rooms_has_no_circle():
    done: set[str] = set()
    left = dict(ROOMS)
    while left:
        ready = {room for room, needs in left.items() if needs <= done}
        assert ready, f"a circle among {sorted(left)}"
        done |= ready
        left = {room: needs for room, needs in left.items() if room not in ready}


@pytest.mark.parametrize("room", FREE_OF_TORCH)
def test_what_a_device_needs_imports_no_torch(room: str):
    folder, _, name = room.partition("/")
    paths = [each for each in files_by_room()[folder] if name in ("", each.name)]
    assert paths
    for path in paths:
        assert "torch" not in {m.split(".")[0] for m in imports_of(path)}


def test_importing_the_package_loads_no_torch():
    code = (
        "import sys, wenable, wenable.core.space, wenable.core.readings, wenable.strategies;"
        "import wenable.measure, wenable.runtime;"
        "print(sorted(m for m in ('torch', 'matplotlib', 'scipy') if m in sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_verbs_stay_functions_whatever_was_imported_first():
    code = (
        "import wenable.strategies, wenable.search.exploring, wenable.training, wenable.network.conversion;"
        "import wenable as we;"
        "print(all(callable(getattr(we, n)) for n in"
        " 'convert train calibrate evaluate explore extract save load'.split()))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "True"


def test_the_public_names():
    """A name that leaves this list breaks somebody's program: it needs a deprecation first."""
    assert [name for name in dir(we) if not name.startswith("_")] == [
        "ConversionWarning", "DynamicNetwork", "EarlyExits", "Front", "Greedy", "GreedyLazy", "ImageSize",
        "Knapsack", "Knob", "Metric", "Mode", "NSGA2", "Reading", "Sharing", "Slimmable", "Space",
        "Static", "SwitchablePrecision", "TrainConfig", "UncalibratedWarning", "UniversallySlimmable",
        "WeightEnabling", "WeightEnablingWithPrecision", "calibrate", "convert", "evaluate", "explore",
        "export", "export_executorch", "extract", "join", "load", "save", "train", "train_incrementally",
    ]  # fmt: skip
    assert all(hasattr(we, name) for name in dir(we))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = we.nothing


def test_without_torch_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import wenable\n"
        "try: wenable.convert\n"
        "except ModuleNotFoundError as e: print(e)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'wenable[train]'" in shown.stdout


def test_nothing_is_pickled():
    for path in SOURCE.rglob("*.py"):
        assert not {"pickle", "marshal", "shelve", "joblib"} & imports_of(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                used = (node.value.id, node.attr)
                assert used != ("torch", "save")
                assert used != ("torch", "load") or path.parts[-2:] == ("zoo", "weights.py")
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert {"weights_only=True"} <= {ast.unparse(each) for each in node.keywords}
            if isinstance(node, ast.Name):
                assert node.id not in {"eval", "exec"}, f"{path.name} runs text"
