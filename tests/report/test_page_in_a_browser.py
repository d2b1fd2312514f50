"""The page of a report in a real browser: it draws, chooses and refuses as Python does."""

import base64
import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.fronts import (
    HOSTILE,
    evaluated,
    front,
    hostile_front,
    space,
    verification,
)
from wenable.core.readings import Front, Point, Reading
from wenable.report.page import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


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
