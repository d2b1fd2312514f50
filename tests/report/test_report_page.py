"""The page of a report: nothing in the data becomes code, and what it shows is what Python computes."""

import base64
import csv
import dataclasses
import hashlib
import io
import json
import math
import os
import random
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from wenable.cli.report import run_report
from wenable.core.outcomes import Outcomes
from wenable.core.readings import Front, Point, Reading
from wenable.core.space import Knob, Space
from wenable.report.csv_table import csv_table
from wenable.report.markdown_table import markdown_table
from wenable.report.page import write_report

HOSTILE = "</script><script>alert(1)</script><!--\u2028&\"'"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def space(knobs: int = 6, name: str = "layer{}") -> Space:
    return Space(tuple(Knob(name.format(i), (1, 2, 4, 8, 16)) for i in range(knobs)))


def front(of: Space, unit: str = "ms", p99: bool = True, source: str = "wall clock") -> Front:
    """A front of five points: at 1/n the accuracy is 0.95 - n/100, the cost 8/n + 1, p99 1.5x."""
    points = []
    for n in (1, 2, 4, 8, 16):
        accuracy = 0.95 - n / 100
        cost = 8 / n + 1
        points.append(
            Point(
                of.uniform(n),
                Reading(accuracy, "top-1", accuracy - 0.004, accuracy + 0.004, "95 % Wilson", 900),
                Reading(
                    cost, unit, cost * 0.98, cost * 1.03, "quartiles", 120,
                    p99=1.5 * cost if p99 else None, source=source, device="a machine",
                ),
            )
        )  # fmt: skip
    rng = random.Random(3)
    others = [
        Point(of.sample(rng), Reading(0.5 + 0.3 * rng.random(), "top-1"), Reading(4.0, unit))
        for _ in range(20)
    ]
    return Front(
        tuple(points), points[2], (points[0],), 25, 0.5, "latency", "greedy", (*points, *others)
    )


def evaluated(front: Front, of: int = 200) -> Front:
    """The same front with outcomes on both splits: on the test split each mode is 10 points worse.

    The mode at position i of the front is right on all but the first 10 + 3 i images of the search
    split, and on all but the first 30 + 3 i of the test split.
    """

    def outcomes(wrong: int, split: str) -> Outcomes:
        return Outcomes.of([i >= wrong for i in range(of)], split)

    places = {mode: i for i, mode in enumerate(front.modes)}
    found = {mode: outcomes(30 + 3 * i, "test") for mode, i in places.items()}
    tests = {
        mode: Reading(
            each.right / of, "top-1", each.right / of - 0.05, each.right / of + 0.05, "95 % Wilson", of,
            source="evaluated on the test split",
        )
        for mode, each in found.items()
    }  # fmt: skip
    searched = {mode: outcomes(10 + 3 * i, "search") for mode, i in places.items()}
    return front.with_outcomes(searched).with_tests(tests, found)


def verification(mode: str = "1/2") -> dict[str, Any]:
    measured = Reading(4.8, "ms", 4.7, 4.9, "quartiles", 120)
    missing = Reading(None, "ms", reason="the engine refused it")
    return {
        "format": "wenable-verification",
        "version": 1,
        "unit": "ms",
        "engine": "an engine",
        "device": "a machine",
        "modes": [
            {"mode": mode, "predicted": 5.0, "measured": dataclasses.asdict(measured)},
            {"mode": "1/4", "predicted": 3.1, "measured": dataclasses.asdict(missing)},
        ],
        "median_error": 0.042,
        "kendall_tau": 0.91,
    }


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


def hostile_front() -> Front:
    odd = front(space(2, HOSTILE + "{}"), source=HOSTILE)
    point = odd.points[0]
    noted = Point(
        point.mode,
        dataclasses.replace(point.accuracy, note=HOSTILE, device=HOSTILE, interval=HOSTILE),
        dataclasses.replace(point.cost, note=HOSTILE),
    )
    return dataclasses.replace(odd, points=(noted, *odd.points[1:]))


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


