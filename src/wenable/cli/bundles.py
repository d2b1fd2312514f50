"""`wenable export`, `profile`, `verify` and `bench`: from a saved network to a device, and there."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wenable.cli.bundle_tables import comparison_tables, predictions_table, profile_table
from wenable.cli.durations import duration_words
from wenable.cli.image_sizes import parse_sizes
from wenable.cli.inspect_modes import read_front
from wenable.cli.terminal import (
    busy,
    consoles,
    counted,
    mode_cells,
    modes_table,
    print_json,
    progress_bar,
)
from wenable.core.files import check_writable, write_whole
from wenable.core.mode_ids import resolve
from wenable.measure.device import conditions_words, describe_device, usable_cores
from wenable.runtime.bundle import Bundle

if TYPE_CHECKING:
    from wenable.core.cost_parts import Costs
    from wenable.profiling.comparison import ModeComparison
    from wenable.runtime import DeviceProfile


def run_export(
    network: Path,
    model: str,
    modes: str,
    front: Path | None,
    out: Path,
    engine: str,
    as_json: bool,
    image_sizes: str = "",
    weights: str = "float32",
) -> None:
    """Write modes of a saved network to a bundle; `model` builds it where it is the user's own.

    - `image_sizes`: of images that the bundle takes besides its own, as `parse_sizes` reads them.
    """
    import wenable as we
    from wenable.cli.opening import open_saved

    console, progress = consoles(as_json)
    sizes = parse_sizes(image_sizes)
    if sizes and engine == "executorch":
        raise ValueError(
            "`--image-sizes` is for a bundle; an ExecuTorch file takes images of one size"
        )
    if weights != "float32" and engine == "executorch":
        raise ValueError("`--weights` is for a bundle; an ExecuTorch file has weights in float32")
    net = open_saved(network, model)
    wanted, readings, ids = _wanted(net, modes, front)
    if engine == "executorch":
        _export_executorch(net, wanted, readings, out, as_json)
        return
    with busy(progress, f"exporting and checking {counted(len(wanted), 'mode')} on {engine}"):
        path = we.export(
            net,
            wanted,
            out,
            engine=engine,
            readings=readings,
            ids=ids,
            image_sizes=sizes,
            weights=weights,
        )
    size = path.stat().st_size
    if as_json:
        named = {name: str(mode) for name, mode in Bundle(path).ids.items()}
        modes_written = [str(mode) for mode in wanted]
        print_json({"bundle": str(path), "bytes": size, "modes": modes_written, "ids": named})
        return
    console.print(
        f"{counted(len(wanted), 'mode')}, checked on {engine}, in {size / 2**20:.2f} MiB: {path}"
    )


def _export_executorch(
    net: Any, wanted: list[Any], readings: dict[Any, Any], out: Path, as_json: bool
) -> None:
    import wenable as we

    console, progress = consoles(as_json)
    with busy(progress, f"implementation and checking {len(wanted)} modes for XNNPACK"):
        written = we.export_executorch(net, wanted, out, readings=readings)
    if as_json:
        print_json(
            {
                "file": str(written.path),
                "bytes": written.bytes,
                "weight_bytes": written.weight_bytes,
                "methods": dict(written.methods),
                "undelegated": {mode: list(names) for mode, names in written.undelegated.items()},
            }
        )
        return
    table = modes_table("", wanted)
    for header in ("method", "not run by XNNPACK"):
        table.add_column(header, overflow="fold", min_width=18)
    for mode, method in written.methods.items():
        left = ", ".join(written.undelegated[mode]) or "nothing"
        table.add_row(*mode_cells(net.space.mode(mode)), method, left)
    console.print(table)
    console.print(
        f"{counted(len(wanted), 'mode')}, checked in ExecuTorch, in {written.bytes / 2**20:.2f} MiB,"
        f" {written.bytes / written.weight_bytes:.2f} times the full float32 weights: {written.path}"
    )


def _wanted(
    net: Any, modes: str, front: Path | None
) -> tuple[list[Any], dict[Any, Any], dict[str, Any]]:
    """Return the modes to export, what is known of them, and their short names in the front."""
    from wenable.modules.fingerprint import weights_fingerprint  # torch, which a device has not

    ids: dict[str, Any] = {}
    readings: dict[Any, Any] = {}
    if front is not None:
        found = read_front(front)
        if found.chosen.mode.space != net.space:
            raise ValueError(f"`--front` (={front}) was found for another network than this one")
        if found.weights not in (None, weights_fingerprint(net)):
            raise ValueError(
                f"`--front` (={front}) was found with other weights than this network has, so its"
                " accuracies are not those of this one: search again, or name modes with `--modes`"
            )
        ids = found.ids
        # The figures to report, and a device chooses by: those that no search was lucky with.
        readings = {each.mode: {"accuracy": each.test or each.accuracy} for each in found.found}
    if modes:
        where = "give its file with `--front`" if front is None else str(front)
        wanted = [resolve(each.strip(), net.space, ids, where) for each in modes.split(";")]
        return wanted, {mode: readings[mode] for mode in wanted if mode in readings}, ids
    if front is not None:
        return list(readings), readings, ids
    return sorted(net.calibrated_modes, key=lambda mode: -net.macs(mode)), {}, {}


def run_profile(
    bundle: Path,
    engine: str,
    threads: int | None,
    out: Path | None,
    energy: bool,
    as_json: bool,
    precision: str = "float32",
) -> None:
    """Measure a bundle on this device, keep what was found, and write it to a file if asked."""
    from wenable.measure import NoMeter
    from wenable.profiling import profile
    from wenable.runtime.device_profile import why_no_profile_is_kept

    console, progress = consoles(as_json)
    _check_place(out)
    problem = why_no_profile_is_kept()
    if problem and out is None:
        raise OSError(f"the profile could not be kept: {problem}; name a file with --out")

    def tell(seconds: float) -> None:
        progress.print(f"measuring on {engine}: about {duration_words(seconds)}")

    with progress_bar(progress, "measuring") as update, warnings.catch_warnings():
        if problem:  # it is said below, in one line
            warnings.filterwarnings("ignore", "the profile is not kept", RuntimeWarning)
        found = profile(
            bundle, engine=engine, threads=threads, precision=precision,
            meter=None if energy else NoMeter("it was not asked for"),
            on_progress=update, on_estimate=tell,
            on_event=lambda event: progress.print(f"note: {event}"),
        )  # fmt: skip
    if out is not None:
        write_whole(out, json.dumps(found.to_json(), indent=1) + "\n")
    if as_json:
        print_json(found.to_json())
        return
    opened = Bundle(bundle)
    console.print(profile_table(found, opened.space, opened.ids))
    if not found.energies:
        console.print(f"energy: not measured ({found.energy_reason})")
    console.print(conditions_words(found.conditions, found.conditions_after))
    kept = "kept for sessions of this network on this device"
    if problem:
        kept = f"not kept for sessions ({problem}); pass it to them as `profile`"
    console.print(kept if out is None else f"{kept}; written: {out}")


def run_verify(
    bundle: Path,
    profile: Path,
    front: Path | None,
    engine: str,
    modes: int,
    out: Path | None,
    refit: Path | None,
    as_json: bool,
    precision: str | None = None,
) -> None:
    """Measure random modes, and those of a front, beside what a profile's table predicts.

    - `refit`: a new file for the profile with its tables fitted again, where that helps.
    """
    from wenable.profiling.refitting import refit as fitted_again
    from wenable.profiling.verification import GOAL_ERROR, GOAL_TAU, verify
    from wenable.runtime import DeviceProfile

    console, progress = consoles(as_json)
    _check_new(refit)
    _check_place(out)
    also = []
    if front is not None:
        also = [str(mode) for mode in read_front(front).ids.values()]
    with progress_bar(progress, "measuring") as update:
        known = DeviceProfile.read(profile)
        costs = None if refit is None else _costs_to_fit(known, Bundle(bundle), modes)
        result = verify(
            bundle,
            known,
            engine=engine,
            precision=precision,
            modes=modes,
            also=also,
            on_progress=update,
        )
    if out is not None:
        write_whole(out, json.dumps(result.to_json(), indent=1) + "\n")
    again = None
    if refit is not None:
        assert costs is not None
        again = fitted_again(costs, result)
        if again.helps:
            _check_new(refit)
            write_whole(refit, json.dumps(again.corrected(known).to_json(), indent=1) + "\n")
    if as_json:
        print_json(result.to_json() | ({"refit": again.to_json()} if again else {}))
        return
    opened = Bundle(bundle)
    ids = opened.ids if front is None else read_front(front).ids
    console.print(predictions_table(result, opened.space, ids))
    console.print(
        f"median error {result.median_error:.1%} (goal {GOAL_ERROR:.0%}), Kendall's tau"
        f" {result.kendall_tau:.3f} (goal {GOAL_TAU}): {'good' if result.is_good else 'short of it'}"
    )
    if result.repeat_error is not None:
        console.print(
            f"the same modes measured twice: median difference {result.repeat_error:.1%}, Kendall's"
            f" tau {result.repeat_tau:.3f}; so much is this machine's own unrest"
        )
    if again is not None:
        console.print(predictions_table(again.before, opened.space, ids, again.after))
        console.print(_refit_words(again, refit))


def _costs_to_fit(profile: DeviceProfile, bundle: Bundle, modes: int) -> Costs:
    """Return what `--refit-out` fits again: the one table of a profile, or those of parts."""
    from wenable.core.cost_parts import CostParts
    from wenable.profiling.refitting import least_modes

    tables = profile.tables("latency")
    if all(each.space.size == 1 for each in tables):
        raise ValueError(
            "`--refit-out` is for tables by which costs of modes are sums, and there is none here:"
            f" {bundle.why_not_any_mode() or 'the profile has no table'}; measure its modes again with"
            " `wenable profile`"
        )
    costs = CostParts(bundle.space, tables) if profile.table is None else profile.table
    if modes < least_modes(costs):
        raise ValueError(
            f"`--random-modes` (={modes}) is too few for `--refit-out` to fit the tables of"
            f" {len(tables)} parts; allowed: at least {least_modes(costs)}"
        )
    return costs


def _check_place(path: Path | None) -> None:
    """Refuse a file that cannot be written before minutes of measuring are spent on it."""
    if path is not None:
        check_writable(path)


def _check_new(path: Path | None) -> None:
    if path is None:
        return
    if path.exists():
        raise ValueError(f"`--refit-out` (={path}) exists; name a new file, nothing was changed")
    if not path.resolve().parent.is_dir():
        raise FileNotFoundError(f"`--refit-out` (={path}) is in a folder that does not exist")


def _refit_words(again: Any, path: Path | None) -> str:
    before, after, held = again.before, again.after, len(again.before.measured)
    words = (
        f"fitted again ({again.form}) to {len(again.fitted_to)} of the modes; on the other {held}:"
        f" median error {before.median_error:.1%} before, {after.median_error:.1%} after, Kendall's tau"
        f" {before.kendall_tau:.3f} before, {after.kendall_tau:.3f} after: "
    )
    if again.helps:
        return f"{words}better; written: {path}"
    return f"{words}no better than chance, and nothing was written"


def run_bench(
    bundle: Path,
    engines: str,
    threads: str,
    modes: str,
    out: Path | None,
    as_json: bool,
    precision: str = "float32",
) -> None:
    """Compare a bundle's modes with plain exports; print and save the figures."""
    from wenable.profiling.comparison import compare
    from wenable.runtime.engines import installed_engines

    console, progress = consoles(as_json)
    _check_place(out)
    counts = _threads(threads)
    left_out: dict[str, None] = {}
    opened = Bundle(bundle)
    names = [each.strip() for each in engines.split(",")]
    if not engines:
        names = [*installed_engines(), *_kernels()]
    wanted = None
    if modes:
        numbers = [opened.number_of(each.strip()) for each in modes.split(";")]
        wanted = [str(opened.modes[number].mode) for number in numbers]
    rows: list[ModeComparison] = []
    with busy(progress, "preparing") as say:
        for count in counts:
            rows += compare(
                bundle,
                engines=names,
                threads=count,
                precision=precision,
                modes=wanted,
                on_progress=say,
                on_left_out=lambda words: left_out.setdefault(words),
            )
    for words in left_out:  # the same with each number of threads
        progress.print(f"left out: {words}")
    values = {"device": describe_device(), "modes": [each.to_json() for each in rows]}
    if out is not None:
        write_whole(out, json.dumps(values, indent=1) + "\n")
    if as_json:
        print_json(values)
        return
    for table in comparison_tables(rows, opened.space, opened.ids):
        console.print(table)
    whole = "the plain full network" + (f" {opened.networks[0]}" if opened.networks else "")
    console.print(
        f"{rows[0].ours.count} calls of each, of one example, in blocks in random order, on"
        f" {describe_device()}. plain here: the mode exported as it is written, on the same engine;"
        f" best plain: the fastest of these on any engine; full: {whole} at its best."
    )
    if out is not None:
        console.print(f"written: {out}")


def _kernels() -> list[str]:
    """Return the name of our own kernels; nothing where they cannot be used here."""
    from wenable.runtime.engines import open_kernels

    kernels = open_kernels(1)
    if kernels is None:
        return []
    kernels.close()
    return [kernels.name]


def _threads(given: str) -> list[int | None]:
    """Return the numbers of threads to compare with: those given, or one and all cores."""
    if given:
        parts = [each.strip() for each in given.split(",")]
        if not all(each.isdecimal() and int(each) > 0 for each in parts):
            raise ValueError(
                f"`--threads` (={given!r}) must be whole numbers with commas, each at least 1, as 1,2"
            )
        return [int(each) for each in parts]
    return [1, None] if usable_cores() > 1 else [1]
