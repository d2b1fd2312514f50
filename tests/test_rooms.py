"""The shape of the house: who may import whom, what is public, and what stays free of torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import wenable as we

SOURCE = Path(we.__file__).parent

# Each room and what it may import of ours, beyond itself. `docs/architecture.md` tells the same.
ROOMS: dict[str, set[str]] = {
    "version": set(),
    "files": set(),
    "user_cache": set(),
    "journal": set(),
    "space": set(),
    "outcomes": set(),
    "mode_ids": {"space"},
    "tables": {"mode_ids", "outcomes", "space"},
    "accuracy_comparison": {"outcomes", "tables"},
    "cost_table": {"space", "tables"},
    "modules": {"measure"},
    "preprocessing": set(),
    "concurrency": set(),
    "example_inputs": set(),
    "processes": set(),
    "reasons": set(),
    "batch_parts": set(),
    "targets": {"batch_parts"},
    "stored_tensors": set(),
    "outputs": set(),
    "graph": {"modules", "outputs", "reasons"},
    "layers": {"space"},
    "methods": {"layers", "graph", "space"},
    "recounting": {"graph", "methods"},
    "dynamic_network": {
        "concurrency", "example_inputs", "graph", "layers", "methods", "modules", "preprocessing",
        "reasons", "recounting", "space",
    },
    "convertible": {"dynamic_network"},
    "mode_costs": {"cost_table", "dynamic_network", "space"},
    "conversion": {
        "convertible", "dynamic_network", "example_inputs", "graph", "layers", "methods", "modules",
        "outputs", "reasons", "recounting",
    },
    "calibration": {"batch_parts", "dynamic_network", "layers", "modules", "processes", "space"},
    "extraction": {"dynamic_network", "layers", "modules", "outputs", "space"},
    "evaluation": {
        "batch_parts", "dynamic_network", "modules", "outcomes", "processes", "space", "tables", "targets",
    },
    "training": {
        "batch_parts", "data", "dynamic_network", "files", "layers", "modules", "processes", "space",
        "targets", "user_cache",
    },
    "measure": {"tables"},
    "exploration": {"accuracy_comparison", "cost_table", "files", "journal", "space", "tables"},
    "search": {
        "affordable_search", "calibration", "cost_table", "dynamic_network", "evaluation", "exploration",
        "extraction", "measure", "mode_costs", "modules", "outcomes", "processes", "space", "tables",
    },
    "prefix_reuse": {"dynamic_network", "modules", "space"},
    "affordable_search": {
        "batch_parts", "calibration", "cost_table", "dynamic_network", "evaluation", "exploration",
        "journal", "layers", "modules", "outcomes", "prefix_reuse", "processes", "space", "tables",
    },
    "zoo": set(),
    "images": set(),
    "data": {"images", "preprocessing"},
    "saving": {
        "conversion", "dynamic_network", "example_inputs", "layers", "methods", "modules", "files",
        "outputs", "preprocessing", "space", "stored_tensors", "version", "zoo",
    },
    "sharing": {"dynamic_network", "files", "report", "saving", "space", "tables", "version"},
    "report": {"accuracy_comparison", "cost_table", "files", "space", "tables"},
    "runtime": {
        "cost_table", "files", "images", "measure", "mode_ids", "preprocessing", "space", "tables",
        "user_cache",
    },
    "profiling": {"cost_table", "files", "journal", "measure", "runtime", "space", "tables"},
    "comparison": {"measure", "runtime", "tables"},
    "escalation": set(),
    "early_exits": {"dynamic_network", "escalation", "layers", "modules"},
    "big_little": {"escalation", "graph", "measure", "modules", "tables"},
    "exporting": {
        "dynamic_network", "example_inputs", "extraction", "files", "graph", "layers", "mode_ids",
        "modules", "outputs", "reasons", "runtime", "space", "stored_tensors", "tables", "version",
    },
}  # fmt: skip
FREE_OF_TORCH = (
    "version", "files", "user_cache", "images", "journal", "space", "mode_ids", "outcomes",
    "tables", "accuracy_comparison", "cost_table", "preprocessing", "measure", "exploration", "reasons",
    "runtime", "stored_tensors", "profiling", "comparison", "report", "escalation",
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


def files_by_room() -> dict[str, list[Path]]:
    rooms: dict[str, list[Path]] = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).parts
        assert len(parts) <= 2, f"{path} lies more than one folder deep"
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
            ours = {room_of(m) for m in imports_of(path) if m.split(".")[0] == "wenable"}
            assert ours <= ROOMS[room] | {room}, f"{path.name} imports {ours - ROOMS[room]}"


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
    for path in files_by_room()[room]:
        assert "torch" not in {m.split(".")[0] for m in imports_of(path)}


def test_importing_the_package_loads_no_torch():
    code = (
        "import sys, wenable, wenable.space, wenable.tables, wenable.exploration, wenable.measure;"
        "import wenable.runtime;"
        "print(sorted(m for m in ('torch', 'matplotlib', 'scipy') if m in sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_verbs_stay_functions_whatever_was_imported_first():
    code = (
        "import wenable.exploration, wenable.search, wenable.training, wenable.conversion;"
        "import wenable as we;"
        "print(all(callable(getattr(we, n)) for n in"
        " 'convert train calibrate evaluate explore extract save load'.split()))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "True"


def test_the_public_names():
    """A name that leaves this list breaks somebody's program: it needs a deprecation first."""
    assert [name for name in dir(we) if not name.startswith("_")] == [
        "DynamicNetwork", "EarlyExits", "Front", "Knob", "Mode", "Reading", "Slimmable", "Space",
        "SwitchablePrecision", "TrainConfig", "UncalibratedWarning", "UniversallySlimmable",
        "WeightEnabling", "WeightEnablingWithPrecision", "calibrate", "convert", "evaluate", "explore",
        "export", "export_executorch", "extract", "load", "save", "train", "train_incrementally",
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
