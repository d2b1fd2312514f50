"""The comparison with other methods at its smallest scale, with one seed: Table I, Figures 5 to 7."""

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import wenable as we
from experiments import fig5, fig6, fig7, reproduction, runs, table1, table2, train
from experiments.budget import SAME_EPOCHS, SAME_PASSES, SCALES
from experiments.comparisons import COMPARISONS, parts_of
from experiments.data import load
from experiments.methods import METHODS
from experiments.networks import NETWORKS
from experiments.parts import kept
from experiments.runs import Run, trained
from results.records import read_records, write_records
from wenable.measure.latency import TimingPlan
from wenable.runtime.engines import installed_engines

NAMES = [each.name for each in COMPARISONS]
QUICK = TimingPlan(blocks=2, calls=2, warmup=1, gap_ms=0.0)


@pytest.fixture(scope="module", autouse=True)
def _one_seed():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALES, "smoke", replace(SCALES["smoke"], seeds=(0,)))
        yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images that can be told apart, though not always."""
    root = tmp_path_factory.mktemp("comparison")
    rng = np.random.default_rng(0)
    for part, count in {"train": 60, "test": 25}.items():
        for name, mean in (("cat", 105), ("dog", 150)):
            folder = root / "images" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                level = rng.normal(mean, 35)
                pixels = rng.normal(level, 20, (32, 32, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return root


@pytest.fixture(scope="module")
def five(place):
    """Figure 5 at the smallest scale."""
    return fig5.run("smoke", place / "images", place / "work", place / "reproduction")


def test_fig5(five, place, monkeypatch):
    assert read_records(place / "reproduction" / "fig5-smoke.jsonl") == five
    kinds = [(row["comparison"], row["seed"]) for row in five["rows"]]
    assert kinds == [(name, 0) for name in NAMES]
    epochs = [row["ours"]["budget"]["epochs"] for row in five["rows"]]
    assert epochs == [1, *[SCALES["smoke"].longer] * 3]
    for row in five["rows"]:
        assert row["ours"]["budget"] == row["rival"]["budget"]
        assert row["ours"]["distillation"] == row["rival"]["distillation"]
        assert row["rival"]["points"][0]["macs"] == max(p["macs"] for p in row["rival"]["points"])
        for strategy, front in row["ours"]["fronts"].items():
            _check_counts(row, strategy, front)
    # What was finished is not computed again.
    monkeypatch.setattr("wenable.training.loop.train_step", None)
    monkeypatch.setattr("wenable.explore", None)
    again = fig5.run("smoke", place / "images", place / "work", place / "again")
    assert again["rows"] == five["rows"]


def test_parts_of_fig5_join_those_that_are_there(five, place, tmp_path):
    def part(comparison):
        where = place / "images", place / "work", tmp_path
        return fig5.run("smoke", *where, comparisons=[comparison])["rows"]

    last, first = five["rows"][3], five["rows"][0]
    assert part(NAMES[3]) == [last]
    assert part("equal footing") == [first, last]
    assert part(NAMES[3]) == [first, last]
    path = tmp_path / "fig5-smoke.jsonl"
    there = read_records(path)
    write_records(path, there | {"rules": {"threshold": "another"}})
    with pytest.raises(ValueError, match="made by other rules"):
        part("more passes")
    moved = json.loads(json.dumps(there))
    moved["rows"][0]["seed"] = 7
    write_records(path, moved)
    with pytest.raises(ValueError, match=r"'equal footing', 7\), which the scale 'smoke' does not"):
        part("more passes")
    longer = json.loads(json.dumps(there))
    longer["rows"][0]["rival"]["budget"]["epochs"] = 9
    write_records(path, longer)
    with pytest.raises(ValueError, match="had other budgets"):
        part(NAMES[3])


def test_a_part_that_a_scale_does_not_have_is_refused(place, tmp_path):
    with pytest.raises(ValueError, match=r"'smoke' has none of these parts; it has \('tiny"):
        fig5.run("smoke", place / "images", tmp_path, tmp_path, seeds=[3])


def test_a_scale_that_trains_no_longer_has_no_comparison_for_it():
    kinds = {(network, comparison) for network, comparison, _ in parts_of("imagenet")}
    assert {comparison for _, comparison in kinds} == {NAMES[0], *NAMES[2:]}
    few = {comparison for network, comparison, _ in parts_of("cpu", ["mobilenet-v2-0.35"])}
    assert few == {"equal footing"}


def test_both_sides_of_a_comparison_are_trained_ahead(five, place, monkeypatch):
    """The files that `experiments.train` makes are those that the figure looks for."""
    monkeypatch.setattr("wenable.training.loop.train_step", None)
    argv = ["train", "--scale", "smoke", "--data", str(place / "images")]
    argv += ["--work", str(place / "work"), "--comparison", NAMES[3]]
    monkeypatch.setattr("sys.argv", argv)
    train.main()
    monkeypatch.setattr("sys.argv", [*argv, "--methods", "slimmable"])
    with pytest.raises(ValueError, match="'slimmable', which is no side of 'more passes, "):
        train.main()


def _check_counts(row, strategy, front):
    """The counts follow from the points in the file, by the rules in the file."""
    full = front["points"][0] if strategy == "greedy" else None
    if full is not None:
        assert full["mode"] == "1"
        assert front["threshold"] == pytest.approx(max(full["search"]["value"] - 0.14, 0.0))
    counted = [p for p in front["points"] if p["search"]["value"] > front["threshold"]]
    assert [p for p in front["points"] if p["counted"]] == counted
    macs = [p["macs"] for p in row["rival"]["points"]]
    inside = [p for p in counted if min(macs) <= p["macs"] <= max(macs)]
    found = front["above"]["all widths"]
    assert found["modes"] == len(inside)
    assert found["cheaper"] + found["dearer"] == len(counted) - len(inside)
    for point in [*counted, *row["rival"]["points"]]:
        assert point["test"]["count"] == 50
        assert point["test"]["low"] <= point["test"]["value"] <= point["test"]["high"]


def test_fig6(five, place):
    results = fig6.run(
        "smoke", place / "images", place / "work", place / "reproduction", QUICK, most_widths=3
    )
    (panel,) = results["panels"]
    timed = {(each["engine"], each["who"], each["mode"]) for each in panel["costs"]}
    for point in panel["points"]:
        for engine in installed_engines():
            assert (engine, point["who"], point["mode"]) in timed
    assert len([p for p in panel["points"] if p["who"] == fig6.RIVAL]) == 3
    shelf = [p for p in panel["points"] if p["who"] == fig6.SHELF]
    budget = SCALES["smoke"].budgets["tiny-bottleneck-resnet"]
    epochs = {SAME_EPOCHS: budget.epochs, SAME_PASSES: budget.epochs * budget.passes}
    assert all(point["budget"]["epochs"] == epochs[point["passes"]] for point in shelf)
    assert len(shelf) == 2 * 2
    for each in panel["costs"]:
        assert each["latency"]["value"] > 0
        assert each["energy"]["value"] is not None or each["energy"]["reason"]


def test_networks_of_fig6_stay_where_others_are_added(five, place, tmp_path, monkeypatch):
    folder = tmp_path / "reproduction"
    shutil.copytree(place / "reproduction", folder)
    before = read_records(folder / "fig6-smoke.jsonl")
    (panel,) = before["panels"]
    other = panel | {"network": "another"}
    monkeypatch.setattr(fig6, "_panel", lambda *_: {"network": panel["network"], "points": []})
    where = place / "images", place / "work", folder
    with pytest.raises(ValueError, match=r"'another'.*allowed: tiny-bottleneck-resnet"):
        fig6.run("smoke", *where, networks=["another"])
    smoke = SCALES["smoke"]
    two = replace(smoke, mobilenet="another", budgets={**smoke.budgets, "another": other["budget"]})
    with monkeypatch.context() as patch:
        patch.setitem(SCALES, "smoke", two)
        write_records(folder / "fig6-smoke.jsonl", before | {"panels": [other]})
        found = fig6.run("smoke", *where, networks=[panel["network"]])["panels"]
    assert [each["network"] for each in found] == [panel["network"], "another"]
    assert found[1] == other
    with pytest.raises(ValueError, match="holds the network 'another'"):
        fig6.run("smoke", *where)
    write_records(folder / "fig6-smoke.jsonl", before)
    (new,) = fig6.run("smoke", *where, networks=[panel["network"]])["panels"]
    assert new["points"] == []
    assert new["accuracies_made"] == [five["rows"][0]["made"]]
    write_records(folder / "fig6-smoke.jsonl", before | {"rule": "another"})
    with pytest.raises(ValueError, match="made by another rule"):
        fig6.run("smoke", *where, networks=[panel["network"]])


def test_fig6_without_the_accuracies_says_what_to_run(place, tmp_path):
    with pytest.raises(ValueError, match=r"no fig5-smoke\.jsonl.*experiments\.fig5 --scale smoke"):
        fig6.run("smoke", place / "images", place / "work", tmp_path)


def test_accuracies_of_another_budget_are_refused_in_one_figure(five, place, tmp_path):
    other = json.loads(json.dumps(five))
    for row in other["rows"]:
        row["rival"]["budget"]["epochs"] = 3
    write_records(tmp_path / "fig5-smoke.jsonl", other)
    with pytest.raises(
        ValueError, match=r"'us-net' had other budgets \(epochs differ.* one figure"
    ):
        fig6.run("smoke", place / "images", place / "work", tmp_path, QUICK, most_widths=2)


def test_a_part_that_is_not_whole_is_refused(tmp_path):
    assert kept(tmp_path / "part.json", {"seed": 1}, lambda: {"found": 1})["found"] == 1
    assert kept(tmp_path / "part.json", {"seed": 1}, lambda: {"found": 2})["found"] == 1
    assert kept(tmp_path / "part.json", {"seed": 2}, lambda: {"found": 3})["found"] == 3
    (tmp_path / "part.json").write_text('{"identity"')
    with pytest.raises(ValueError, match="no whole part"):
        kept(tmp_path / "part.json", {"seed": 2}, lambda: {"found": 4})


@pytest.mark.parametrize("experiment", [table1, table2, fig5, fig7])
def test_data_that_are_missing_are_named(experiment, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`--data` .*nowhere.* train/CLASS"):
        experiment.run("smoke", tmp_path / "nowhere", tmp_path, tmp_path)


def test_a_network_of_another_method_setting_is_refused(five, place, monkeypatch):
    monkeypatch.setitem(METHODS, "weight-enabling", lambda: we.WeightEnabling(groups=(1, 2)))
    budget = SCALES["smoke"].budgets["tiny-bottleneck-resnet"]
    run = Run("tiny-bottleneck-resnet", "weight-enabling", 0, budget)
    with pytest.raises(ValueError, match="another `groups`"):
        trained(run, load(place / "images", budget), place / "work" / "smoke")


def test_a_plain_network_that_was_stopped_goes_on_to_the_same_weights(place, tmp_path, monkeypatch):
    budget = replace(SCALES["smoke"].budgets["tiny-bottleneck-resnet"], epochs=2)
    data = load(place / "images", budget)

    def weights(folder):
        net = runs.trained_off_the_shelf("mobilenetv3-small-050", "it", 1, budget, data, folder)
        return net.state_dict()

    expected = weights(tmp_path / "at once")
    made, step = [], runs._plain_step

    def step_until_the_fifth(*arguments):
        made.append(1)
        if len(made) == 5:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(runs, "CHECKPOINT_EVERY_S", -1.0)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "_plain_step", step_until_the_fifth)
        with pytest.raises(KeyboardInterrupt):
            weights(tmp_path / "stopped")
    found = weights(tmp_path / "stopped")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    (stamp,) = (tmp_path / "stopped").glob("*.json")
    assert json.loads(stamp.read_text())["training_s"] is None


def test_fig7(five, place):
    results = fig7.run(
        "smoke", place / "images", place / "work", place / "reproduction", QUICK, (1, 4)
    )
    modes = list(results["along"])
    assert modes[:5] == ["1", "1/2", "1/4", "1/8", "1/16"]
    front = [p["mode"] for p in five["rows"][0]["ours"]["fronts"]["knapsack"]["points"]]
    assert set(modes[5:]) <= set(front)
    devices = {row["device"] for row in results["rows"]}
    assert len(results["rows"]) == len(devices) * len(modes) * 2
    assert len(devices) >= 1 + len(installed_engines())


def test_table1(place):
    results = table1.run(
        "smoke", place / "images", place / "work", place / "reproduction", QUICK, switches=4
    )
    rows = {row["class"]: row for row in results["rows"]}
    # By hand, for one image of 32x32: the stem, two bottlenecks with their shortcuts, ten classes.
    first = 16 * 16 * (16 + 16 + 16 + 64 + 64)
    second = 16 * 16 * 32 + 8 * 8 * (32 + 128 + 128)
    assert rows["weight-enabling"]["neurons_full"] == first + second + 10
    assert rows["weight-enabling"]["neurons_share"] == rows["precision"]["neurons_share"] == 1
    assert rows["depth, early exits"]["neurons"] == first + 10
    assert rows["width, SNN"]["neurons_share"] == pytest.approx(0.25, abs=0.01)
    # A plain network's own bytes, one by one.
    model = NETWORKS["tiny-bottleneck-resnet"]()
    plain = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    assert results["plain_bytes"] == plain
    for row in rows.values():
        assert row["held_bytes"] == pytest.approx(row["held_over_plain"] * plain)
        assert row["cheapest_bytes"] < row["full_bytes"]
    pair = rows["big/little"]
    assert pair["held_bytes"] == plain + pair["cheapest_bytes"] == pair["bytes_loaded"]
    assert pair["switch"]["value"] is None
    assert pair["switch_if_one"]["value"] > 0
    integers = [r for r in results["latency"] if (r["class"], r["mode"]) == ("precision", "8 bits")]
    assert {r["engine"] for r in integers} == {"eager PyTorch", "onnxruntime"}


def slow_share(ours, rival) -> str:
    """The share of our counted modes above the lines between neighbouring widths, one by one."""
    accuracies: dict[int, list[float]] = {}
    for point in rival["points"]:
        accuracies.setdefault(point["macs"], []).append(point["test"]["value"])
    line = sorted((macs, sum(found) / len(found)) for macs, found in accuracies.items())
    verdicts = []
    for point in ours["fronts"]["knapsack"]["points"]:
        x, y = point["macs"], point["test"]["value"]
        if not point["counted"] or not line[0][0] <= x <= line[-1][0]:
            continue
        (x0, y0), (x1, y1) = next(
            pair for pair in itertools.pairwise(line) if pair[0][0] <= x <= pair[1][0]
        )
        verdicts.append(y > y0 + (y1 - y0) * (x - x0) / (x1 - x0))
    return f"{100 * sum(verdicts) / len(verdicts):.0f} %" if verdicts else "none within"


def test_the_page_and_its_pictures(place, tmp_path):
    """After the others: all results of the smallest scale lie in one folder."""
    folder = place / "reproduction"
    names = ("table1", "fig5", "fig6", "fig7")
    if not all((folder / f"{name}-smoke.jsonl").is_file() for name in names):
        pytest.skip("the experiments were not run before")
    pictures = reproduction.draw(folder, tmp_path, ["smoke"])
    assert [path.name for path in pictures] == [
        "fig5-smoke.svg",
        "fig6-smoke.svg",
        "fig7-smoke.svg",
    ]
    before = [path.read_text() for path in pictures]
    assert all("<svg" in text for text in before)
    assert [path.read_text() for path in reproduction.draw(folder, tmp_path, ["smoke"])] == before
    page = reproduction.page(folder, ["smoke"])
    five = read_records(folder / "fig5-smoke.jsonl")
    share = 100 * five["rows"][0]["ours"]["fronts"]["greedy"]["above"]["all widths"]["share"]
    assert f"| 73.2 % | {share:.1f} (one seed) %" in page
    crossed = slow_share(five["rows"][3]["ours"], five["rows"][1]["rival"])
    assert f"| shuffle everywhere, distillation | {crossed} |" in page
    for source in ("Table I", "Figure 5", "Figure 6", "Figure 7"):
        assert f"| {source} |" in page
    left_out = page.split("## Not run")[1]
    assert "`table2` at scale `smoke`" in left_out
    assert "of `fig5`" not in left_out
    part = json.loads(json.dumps(five))
    gone = part["rows"].pop()
    write_records(folder / "fig5-smoke.jsonl", part)
    left_out = reproduction.page(folder, ["smoke"]).split("## Not run")[1]
    what = f"{gone['network']}, {gone['comparison']}, seed {gone['seed']}"
    assert f"of `fig5` at scale `smoke` {what}" in left_out
    write_records(folder / "fig5-smoke.jsonl", five)
    older = json.loads(json.dumps(five))
    older["rows"][0]["made"]["commit"] = "1234567"
    write_records(folder / "fig5-smoke.jsonl", older)
    with pytest.raises(ValueError, match="shows accuracies of other runs than Figure 5 holds"):
        reproduction.page(folder, ["smoke"])
    write_records(folder / "fig5-smoke.jsonl", five)
    (folder / "why.json").write_text('{"no claim": "because"}')
    with pytest.raises(ValueError, match="'no claim', which is no claim"):
        reproduction.page(folder, ["smoke"])
    (folder / "why.json").unlink()