def test_neighbours_are_compared_by_mcnemar_in_the_browser(tmp_path: Path):
    # Each mode is wrong on 3 images more than the one before: 3 coins, p = 2 (1/8 / 2) = 0.125.
    page = write_report(tmp_path / "report.html", {"a": evaluated(front(space()))})
    steps = """
      const text = () => document.getElementById("table").textContent;
      const axis = () => [...document.querySelectorAll("#chart text.label")].map((t) => t.textContent);
      seen.axis = axis();
      seen.remark = document.querySelector("#table tbody tr td:last-child").textContent;
      seen.same = document.querySelector(".same").textContent;
      seen.before = text().includes("chosen on it");
      document.getElementById("with-search").click();
      seen.after = [text().includes("search split, chosen on it"), text().includes("79.0")];
      document.getElementById("with-explored").click();
      seen.explored = text().includes("evaluated on the search split only");
      seen.note = document.getElementById("chart-note").textContent;
      seen.behind = document.querySelectorAll("#chart .explored circle").length;
    """
    seen = drive(page, steps)
    assert seen["errors"] == []
    assert "top-1 accuracy, test split (%)" in seen["axis"]
    how = "McNemar on the test split, p = 0.125"
    assert seen["remark"] == f"accuracy cannot be told apart from the next costlier mode ({how})"
    assert how in seen["same"]
    assert (seen["before"], seen["after"], seen["explored"]) == (False, [True, True], True)
    assert "their accuracy is that on the search split" in seen["note"]
    assert seen["behind"] == 20


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


def write_front(path: Path, values: Front) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values.to_json()))
    return path


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


# In a browser. The page is driven through its address, and by a script of the test's own that is
# put into a copy of the page; what it did and saw is read from the document afterwards.


def browser() -> str:
    for name in BROWSERS:
        found = shutil.which(name)
        if found:
            return found
    missing = f"none of {', '.join(BROWSERS)} is installed"
    if os.environ.get("WENABLE_TESTS_NEED_A_BROWSER"):
        pytest.fail(missing)  # where it was promised, a skipped test would be a false report
    pytest.skip(missing)


WATCH = """
const seen = { errors: [] };
addEventListener("error", (event) => seen.errors.push(String(event.message)));
addEventListener("securitypolicyviolation", (event) => seen.errors.push("policy: " + event.blockedURI));
console.error = console.warn = (...words) => seen.errors.push(words.join(" "));
"""
REPORT = """
addEventListener("load", () => {
  try { drive(seen); } catch (error) { seen.errors.push(String(error)); }
  const out = document.createElement("pre");
  out.id = "seen";
  out.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(seen))));
  document.body.append(out);
});
"""


