"""What is printed is what was meant: no name loses its brackets, errors name the option typed."""

import ast
import io
import json
import math
from pathlib import Path

import pytest
from rich.table import Table
from typer.testing import CliRunner

import wenable.cli
from wenable.cli import doctor, main
from wenable.cli.main import app
from wenable.cli.option_names import as_typed, option_names
from wenable.cli.terminal import PlainConsole, busy, consoles, print_json, progress_bar

STRANGE = "run [red]1[/red] 'wenable[energy]' :smile: [/]"


def shown(console: PlainConsole) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def in_memory(terminal: bool = False) -> PlainConsole:
    console = consoles(as_json=False)[0]
    console.file = io.StringIO()
    console._force_terminal = console.is_interactive = terminal
    return console


def test_brackets_survive_everywhere_that_text_is_shown():
    console = in_memory()
    console.print(STRANGE)
    table = Table(title=STRANGE, caption=STRANGE)
    table.add_column(STRANGE)
    table.add_row(STRANGE)
    console.print(table, width=200)
    assert shown(console).count(STRANGE) == 5


def test_brackets_survive_in_progress_and_status(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TERM", "xterm")
    console = in_memory(terminal=True)
    with busy(console, STRANGE) as say:
        say(STRANGE + " 2")
    with progress_bar(console, STRANGE) as update:
        update(1, 2, STRANGE)
    text = shown(console)
    for words in ("[red]1[/red]", "wenable[energy]", ":smile:"):
        assert text.count(words) >= 3, words  # of the status, of the bar's title and its words


def test_json_has_null_for_what_it_cannot_write(capsys: pytest.CaptureFixture[str]):
    print_json({"a": [math.nan, 1.5], "b": (math.inf, {"c": -math.inf}), "d": "NaN", "e": True})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found == {"a": [None, 1.5], "b": [None, {"c": None}], "d": "NaN", "e": True}


def test_lines_are_not_broken_where_nobody_looks():
    console = in_memory()
    path = "/a/" + "folder with spaces/" * 20 + "net.wen"
    console.print(f"written: {path}")
    assert shown(console) == f"written: {path}\n"


def test_the_advice_of_doctor_keeps_its_extra(monkeypatch: pytest.MonkeyPatch):
    advice = "not installed: pip install 'wenable[energy]'"
    monkeypatch.setattr(doctor, "_package", lambda name, otherwise: (f"a[{name}]", False, advice))
    text = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["doctor"]).stdout
    assert advice in text
    assert "a[torch]" in text


def test_no_command_prints_by_another_way_or_writes_styles_into_text():
    """A console that reads styles would leave out what stands in brackets: names, extras, paths."""
    for path in Path(wenable.cli.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert "[/" not in node.value, f"{path.name}: a style in {node.value!r}"
            if path.name != "terminal.py" and isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ("Console", "Progress", "Text.from_markup"), path.name
                assert not name.endswith(".status"), f"{path.name}: use `busy`"


# --- errors in the user's words ---------------------------------------------------------------------


def test_every_parameter_of_a_command_has_the_name_it_is_typed_by():
    names = option_names(main.train)
    assert names["batch_size"] == "--batch-size"
    assert names["out"] == "--out"
    assert names["model"] == "MODEL"
    assert names["skip_bad"] == "--skip-bad"
    assert option_names(main.inspect)["size"] == "--input"
    assert option_names(main.explore)["network"] == "NETWORK"
    assert option_names(main.profile)["energy"] == "--energy"


@pytest.mark.parametrize(
    ("message", "values", "expected"),
    [
        (
            "`constraints[1]` (=at most 3) cannot be kept",
            {},
            "`--constraint` (=at most 3) cannot be kept",
        ),
        ("`size` (=7) must be", {"batch_size": 7}, "`--batch-size` (=7) must be"),
        ("`size` (=7) must be", {"batch_size": 7, "epochs": 7}, "`--batch-size` (=7) must be"),
        ("`size` (=9) must be", {"batch_size": 7, "epochs": 9}, "`--epochs` (=9) must be"),
        ("`most` (=7) must be", {"batch_size": 7, "epochs": 7}, "`most` (=7) must be"),
        ("`path` (=a b) is a folder", {"out": Path("a b")}, "`--out` (=a b) is a folder"),
        ("`path` (=x) is not", {"network": Path("x")}, "`NETWORK` (=x) is not"),
        (
            "`min_accuracy` (=2.0) and `constraints`",
            {},
            "`--min-accuracy` (=2.0) and `--constraint`",
        ),
        ("`unknown` (=2) of `classifier=True`", {}, "`unknown` (=2) of `classifier=True`"),
        ("`table` is in J", {}, "`--profile` is in J"),
        ("`mode` (='') holds ''", {"out": "", "modes": ";"}, "`--modes` (='') holds ''"),
    ],
)
def test_messages_name_what_was_typed(message: str, values: dict, expected: str):
    names = {
        "constraint": "--constraint", "batch_size": "--batch-size", "out": "--out", "network": "NETWORK",
        "min_accuracy": "--min-accuracy", "profile": "--profile", "epochs": "--epochs",
        "modes": "--modes",
    }  # fmt: skip
    assert as_typed(message, names, values) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "a [b].net", "--out", "x.wen"], "`NETWORK` (=a [b].net) does not exist"),
        (["run", "no.wen", "x.npy"], "`BUNDLE` (=no.wen) does not exist"),
        (
            ["train", "resnet18", "--data", "digits", "--out", "o", "--passes", "1"],
            "`--passes` (=1)",
        ),
        (
            ["train", "resnet18", "--data", "digits", "--out", "o", "--recipe", "x"],
            "`--recipe` (='x')",
        ),
        (
            ["train", "resnet18", "--data", "digits", "--out", "o", "--learning-rate", "-1"],
            "`--learning-rate` (=-1.0)",
        ),
        (["inspect", "--model", "a.b:c"], "`--model` (='a.b:c') cannot be imported"),
        (["inspect", "a.b:c"], "`MODEL` (='a.b:c') cannot be imported"),
        (["inspect", "resnet18", "--groups", "1,3,4"], "`--groups` (=(1, 3, 4))"),
    ],
)
def test_errors_of_commands_name_what_was_typed(arguments: list[str], message: str):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert f"error: {message}" in result.stderr
