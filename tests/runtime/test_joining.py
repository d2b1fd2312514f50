"""Several networks in one file: each answers as from its own, and the file says nothing that is not so."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import wenable as we
from tests.helpers.engines import KERNELS_ARE_BUILT
from tests.helpers.methods import MODES, converted_by
from tests.helpers.mutations import bundle_of, parts_of
from tests.helpers.networks import IMAGES, small_resnet
from wenable.core.preprocessing import Preprocessing
from wenable.measure import NoMeter
from wenable.measure.latency import TimingPlan
from wenable.profiling import profile
from wenable.profiling.comparison import compare
from wenable.profiling.plan import ProfilePlan
from wenable.profiling.verification import verify
from wenable.runtime.bundle import Bundle, BundleError
from wenable.runtime.bundle_file import (
    VERSION,
    VERSION_OF_NETWORKS,
    VERSION_OF_ONE_NETWORK,
    read_bundle_file,
)
from wenable.runtime.engine import EngineError
from wenable.runtime.engines import installed_engines
from wenable.runtime.implementations import as_written
from wenable.runtime.session import Session

ROOT = Path(__file__).parents[2]
ENGINES = installed_engines()
BIG = ["full", "1/4", "1/4,size=4", "1,size=4,precision=8-bit"]


def tiny() -> nn.Module:
    torch.manual_seed(3)
    layers = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(64, 5)).eval()


def group_modes(net: we.DynamicNetwork, path: Path, modes: list[str], **more: Any) -> Path:
    images = torch.randn(16, *IMAGES[1:], generator=torch.Generator().manual_seed(5))
    we.calibrate(net, modes, [images])
    return we.export(net.eval(), modes, path, **more)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Networks with groups, image sizes and bits, with widths, and one that is static."""
    folder = tmp_path_factory.mktemp("own")
    method = [we.WeightEnabling((1, 2, 4)), we.ImageSize((6, 4)), we.SwitchablePrecision((32, 8))]
    net = we.convert(small_resnet(), torch.zeros(IMAGES), method=method)
    found = {"big": group_modes(net, folder / "big.wen", BIG)}
    net = converted_by("slimmable")
    found["slim"] = we.export(net, MODES["slimmable"], folder / "slim.wen")
    net = we.convert(tiny(), torch.zeros(IMAGES), method=we.Static())
    found["little"] = we.export(net, ["full"], folder / "little.wen")
    return found


