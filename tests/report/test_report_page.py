"""The page of a report: nothing in the data becomes code, and what it shows is what Python computes."""

import csv
import dataclasses
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.helpers.fronts import (
    HOSTILE,
    evaluated,
    front,
    hostile_front,
    space,
    verification,
    write_front,
)
from wenable.cli.report import run_report
from wenable.core.readings import Point, Reading
from wenable.report.csv_table import csv_table
from wenable.report.markdown_table import markdown_table
from wenable.report.page import write_report


class Page(HTMLParser):
    """What an HTML parser finds: the tags with their attributes, and the text in each script."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.scripts:
            self.scripts[-1] += data


def test_hostile_names_stay_text(tmp_path: Path):
    path = write_report(
        tmp_path / "report.html",
        {HOSTILE: hostile_front()},
        title=HOSTILE,
        predictions=[verification(HOSTILE)],
    )
    text = path.read_text("utf-8")
    page = Page(text)
    assert len(page.scripts) == 2, "one block of data and one script, whatever the names are"
    data = json.loads(page.scripts[0])
    assert data["title"] == data["series"][0]["name"] == HOSTILE
    assert not set("<>&\u2028") & set(page.scripts[0].strip())
    assert "<script>alert" not in text
    assert "{{" not in text.split('<script id="data"')[0]


def test_a_marker_in_the_data_is_not_filled(tmp_path: Path):
    path = write_report(tmp_path / "report.html", {"{{script}}": front(space())})
    assert json.loads(Page(path.read_text()).scripts[0])["series"][0]["name"] == "{{script}}"


def test_the_page_refers_to_nothing_outside_and_says_so_to_the_browser(tmp_path: Path):
    text = write_report(tmp_path / "report.html", {"a": front(space())}).read_text()
    assert set(re.findall(r"(?:https?:)?//[\w.]+\.\w+[\w/]*", text)) == {
        "http://www.w3.org/2000/svg"
    }
    for tag, attributes in Page(text).tags:
        assert "src" not in attributes, tag
        assert not any(name.startswith("on") for name in attributes), tag
        assert (attributes.get("href") or "#")[:1] == "#" or attributes["href"] == "data:,"
    policy = next(a["content"] for t, a in Page(text).tags if a.get("http-equiv"))
    assert policy
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert forbidden not in text


def test_networks_may_differ_and_units_may_not(tmp_path: Path):
    path = write_report(tmp_path / "r.html", {"a": front(space(3)), "b": front(space(9))})
    data = json.loads(Page(path.read_text()).scripts[0])
    assert [len(series["knobs"]) for series in data["series"]] == [3, 9]
    with pytest.raises(ValueError, match="mixes units of cost: 'a' in ms, 'b' in mJ; allowed: one"):
        write_report(tmp_path / "no.html", {"a": front(space()), "b": front(space(), "mJ")})
    with pytest.raises(ValueError, match="`series` is empty"):
        write_report(tmp_path / "no.html", {})
    assert not (tmp_path / "no.html").exists()


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path):
    path = tmp_path / "report.html"
    path.write_text("old")
    broken = verification() | {"median_error": math.nan}
    with pytest.raises(ValueError, match="a finite number has to stand"):
        write_report(path, {"a": front(space())}, predictions=[broken])
    with pytest.raises(ValueError, match="not the JSON form of a verification"):
        write_report(path, {"a": front(space())}, predictions=[{"format": "other"}])
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_the_markdown_table_has_units_intervals_and_sources():
    table = markdown_table({"laptop": front(space(), source="modelled from | a table")})
    lines = table.splitlines()
    assert lines[0] == (
        "| id | mode | top-1 accuracy, search split, chosen on it (%) | latency (ms) | samples | remark |"
    )
    assert (
        lines[2]
        == "| m05 | `1/16` | 79.0 (78.6 to 79.4) | 1.50 (1.47 to 1.54) modelled | 900 / 120 |  |"
    )
    assert (
        "| m03 | `1/4` | 91.0 (90.6 to 91.4) | 3.00 (2.94 to 3.09) modelled | 900 / 120 | chosen |"
        in lines
    )
    assert "- laptop, cost: quartiles; modelled from \\| a table; a machine" in lines
    assert "- laptop, accuracy: 95 % Wilson" in lines


def test_hostile_texts_stay_in_their_cell_of_the_table():
    table = markdown_table({HOSTILE: hostile_front(), "b|\n| c": front(space())})
    assert "<script" not in table
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {8}
    assert len(rows) == 2 + 5 + 5


def test_the_accuracies_shown_are_those_of_the_test_split(tmp_path: Path):
    # The search split's figure of the first mode is 94 %, its test split's 170 of 200 images.
    tested = evaluated(front(space()))
    table = markdown_table({"a": tested}).splitlines()
    assert table[0].split(" | ")[2] == "top-1 accuracy, test split (%)"
    assert table[6] == ("| m01 | `1` | 85.0 (80.0 to 90.0) | 9.00 (8.82 to 9.27) | 200 / 120 |  |")
    assert "94.0" not in "\n".join(table)
    assert "- a, accuracy: 95 % Wilson; evaluated on the test split" in table
    both = markdown_table({"a": tested}, search_split=True).splitlines()
    assert both[0].split(" | ")[2:4] == [
        "top-1 accuracy, test split (%)", "top-1 accuracy, search split, chosen on it (%)"
    ]  # fmt: skip
    assert both[6].split(" | ")[2:4] == ["85.0 (80.0 to 90.0)", "94.0 (93.6 to 94.4)"]
    data = json.loads(Page(write_report(tmp_path / "r.html", {"a": tested}).read_text()).scripts[0])
    assert data["accuracy"]["name"] == "top-1 accuracy, test split"
    point = data["series"][0]["points"][-1]
    assert (point["id"], point["accuracy"]["value"], point["search"]["value"]) == (
        "m01",
        0.85,
        0.94,
    )
    hidden = data["series"][0]["explored"][0]
    assert hidden["accuracy"]["reason"] == "evaluated on the search split only"
    assert hidden["search"]["value"] > 0.5


def test_series_on_different_splits_say_so_in_their_names():
    mixed = {"a": evaluated(front(space())), "old": front(space())}
    table = markdown_table(mixed)
    assert table.splitlines()[0].split(" | ")[3] == "top-1 accuracy (%)"
    assert "| a (test split) | m01 | `1` | 85.0" in table
    assert "| old (search split, chosen on it) | m01 | `1` | 94.0" in table


def test_a_front_that_was_tested_in_part_shows_the_search_split():
    whole = evaluated(front(space()))
    tests = {point.mode: point.test for point in whole.points[1:] if point.test}
    table = markdown_table({"a": front(space()).with_tests(tests)})
    assert "search split, chosen on it" in table.splitlines()[0]
    assert "| `1` | 94.0" in table


def test_csv_has_one_number_a_cell_units_in_headers_and_no_zero_for_what_is_missing():
    tested = evaluated(front(space()))
    rows = list(
        csv.DictReader(io.StringIO(csv_table({"=a": tested, "b": front(space(), p99=False)})))
    )
    first, untested = rows[0], rows[-1]
    assert len(rows) == 10
    assert [first[key] for key in ("series", "id", "mode", "on_front", "chosen")] == [
        "'=a", "m05", "1/16", "True", "False"
    ]  # fmt: skip
    assert float(first["accuracy_test_percent"]) == 100 * (200 - 42) / 200
    assert float(first["accuracy_search_percent"]) == 79.0
    assert (first["accuracy_test_images"], first["latency_samples"]) == ("200", "120")
    assert float(first["latency_ms"]) == 1.5
    assert float(first["latency_p99_ms"]) == 2.25
    assert "accuracy_test_p99_percent" not in first
    assert (untested["accuracy_test_percent"], untested["latency_p99_ms"]) == ("", "")
    assert untested["accuracy_test_reason"] == "not evaluated on the test split"


def test_what_was_not_measured_has_its_reason_and_never_a_zero(tmp_path: Path):
    nothing = Reading(None, "mJ", reason="no energy meter can be read")
    whole = front(space())
    points = tuple(Point(point.mode, point.accuracy, nothing) for point in whole.points)
    energy = dataclasses.replace(
        whole, points=points, chosen=points[2], path=(), explored=(), cost="energy"
    )
    table = markdown_table({"a": energy})
    assert table.count("not measured: no energy meter can be read") == 5
    data = json.loads(Page(write_report(tmp_path / "r.html", {"a": energy}).read_text()).scripts[0])
    assert {point["cost"]["value"] for point in data["series"][0]["points"]} == {None}


def test_the_command_writes_each_format_it_is_asked_for(tmp_path: Path):
    a = write_front(tmp_path / "a" / "front.json", front(space()))
    b = write_front(tmp_path / "b" / "front.json", front(space(4)))
    check = tmp_path / "check.json"
    check.write_text(json.dumps(verification()))
    out = tmp_path / "out" / "report.html"
    written = run_report([a, b], check, out, ("html", "svg", "png", "md"))
    assert {path.name for path in written} == {
        "report.html", "front.md", "front-a-front.svg", "front-b-front.svg",
        "front-a-front.png", "front-b-front.png", "fronts.svg", "fronts.png",
    }  # fmt: skip
    data = json.loads(Page(out.read_text()).scripts[0])
    assert [series["name"] for series in data["series"]] == ["a/front", "b/front"]
    assert run_report([Path(f"laptop={a}")], None, out, ("svg",))[0].name == "front.svg"


def test_a_picture_of_modelled_costs_says_so(tmp_path: Path):
    a = write_front(tmp_path / "a.json", front(space(), source="modelled from a table"))
    (picture,) = run_report([a], None, tmp_path / "report.html", ("svg",))
    assert "a (cost modelled)" in picture.read_text()


def test_the_command_refuses_before_it_writes(tmp_path: Path):
    a = write_front(tmp_path / "a.json", front(space()))
    energy = dataclasses.replace(front(space(), "mJ"), cost="energy")
    b = write_front(tmp_path / "b.json", energy)
    (tmp_path / "no.json").write_text("{}")
    out = tmp_path / "out" / "report.html"
    run = tmp_path / "run.json"
    for change, words in (
        ({"requests": []}, "holds no request"),
        ({"requests": None}, "holds None where a list of its requests"),
        ({"requests": [[0.0, 1.0, 1.0, 0.5]]}, "names none of its 1 modes"),
        ({"requests": [7]}, "holds 7 where 4 finite numbers"),
        ({"load": [[1.0]]}, r"holds \[1.0\] where 2 finite numbers"),
        ({"modes": 3}, "holds 3 where a list of its modes"),
    ):
        told = {"modes": ["1"], "requests": [[0, 1, 1, 0]], "load": [], "title": "a"} | change
        kind = {"format": "wenable-deadline-run", "version": 1}
        run.write_text(json.dumps(kind | told))
        with pytest.raises(ValueError, match=words):
            run_report([a], None, out, ("html",), deadline_run=run)
    for fronts, formats, words in (
        ([], ("html",), "`fronts` is empty"),
        ([a], ("pdf",), "names pdf; allowed: html, svg, png, md, csv"),
        ([a, b], ("html",), "mixes units of cost"),
        ([a, a], ("html",), "two series of the name"),
        ([tmp_path / "no.json"], ("html",), "no.json is no file of a front"),
        ([b], ("html", "svg"), "allowed: macs in MACs, latency in ms"),
    ):
        with pytest.raises(ValueError, match=words):
            run_report(fronts, None, out, formats)
    assert not out.parent.exists()


def test_no_file_is_written_over_another_or_one_that_is_read(tmp_path: Path):
    a = write_front(tmp_path / "front.json", front(space()))
    before = a.read_text()
    folder = tmp_path / "out"
    for out, formats, words in (
        (folder / "front.md", ("html", "md"), "front.md would be written over another file"),
        (folder / "front.svg", ("svg", "html"), "front.svg would be written over another file"),
        (a, ("html",), "front.json would be written over a file that is read"),
        (tmp_path / "out" / ".." / "front.json", ("html",), "over a file that is read"),
    ):
        with pytest.raises(ValueError, match=words):
            run_report([Path(f"laptop={a}")], None, out, formats)
    assert not folder.exists()
    assert a.read_text() == before
    run_report([a], None, folder / "front.md", ("html",))
    assert (folder / "front.md").read_text().startswith("<!doctype")


@pytest.mark.parametrize("name", ["$\\frac$", "cost_$5_to_$6", "_base"])
def test_a_name_stands_in_every_picture_as_it_is(tmp_path: Path, name: str):
    """No formula, though it has two dollar signs; in the legend, though it begins with an underscore."""
    a, b = (write_front(tmp_path / f"{each}.json", front(space())) for each in "ab")
    fronts = [Path(f"{name}={a}"), Path(f"other={b}")]
    run_report(fronts, None, tmp_path / "report.html", ("svg",), title=name)
    words = re.findall(r"<!-- (.*?) -->", (tmp_path / "fronts.svg").read_text())
    assert words.count(name) == 2  # the title and the legend
    assert words.count("other") == 1
    (alone,) = run_report([fronts[0]], None, tmp_path / "report.html", ("svg",))
    assert name in re.findall(r"<!-- (.*?) -->", alone.read_text())


def test_fronts_without_points_are_reported(tmp_path: Path):
    some = front(space())
    none = dataclasses.replace(some, points=())
    a, b = write_front(tmp_path / "a.json", none), write_front(tmp_path / "b.json", some)
    rows = []
    for fronts in ([a, b], [b, a]):  # the order changes the columns alone
        run_report(fronts, None, tmp_path / "report.html", ("md",))
        table = (tmp_path / "front.md").read_text().split("\n\n")[0]
        rows.append([[each.strip() for each in row.split("|")] for row in table.splitlines()])
    assert rows[0][0][2:4] == ["a", "b"]
    assert rows[0] == [[*row[:2], row[3], row[2], *row[4:]] for row in rows[1]]
    run_report([a, write_front(tmp_path / "c.json", none)], None, tmp_path / "report.html", ("md",))
