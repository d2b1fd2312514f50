"""A served bundle under a burst: 16 clients, three times what the full network can do, for ten seconds.

    python -m benchmarks.serving_burst [--bundle NET.wen] [--deadline-ms 100] [--runs 3] [--out .]
    python -m benchmarks.serving_burst --soak-minutes 30      memory of the server under steady load

`wenable serve` runs in a process of its own, the clients in this one, on the same machine. First the rate
is measured that the full network serves (16 clients that wait for each answer). Then requests come at
random times (Poisson): calm at half of that rate, the burst, calm again. A request's time counts from
when it was due, so one that finds all clients busy has lost that time; how long a refusal takes counts
from when the request was sent. What the server and the clients use of the processor is read at the end of
each phase. Results go to `results/serving-burst.jsonl`, where those of other machines stay, and the tables
to `docs/results/serving-burst.md`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torchvision

import wenable as we
from results.provenance import present_commit
from results.records import ROOT, read_records, records_file, write_page
from results.runs_by_machine import add_run
from wenable.core.preprocessing import Preprocessing
from wenable.measure.device import describe_device
from wenable.runtime import Bundle

CLIENTS, THREADS, MAX_BATCH = 16, 2, 8
NETWORK = "MobileNet-V2 at 224 pixels, widths x image sizes, images as bytes"
SIZE = 224
CALM, BURST = 0.5, 3.0
"""Shares of the rate that the full network serves."""
PHASES = (("calm", CALM, 10.0), ("burst", BURST, 10.0), ("calm again", CALM, 15.0))
"""Name, rate, seconds."""
IN_TIME, LATE, REFUSED, EXPIRED, UNSENT, LOST = (
    "in time", "late", "refused", "given up", "not sent", "lost",
)  # fmt: skip
OUTCOMES = (IN_TIME, LATE, REFUSED, EXPIRED, UNSENT, LOST)
_FIGURES = ("median ms", "p99 ms", "refused p99 ms", "cores server", "cores clients")
_OF_STATUS = {429: REFUSED, 503: REFUSED, 504: EXPIRED}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving_burst")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--deadline-ms", type=float, default=100.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--soak-minutes", type=float, default=0.0)
    parser.add_argument("--out", type=Path, default=ROOT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.bundle or example_bundle(Path(folder))
        with served(path) as server:
            if arguments.soak_minutes:
                name, option = "serving-soak", f"--soak-minutes {arguments.soak_minutes:g}"
                found = soaked(server, arguments.soak_minutes)
            else:
                name, option = "serving-burst", f"--runs {arguments.runs}"
                deadline = arguments.deadline_ms
                bursts = [burst(server, deadline, seed) for seed in range(arguments.runs)]
                found = {"deadline_ms": deadline, "bursts": bursts}
    run = {
        "command": f"python -m benchmarks.serving_burst {option}",
        "commit": present_commit(),
        "machine": describe_device(),
        "network": NETWORK,
    }
    add_run(records_file(arguments.out, name), run | found)
    write_page(arguments.out, "serving-burst", page_of(arguments.out))


def page_of(out: Path) -> str:
    """Return the page for the records below a root: those of bursts, and those of steady load if any."""
    files = [records_file(out, name) for name in ("serving-burst", "serving-soak")]
    bursts, soaks = (read_records(file)["runs"] if file.exists() else [] for file in files)
    return page(bursts, soaks)


def example_bundle(folder: Path) -> Path:
    """Return a bundle with random weights: times are measured, and no accuracy is claimed."""
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v2().eval()
    x = torch.randn(4, 3, SIZE, SIZE)
    method = [we.Slimmable((1.0, 0.5, 0.25)), we.ImageSize((SIZE, 160, 128))]
    net = we.convert(model, x[:1], method=method)
    net.preprocessing = Preprocessing(SIZE, (0.5,) * 3, (0.25,) * 3)
    modes = ["1", "1,size=160", "1,width=0.5", "1,width=0.5,size=160", "1,width=0.25,size=128"]
    we.calibrate(net, modes[1:], [x])
    return we.export(net.eval(), modes, folder / "net.wen")


@dataclass
class Server:
    """A server process, and what asks it.

    - `body`, `headers`: of a request for one image, as bytes by the protocol's binary extension.
    """

    process: subprocess.Popen[str]
    port: int
    body: bytes
    headers: dict[str, str]

    def ask(self, connection: http.client.HTTPConnection, **more: str) -> tuple[int, bytes]:
        """Return the status and the body of an answer to one more request."""
        connection.request("POST", "/v2/models/net/infer", self.body, self.headers | more)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def connection(self) -> http.client.HTTPConnection:
        """Return a new connection, which stays open from request to request."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)