@pytest.fixture(scope="module")
def all_in_one(own: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return we.join(own, tmp_path_factory.mktemp("joined") / "all.wen")


@pytest.fixture(scope="module")
def pair(own: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    both = {name: own[name] for name in ("little", "big")}
    return we.join(both, tmp_path_factory.mktemp("pair") / "pair.wen")


@pytest.mark.parametrize("engine", ENGINES)
def test_every_mode_answers_as_from_its_own_file(own, all_in_one, engine):
    x = np.random.default_rng(2).standard_normal((3, *IMAGES[1:])).astype(np.float32)
    with Session(all_in_one, engine=engine, threads=1, choose=as_written) as joined:
        assert set(joined.bundle.networks) == set(own)
        seen = set()
        for name, path in own.items():
            with Session(path, engine=engine, threads=1, choose=as_written) as alone:
                for mode in alone.bundle.modes:
                    text = f"network={name},{mode.mode}"
                    seen.add(str(joined.bundle.space.mode(text)))
                    given = alone.run(x, mode=mode.mode)
                    np.testing.assert_array_equal(joined.run(x, mode=text), given)
        assert seen == set(joined.modes)
        assert list(joined.bundle.ids) == [f"m{n:02}" for n in range(1, len(seen) + 1)]
        np.testing.assert_array_equal(joined.run(x), joined.run(x, mode="m01"))


def test_networks_are_ordered_by_what_they_cost(own, all_in_one):
    bundle = Bundle(all_in_one)
    costs = {name: max(each.readings["macs"].known for each in Bundle(path).modes)
             for name, path in own.items()}  # fmt: skip
    assert list(bundle.networks) == sorted(costs, key=lambda name: -costs[name])
    assert bundle.networks[-1] == "little"
    assert str(bundle.space.smallest) == "network=little"


def test_a_mode_adds_the_norms_of_its_own_network(own, all_in_one):
    _, tensors = read_bundle_file(all_in_one)
    bundle = Bundle(all_in_one)
    for name, path in own.items():
        alone = Bundle(path)
        _, of_one = read_bundle_file(path)
        for number, each in enumerate(alone.modes):
            place = bundle.number_of(f"network={name},{each.mode}")
            kept = tensors[f"norms.{place}"]
            np.testing.assert_array_equal(kept, of_one[f"norms.{number}"])
            assert kept.nbytes == 8 * kept.shape[1]  # bytes a channel
    weights = sum(Bundle(path).weight_bytes for path in own.values())
    assert bundle.weight_bytes <= weights


def test_what_two_networks_hold_alike_stands_once(own, tmp_path):
    shutil.copy(own["big"], tmp_path / "copy.wen")
    path = we.join({"a": own["big"], "b": tmp_path / "copy.wen"}, tmp_path / "two.wen")
    assert Bundle(path).weight_bytes == Bundle(own["big"]).weight_bytes
    with Session(path, engine=ENGINES[0], threads=1, choose=as_written) as session:
        x = session.example(2)
        for mode in ("full", "1/4", "1/4,size=4"):
            one, two = (session.run(x, mode=f"network={name},{mode}") for name in "ab")
            np.testing.assert_array_equal(one, two)


def test_the_same_files_make_the_same_bytes(own, pair, tmp_path):
    again = we.join({"big": own["big"], "little": own["little"]}, tmp_path / "again.wen")
    assert again.read_bytes() == pair.read_bytes()


def test_one_network_is_still_written_for_older_readers(own, pair):
    assert read_bundle_file(own["big"])[0]["version"] == VERSION_OF_ONE_NETWORK
    assert read_bundle_file(pair)[0]["version"] == VERSION_OF_NETWORKS
    assert Bundle(own["big"]).networks == ()


@pytest.mark.parametrize("engine", ENGINES)
def test_deadlines_budgets_and_escalation_go_across_networks(pair, engine):
    x = np.random.default_rng(4).standard_normal((6, *IMAGES[1:])).astype(np.float32)
    with Session(pair, engine=engine, threads=1) as session:
        session.warm_up()
        assert session.run(x[:1], deadline_ms=1000.0).shape == (1, 5)
        assert session.controller().outcomes[-1].name == session.modes[0]  # the costliest fits
        modes = ["network=little", "network=big"]
        little, big = (session.run(x, mode=mode) for mode in modes)
        for threshold, expected in ((0.0, little), (1.0, big)):
            found = session.escalate(x, threshold, modes=modes)
            np.testing.assert_allclose(found.outputs, expected, atol=1e-5)
    with Session(pair, engine=engine, threads=1, memory_budget_mb=0.2) as session:
        for mode in session.modes:
            session.run(x, mode=mode)
            assert session.prepared_mb <= 0.2 or len(session.prepared_modes) == 1


def test_profiles_hold_for_all_networks(pair):
    quick = TimingPlan(blocks=2, calls=1, warmup=1, gap_ms=0.0)
    plan = ProfilePlan(mixtures=1, scheme_timing=quick, mode_timing=quick)
    found = profile(pair, engine="onnxruntime", threads=1, plan=plan, meter=NoMeter("not here"))
    assert set(found.latencies) == {str(each.mode) for each in Bundle(pair).modes}
    assert any("'network' changes more than groups" in each for each in found.events)
    result = verify(pair, found, engine="onnxruntime", timing=quick)
    assert set(result.measured) == set(found.latencies)
    with Session(pair, engine="onnxruntime", threads=1, profile=found) as session:
        session.run(session.example(), deadline_ms=1000.0)


def test_a_joined_file_is_compared_mode_by_mode_where_an_engine_runs_it(pair):
    quick = TimingPlan(blocks=2, calls=1, warmup=1, gap_ms=0.0)
    modes = [str(each.mode) for each in Bundle(pair).modes]
    left_out: list[str] = []
    asked = [*ENGINES, *(["native"] if KERNELS_ARE_BUILT else [])]
    rows = compare(pair, engines=asked, threads=1, timing=quick, on_left_out=left_out.append)
    for engine in ENGINES:
        assert [row.mode for row in rows if row.engine == engine] == modes
    assert all(set(row.full) == set(row.plain) == set(ENGINES) for row in rows)
    full = {engine: row.plain[engine] for row in rows for engine in ENGINES if row.mode == modes[0]}
    assert all(row.full == full for row in rows)  # of the costliest network
    if KERNELS_ARE_BUILT:
        run = {row.mode for row in rows if row.engine == "native"}
        refused = [mode for mode in modes if "8-bit" in mode]
        assert run == set(modes) - set(refused)
        assert len(left_out) == 1  # reasons
        assert all(any(mode in words for words in left_out) for mode in refused)
        with pytest.raises(EngineError, match="there is no kernel for it"):
            compare(pair, engines=["native"], threads=1, modes=refused, timing=quick)


def test_the_command_line_joins_and_runs(own, tmp_path):
    def command(*arguments: object) -> str:
        run = [sys.executable, "-m", "wenable.cli.main", *map(str, arguments)]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout

    np.save(tmp_path / "x.npy", np.zeros((1, *IMAGES[1:]), np.float32))
    path = tmp_path / "pair.wen"
    told = command("join", f"big={own['big']}", f"little={own['little']}", "--out", path)
    assert "network=big" in told
    assert "5 modes" in told
    rows = json.loads(command("run", path, tmp_path / "x.npy", "--mode", "network=little",
                              "--engine", "onnxruntime", "--json"))  # fmt: skip
    assert rows[0]["mode"] == "network=little"
    assert rows[0]["id"] == "m05"
    shown = command("inspect", path, "--mode", "m02")
    assert "network=big,1/4" in shown
    assert "little/" not in shown  # the knobs of the other network say nothing of this mode


# What is refused


def changed(path: Path, target: Path, change: Any) -> Path:
    manifest, tensors = parts_of(path.read_bytes())
    change(manifest)
    target.write_bytes(bundle_of(manifest, tensors))
    return target


PREPARED = Preprocessing(6, (0.5,) * 3, (0.2,) * 3, labels=("a", "b"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda told: told.update(preprocessing=PREPARED.to_json()),
         r"preprocessing is none in 'big' and size 6, mean .* in 'little'; they must be the same"),
        (lambda told: told.update(output_names=["logits"]),
         r"outputs are called by their places in 'big' and \('logits',\) in 'little'"),
        (lambda told: told["modes"][0]["readings"].pop("macs"), "whose mode 1 has no MACs"),
        (lambda told: told["modes"][0]["readings"]["macs"].update(unit="G"),
         "'macs' is in MACs, higher is better in 'big' and in G, higher is better in 'little'"),
    ],
)  # fmt: skip
def test_networks_that_differ_are_refused_in_one_line(own, tmp_path, change, message):
    other = changed(own["little"], tmp_path / "other.wen", change)
    with pytest.raises(ValueError, match=message) as caught:
        we.join({"big": own["big"], "little": other}, tmp_path / "pair.wen")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pair.wen").exists()


def test_classes_of_other_names_are_refused(own, tmp_path):
    prepared = [changed(own["little"], tmp_path / f"{n}.wen", lambda told, n=n: told.update(
        preprocessing=replace(PREPARED, labels=("a", n)).to_json())) for n in "bc"]  # fmt: skip
    with pytest.raises(ValueError, match="class 1 is called 'b' in 'x' and 'c' in 'y'"):
        we.join({"x": prepared[0], "y": prepared[1]}, tmp_path / "pair.wen")


def test_other_inputs_and_outputs_are_refused(own, tmp_path):
    wide = we.convert(nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), torch.zeros(1, 3, 4, 4),
                      method=we.Static())  # fmt: skip
    more = we.convert(nn.Sequential(nn.Flatten(), nn.Linear(108, 7)), torch.zeros(IMAGES),
                      method=we.Static())  # fmt: skip
    for net, message in (
        (
            wide,
            r"inputs are float32 \(N, 3, 6, 6\) in 'big' and float32 \(N, 3, 4, 4\) in 'little'",
        ),
        (more, r"outputs are float32 \(N, 5\) in 'big' and float32 \(N, 7\) in 'little'"),
    ):
        path = we.export(net, ["full"], tmp_path / "own.wen")
        with pytest.raises(ValueError, match=message):
            we.join({"big": own["big"], "little": path}, tmp_path / "pair.wen")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("big",), "must name two or more bundles"),
        (("big", "m01"), r"names 'm01'; allowed: printable texts"),
        (("big", "a,b"), "a label must be a text without"),
        (("big", "full"), "other than 'full'"),
    ],
)
def test_names_that_no_mode_could_have_are_refused(own, tmp_path, names, message):
    bundles: Any = dict.fromkeys(names, own["little"])
    with pytest.raises(ValueError, match=message):
        we.join(bundles, tmp_path / "pair.wen")