def drive(page: Path, steps: str, address: str = "") -> dict[str, Any]:
    """Open a copy of the page with our script in it; return what the script noted in `seen`."""
    script = f"{WATCH}function drive(seen) {{ {steps} }}{REPORT}"
    text = page.read_text("utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    hashed = f"sha256-{base64.b64encode(digest).decode()}"
    text = text.replace("script-src ", f"script-src '{hashed}' ", 1)
    text = text.replace('<script id="data"', f'<script>{script}</script><script id="data"', 1)
    copy = page.with_name("driven.html")
    copy.write_text(text, "utf-8")
    command = [
        browser(), "--headless", "--disable-gpu", "--no-first-run", "--window-size=1200,900",
        "--disable-dev-shm-usage", f"--user-data-dir={page.parent / 'profile'}",
        "--virtual-time-budget=3000", "--dump-dom",
    ]  # fmt: skip
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--no-sandbox")  # a browser refuses its sandbox to root
    done = subprocess.run(
        [*command, f"{copy.as_uri()}{address}"], capture_output=True, text=True, timeout=240
    )
    found = re.search(r'<pre id="seen">([^<]*)</pre>', done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(base64.b64decode(found[1]))


def expected_mode(of: Front, budget: float, p99: bool) -> str | None:
    """What runs at a budget, straight from the definition."""
    fits = []
    for point in of.points:
        tail = point.cost.p99
        cost = tail if p99 and tail is not None else point.cost.known
        if cost <= budget:
            fits.append((point.accuracy.known, -cost, str(point.mode)))
    return max(fits)[2] if fits else None


def test_it_draws_every_point_and_the_slider_chooses_what_python_chooses(tmp_path: Path):
    fronts = {"a": front(space()), "b <i>": front(space(9), p99=False)}
    page = write_report(tmp_path / "report.html", fronts, predictions=[verification()])
    budgets = [1.2, 1.6, 2.4, 3.0, 4.6, 5.5, 9.5, 13.6]
    steps = f"""
      const count = (query) => document.querySelectorAll(query).length;
      seen.points = count("#chart .point");
      seen.explored = count("#chart .explored circle");
      seen.whiskers = count("#chart .whisker");
      seen.scatter = count("#scatter .point");
      seen.scatterText = document.getElementById("scatter").textContent;
      seen.rows = count("#table tbody tr");
      seen.strips = count("#strips .matrix li .cell");
      seen.runs = [];
      const slider = document.getElementById("slider");
      const box = document.getElementById("budget");
      for (const at of ["value", "p99"]) {{
        document.querySelector(`input[name=at][value=${{at}}]`).click();
        for (const budget of {json.dumps(budgets)}) {{
          box.value = budget;
          box.dispatchEvent(new Event("input"));
          const modes = [...document.querySelectorAll(".run")]
            .map((run) => run.querySelector(".running code")?.textContent ?? run.textContent);
          seen.runs.push({{ at, budget, modes, marked: count("#chart .point.runs") }});
        }}
      }}
      document.querySelector("input[name=at][value=value]").click();
      slider.value = slider.min; slider.dispatchEvent(new Event("input"));
      seen.least = [document.querySelector(".run").textContent, Number(slider.value)];
      slider.value = slider.max; slider.dispatchEvent(new Event("input"));
      seen.most = document.querySelector(".run code").textContent;
      seen.address = location.hash;
    """
    seen = drive(page, steps)
    assert seen["errors"] == []
    assert (seen["points"], seen["whiskers"], seen["rows"]) == (10, 10, 10)
    assert seen["explored"] == sum(
        len({p.mode for p in f.explored} - set(f.modes)) for f in fronts.values()
    )
    assert seen["strips"] == 5 * 6 + 5 * 9
    assert seen["scatter"] == 1
    assert "the engine refused it" in seen["scatterText"]
    assert "4.2 %" in seen["scatterText"]
    assert "0.91" in seen["scatterText"]
    assert len(seen["runs"]) == 2 * len(budgets)
    for run in seen["runs"]:
        for (name, of), shown in zip(fronts.items(), run["modes"], strict=True):
            mode = expected_mode(of, run["budget"], run["at"] == "p99")
            if mode is None:
                assert "No mode fits" in shown, (name, run)
                assert "The cheapest is 1/16" in shown
            else:
                assert shown == mode, (name, run)
        wanted = [expected_mode(of, run["budget"], run["at"] == "p99") for of in fronts.values()]
        assert run["marked"] == len([mode for mode in wanted if mode])
    least, budget = seen["least"]
    assert budget < 1.5
    assert "No mode fits" in least
    assert seen["most"] == "1"
    assert seen["address"].startswith("#deadline=")


def test_the_address_and_the_keyboard_work(tmp_path: Path):
    fronts = {"a": front(space()), "b": front(space(9), source="modelled")}
    page = write_report(tmp_path / "report.html", fronts)
    steps = """
      const key = (element, name) =>
        element.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
      const runs = () => document.querySelector(".run .running code").textContent;
      const points = () => [...document.querySelectorAll("#chart .point")];
      const theme = document.documentElement.dataset.theme;
      seen.first = [runs(), document.querySelectorAll(".run").length, theme];
      seen.percentile = document.querySelector("input[name=at]:checked").value;
      seen.budget = document.getElementById("budget").value;
      seen.stops = points().filter((point) => point.tabIndex === 0).length;
      points()[0].focus();
      seen.tip = document.getElementById("tip").textContent;
      key(document.activeElement, "ArrowRight");
      key(document.activeElement, "ArrowRight");
      seen.focused = document.activeElement.getAttribute("aria-label");
      key(document.activeElement, "Enter");
      seen.entered = runs();
      seen.stillFocused = document.activeElement.dataset.mode;
      key(document, "Escape");
      seen.tipHidden = document.getElementById("tip").hidden;
      const heads = [...document.querySelectorAll("#table thead button")];
      heads.find((head) => head.textContent === "mode").click();
      seen.sorted = document.querySelector("#table th[aria-sort=ascending]").textContent;
      seen.order = [...document.querySelectorAll("#table tbody code")].map((code) => code.textContent);
      document.querySelectorAll("#legend input")[1].click();
      seen.toggled = document.querySelectorAll(".run").length;
      seen.modelled = document.querySelector("#table tbody").textContent.includes("modelled");
      seen.unnamed = [...document.querySelectorAll("button, input")].filter((control) =>
        !control.textContent && !control.getAttribute("aria-label") && !control.labels?.length).length;
      seen.wide = document.documentElement.scrollWidth > innerWidth;
    """
    seen = drive(page, steps, "#deadline=4.6&at=p99&hide=0&theme=dark")
    assert seen["errors"] == []
    assert seen["first"] == ["1/4", 1, "dark"]
    assert (seen["percentile"], seen["budget"], seen["stops"]) == ("p99", "4.6", 1)
    assert "m05 · mode 1/16" in seen["tip"]
    assert "modelled" in seen["tip"]
    assert "120 samples" in seen["tip"]
    assert "mode 1/4" in seen["focused"]
    assert (seen["entered"], seen["stillFocused"], seen["tipHidden"]) == ("1/4", "1/4", True)
    assert (seen["sorted"], seen["order"][0], len(seen["order"])) == ("mode", "1", 5)
    assert seen["toggled"] == 0
    assert seen["modelled"] is False
    assert seen["unnamed"] == 0
    assert seen["wide"] is False


def test_hostile_names_run_nothing_in_a_browser(tmp_path: Path):
    page = write_report(
        tmp_path / "report.html",
        {HOSTILE: hostile_front()},
        title=HOSTILE,
        predictions=[verification(HOSTILE)],
    )
    steps = """
      document.getElementById("with-explored").click();
      document.querySelector("#chart .point").focus();
      seen.heading = document.querySelector("h1").textContent;
      seen.scripts = document.scripts.length;
      seen.legend = document.getElementById("legend").textContent.includes("alert(1)");
    """
    seen = drive(page, steps)
    assert seen["errors"] == []
    assert (seen["heading"], seen["scripts"], seen["legend"]) == (HOSTILE, 3, True)


def test_without_any_cost_the_reason_is_shown(tmp_path: Path):
    nothing = Reading(None, "mJ", reason="no energy meter can be read")
    whole = front(space())
    points = tuple(Point(point.mode, point.accuracy, nothing) for point in whole.points)
    energy = dataclasses.replace(
        whole, points=points, chosen=points[2], path=(), explored=(), cost="energy"
    )
    page = write_report(tmp_path / "report.html", {"a": energy})
    steps = """
      seen.table = document.getElementById("table").textContent;
      seen.run = document.getElementById("runs").textContent;
      seen.points = document.querySelectorAll("#chart .point").length;
    """
    seen = drive(page, steps)
    assert seen["errors"] == []
    assert seen["points"] == 0
    assert seen["table"].count("no energy meter can be read") == 5
    assert "no energy meter can be read" in seen["run"]