@contextmanager
def served(bundle: Path) -> Iterator[Server]:
    """Serve a bundle on a free port; stop with grace at the end."""
    command = [sys.executable, "-m", "wenable.cli.main", "serve", str(bundle), "--port", "0"]
    command += ["--name", "net", "--threads", str(THREADS), "--max-batch", str(MAX_BATCH)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said: list[str] = []
    found = None
    for line in process.stdout:
        said.append(line)
        if found := re.search(r":(\d+)/v2/models/net/infer", line):
            break
    if found is None:
        raise RuntimeError(f"the server did not start: {''.join(said)}")
    threading.Thread(target=process.stdout.read, daemon=True).start()  # or its pipe would fill
    try:
        yield Server(process, int(found[1]), *request_for(bundle))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def request_for(bundle: Path) -> tuple[bytes, dict[str, str]]:
    """Return the body and headers of a request with one image for the bundle, as bytes."""
    opened = Bundle(bundle)
    (name,), kept = opened.example(), opened.preprocessing
    if kept is None:
        raise ValueError(f"`--bundle` (={bundle}) does not say how images are prepared")
    shape = (1, kept.size, kept.size, kept.channels)
    x = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    head = {
        "name": name, "datatype": "UINT8", "shape": list(x.shape),
        "parameters": {"binary_data_size": x.nbytes},
    }  # fmt: skip
    text = json.dumps({"inputs": [head], "parameters": {"binary_data_output": True}}).encode()
    return text + x.tobytes(), {
        "content-type": "application/octet-stream",
        "inference-header-content-length": str(len(text)),
    }


@dataclass
class Requests:
    """Requests that are due at certain times, sent by some clients, and what became of them.

    - `due`: seconds from the start, and the phase.
    - `found`: the phase, the outcome, the seconds from when it was due, and when it was due.
    - `refusals`: the phase, and the seconds from when it was sent, of those that were refused.
    """

    due: Sequence[tuple[float, str]]
    deadline_ms: float
    found: list[tuple[str, str, float, float]] = field(default_factory=list)
    refusals: list[tuple[str, float]] = field(default_factory=list)
    _next: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> tuple[float, str] | None:
        """Return the next that is due, for one client; None if that was the last."""
        with self._lock:
            self._next += 1
            return self.due[self._next - 1] if self._next <= len(self.due) else None

    def note(self, phase: str, outcome: str, seconds: float, due: float) -> None:
        """Keep what became of one."""
        with self._lock:
            self.found.append((phase, outcome, seconds, due))


def burst(server: Server, deadline_ms: float, seed: int) -> dict[str, Any]:
    """Return what became of the requests of each phase."""
    rate = full_rate(server, 3.0)
    rng, due, start = random.Random(seed), [], 0.0
    for phase, share, seconds in PHASES:
        moment = start
        while (moment := moment + rng.expovariate(share * rate)) < start + seconds:
            due.append((moment, phase))
        start += seconds
    requests = Requests(due, deadline_ms)
    begun = time.perf_counter()
    clients = [
        threading.Thread(target=_client, args=(server, requests, begun)) for _ in range(CLIENTS)
    ]
    for each in clients:
        each.start()
    cores = _cores(server, begun)
    for each in clients:
        each.join()
    over = sum(seconds for phase, _, seconds in PHASES if phase != "calm again")
    missed = [
        due
        for phase, outcome, _, due in requests.found
        if phase == "calm again" and outcome != IN_TIME
    ]
    return {
        "full_rate": round(rate, 1),
        "phases": {
            phase: _figures(requests, phase) | {"cores": cores[phase]} for phase, _, _ in PHASES
        },
        "last_miss_after_burst_s": round(max(missed) - over, 3) if missed else 0.0,
        "memory_mib": round(psutil.Process(server.process.pid).memory_info().rss / 2**20, 1),
    }


def _cores(server: Server, begun: float) -> dict[str, dict[str, float]]:
    """Return how many cores the server and the clients, with this process, keep busy in each phase."""
    processes = {"server": psutil.Process(server.process.pid), "clients": psutil.Process()}

    def used() -> dict[str, float]:
        times = {name: process.cpu_times() for name, process in processes.items()}
        return {name: each.user + each.system for name, each in times.items()}

    found, before, end = {}, used(), begun
    for phase, _, seconds in PHASES:
        end += seconds
        time.sleep(max(0.0, end - time.perf_counter()))
        after = used()
        found[phase] = {name: round((after[name] - before[name]) / seconds, 2) for name in after}
        before = after
    return found


def _figures(requests: Requests, phase: str) -> dict[str, Any]:
    own = [each for each in requests.found if each[0] == phase]
    counts = Counter(outcome for _, outcome, _, _ in own)
    answered = sorted(1e3 * seconds for _, outcome, seconds, _ in own if outcome in (IN_TIME, LATE))
    refused = [1e3 * seconds for refused_in, seconds in requests.refusals if refused_in == phase]
    return {
        "requests": len(own),
        "outcomes": {name: counts[name] for name in OUTCOMES},
        "median_ms": round(float(np.median(answered)), 2) if answered else None,
        "p99_ms": round(float(np.percentile(answered, 99)), 2) if answered else None,
        "refusal_median_ms": round(float(np.median(refused)), 2) if refused else None,
        "refusal_p99_ms": round(float(np.percentile(refused, 99)), 2) if refused else None,
    }


def _client(server: Server, requests: Requests, begun: float) -> None:
    """Send what is due, one request after the other, on one connection."""
    connection = server.connection()
    while (each := requests.take()) is not None:
        due, phase = each
        time.sleep(max(0.0, begun + due - time.perf_counter()))
        left = requests.deadline_ms - 1e3 * (time.perf_counter() - begun - due)
        if left <= 0:
            requests.note(phase, UNSENT, 0.0, due)
            continue
        sent = time.perf_counter()
        try:
            status, _ = server.ask(connection, **{"x-deadline-ms": repr(left)})
        except (OSError, http.client.HTTPException):
            requests.note(phase, LOST, 0.0, due)
            connection = server.connection()
            continue
        seconds = time.perf_counter() - begun - due
        outcome = IN_TIME if 1e3 * seconds <= requests.deadline_ms else LATE
        if status != 200:
            outcome = _OF_STATUS.get(status, LOST)
        if outcome == REFUSED:
            requests.refusals.append((phase, time.perf_counter() - sent))
        requests.note(phase, outcome, seconds, due)
    connection.close()


def full_rate(server: Server, seconds: float) -> float:
    """Return how many requests a second the full network serves to clients that wait for each answer."""
    ends, counts = time.perf_counter() + seconds, [0] * CLIENTS

    def ask(number: int) -> None:
        connection = server.connection()
        while time.perf_counter() < ends:
            status, data = server.ask(connection)  # without a deadline: the first mode
            if status != 200:
                raise RuntimeError(f"status {status}: {data[:200]!r}")
            counts[number] += 1
        connection.close()

    clients = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    return sum(counts) / seconds


def soaked(server: Server, minutes: float) -> dict[str, Any]:
    """Return the server's memory under steady load: in MiB, ten times a minute."""
    full_rate(server, 5.0)
    process, ends = psutil.Process(server.process.pid), time.monotonic() + 60 * minutes
    stop, counts = threading.Event(), [0] * 4

    def ask(number: int) -> None:
        connection = server.connection()
        while not stop.is_set():
            server.ask(connection, **{"x-deadline-ms": f"{random.uniform(5, 200):.1f}"})
            counts[number] += 1
            time.sleep(0.25)

    clients = [threading.Thread(target=ask, args=(number,)) for number in range(len(counts))]
    for each in clients:
        each.start()
    memory = []
    while time.monotonic() < ends:
        memory.append(round(process.memory_info().rss / 2**20, 1))
        time.sleep(6.0)
    stop.set()
    for each in clients:
        each.join()
    return {"minutes": minutes, "requests": sum(counts), "memory_mib": memory}


def page(bursts: list[dict[str, Any]], soaks: list[dict[str, Any]]) -> str:
    """Return the page of the documentation for the runs of some machines."""
    lines = ["# A burst of requests to a server", ""]
    lines += [_verdict(bursts) or "No burst was measured yet.", "", *_introduction(), ""]
    for run in bursts:
        lines += [
            f"## {run['machine']}",
            "",
            f"`{run['command']}` at commit {run['commit']}: {run['network']}, random weights; a deadline of"
            f" {run['deadline_ms']:g} ms. The full network serves"
            f" {', '.join(str(each['full_rate']) for each in run['bursts'])} requests a second.",
            "",
            f"| run | phase | requests | {' | '.join(OUTCOMES)} | {' | '.join(_FIGURES)} |",
            f"|--:|---|--:|{'--:|' * (len(OUTCOMES) + len(_FIGURES))}",
        ]
        for number, each in enumerate(run["bursts"], 1):
            for name, found in each["phases"].items():
                cores = found.get("cores", {})
                times = [found.get(name) for name in ("median_ms", "p99_ms", "refusal_p99_ms")]
                cells = [
                    str(number), name, str(found["requests"]),
                    *(str(found["outcomes"][outcome]) for outcome in OUTCOMES),
                    *("-" if each is None else f"{each:.1f}" for each in times),
                    *(f"{cores[name]:.2f}" if name in cores else "-" for name in ("server", "clients")),
                ]  # fmt: skip
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    if soaks:
        lines += ["## Memory under steady load", "", *map(_soak_words, soaks), ""]
    return "\n".join(lines)


def _soak_words(run: dict[str, Any]) -> str:
    """Say how the memory of a server changed, by the medians of tenths of the time."""
    memory = run["memory_mib"]
    tenth = max(len(memory) // 10, 1)
    second, last = np.median(memory[tenth : 2 * tenth]), np.median(memory[-tenth:])
    return (
        f"`{run['command']}` at commit {run['commit']} on {run['machine']}: {run['network']}; after"
        f" {run['requests']} requests in {run['minutes']:g} minutes the server holds {last:.1f} MiB; after"
        f" a tenth of them it held {second:.1f}, and never more than {max(memory):.1f}."
    )


def _introduction() -> list[str]:
    phases = ", ".join(f"{name} {share:g} times for {s:g} s" for name, share, s in PHASES)
    return [
        f"`wenable serve` with {THREADS} threads and batches of up to {MAX_BATCH}; {CLIENTS} clients on the"
        " same machine, which take processor time of the server's. Rates are shares of what the full"
        f" network serves to clients that wait for each answer: {phases}.",
        "",
        "*In time* counts from when a request was due. *Refused* were told at once that there is no time or"
        " no room (429), *given up* that their time would be over before they are done (504), *not sent*"
        " found all clients busy until their deadline, *lost* got no answer. *Refused p99* counts from when"
        " such a request was sent, its body included; *cores* are what the processes keep busy.",
    ]


def _verdict(runs: list[dict[str, Any]]) -> str:
    """Say how the bursts ended: lost, kept, recovered."""
    said = []
    for run in runs:
        in_burst = [each["phases"]["burst"]["outcomes"] for each in run["bursts"]]
        total = sum(sum(each.values()) for each in in_burst)
        in_time, late = (sum(each[name] for each in in_burst) for name in (IN_TIME, LATE))
        lost = sum(
            phase["outcomes"][LOST] for each in run["bursts"] for phase in each["phases"].values()
        )
        recovered = max(each["last_miss_after_burst_s"] for each in run["bursts"])
        said.append(
            f"On {run['machine']}, of {total} requests in bursts of {BURST:g} times what the full"
            f" network serves {in_time / total:.1%} were answered in time,"
            f" {in_time / max(in_time + late, 1):.1%} of those that were answered; {lost} of all were"
            f" lost. The last request that missed its deadline after a burst was due {recovered:.2f} s"
            " after its end."
        )
    return " ".join(said)


if __name__ == "__main__":
    main()