def test_a_joined_bundle_is_not_joined_again(own, pair, tmp_path):
    with pytest.raises(ValueError, match=r"joined already and holds big, little: join those"):
        we.join({"both": pair, "little": own["little"]}, tmp_path / "three.wen")


def test_unknown_modes_of_networks_are_named(pair):
    bundle = Bundle(pair)
    for mode, message in (
        ("network=middle", "'middle', which is no option of 'network'; allowed: big, little"),
        ("network=little,1/2", "an option that nothing in this network has; allowed: 1"),
        ("network=big,1/2", r"\(=network=big,1/2\) was not exported"),
        (
            {"network": 2, "big/size": 2, "little/static": 1},
            "runs the network 'little' and sets 'big/size' of another",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            bundle.number_of(mode)
    assert bundle.number_of({"network": 2, "little/static": 1}) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda told: told["space"]["knobs"].pop(0), "belongs to one of several networks"),
        (lambda told: told["space"]["knobs"][0].update(labels=["big", "other"]),
         "belongs to the network 'little'; allowed: big, other"),
        (lambda told: told["space"]["knobs"][-1].update(name="static"), "must be called"),
        (lambda told: told["space"]["knobs"].pop(), "the network 'little' has no knob"),
        (lambda told: told["space"]["knobs"][-1].pop("network"), "belongs to the network ''"),
        (lambda told: told["norms"][0].__setitem__(0, "stem.1"), "belongs to none of its networks"),
        (lambda told: told["modes"][-1].update(graph=0), "is damaged: it lacks 'big/stem.1'"),
        (lambda told: told["modes"][-1].update(mode="network=big"), "lists the mode|lacks the norms"),
        (lambda told: told["modes"][-1].update(mode="1"), "names none of its networks"),
        (lambda told: told["modes"][-1].update(mode="network=little,1*999999"), "is not one of its"),
        (lambda told: told["modes"][-1].update(channels={told["norms"][0][0]: 4}), "not its norm"),
        (lambda told: told["modes"][-1].update(graph=99), "`graph` .* must be from 0 to"),
        (lambda told: told.update(version=VERSION + 1), f"this reads up to {VERSION}"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_in_one_line(pair, tmp_path, change, message):
    with pytest.raises(BundleError, match=message) as caught:
        Bundle(changed(pair, tmp_path / "damaged.wen", change))
    assert "\n" not in str(caught.value)


def test_many_damaged_files_give_one_clear_error_or_run(pair, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "faulthandler", "-m", "tests.helpers.mutations",
         str(pair), str(tmp_path), "joined", "300", "onnxruntime"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads(done.stdout)
    assert not summary["wrong"]
    assert summary["found"]["refused"] >= 150
    assert summary["found"]["ran"] >= 6
