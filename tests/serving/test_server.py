"""A real server process on the loopback, spoken to in plain HTTP: answers, refusals, ends."""

import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import wenable as we
from wenable.runtime import Session

SHAPE = (3, 8, 8)
EXAMPLE = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)


class Server:
    def __init__(self, bundle: Path, *options: str) -> None:
        command = [sys.executable, "-m", "wenable.cli.main", "serve", str(bundle), "--port", "0"]
        command += ["--engine", "onnxruntime", "--threads", "1", "--name", "net", *options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout is not None
        said, found = [], None
        for line in self.process.stdout:
            said.append(line)
            if found := re.search(r":(\d+)/v2/models/net/infer", line):
                break
        assert found, said
        self.port = int(found[1])

    def ask(self, method: str, path: str, body=None, headers=None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json", **(headers or {})}
        try:
            connection.request(method, path, data, sent)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def infer(self, body=None, **headers) -> tuple[int, dict]:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        status, data = self.ask("POST", "/v2/models/net/infer", body or request(), headers)
        return status, json.loads(data)

    def says(self, words: str) -> bool:
        """Wait for a line with these words; False where the server ended without it."""
        assert self.process.stdout is not None
        return any(words in line for line in self.process.stdout)


def request(x: np.ndarray = EXAMPLE, **parameters) -> dict:
    given = {
        "name": "input",
        "datatype": "FP32",
        "shape": list(x.shape),
        "data": x.ravel().tolist(),
    }
    return {"id": "7", "inputs": [given], "parameters": parameters}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3)]
    model = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(16 * 16, 5))
    path = tmp_path_factory.mktemp("served") / "net.wen"
    we.export(we.convert(model, torch.zeros(1, *SHAPE)), ["1", "1/4"], path)
    return path


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Server]:
    running = Server(bundle, "--max-body-mb", "1", "--queue", "16", "--max-batch", "4")
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.process.communicate()


@pytest.fixture(scope="module")
def expected(bundle: Path) -> dict[str, np.ndarray]:
    with Session(bundle, engine="onnxruntime", threads=1) as session:
        return {mode: session.run(EXAMPLE, mode=mode) for mode in session.modes}


def test_answers_are_those_of_the_session(server: Server, expected):
    for mode, outputs in expected.items():
        status, answer = server.infer(request(mode=mode))
        assert status == 200
        assert answer["id"] == "7"
        assert answer["parameters"]["mode"] == mode
        assert answer["outputs"][0]["shape"] == [1, 5]
        np.testing.assert_allclose(answer["outputs"][0]["data"], outputs[0], rtol=1e-6)


def test_raw_bytes_go_in_and_out(server: Server, expected):
    head = {"name": "input", "datatype": "FP32", "shape": [1, *SHAPE]}
    head["parameters"] = {"binary_data_size": EXAMPLE.nbytes}
    text = json.dumps(
        {"inputs": [head], "parameters": {"binary_data_output": True, "mode": "1"}}
    ).encode()
    headers = {"content-type": "application/octet-stream"}
    headers["inference-header-content-length"] = str(len(text))
    status, data = server.ask("POST", "/v2/models/net/infer", text + EXAMPLE.tobytes(), headers)
    assert status == 200
    np.testing.assert_array_equal(np.frombuffer(data[-20:], np.float32), expected["1"][0])


def in_bytes(**parameters) -> tuple[bytes, dict[str, str]]:
    head = {"name": "input", "datatype": "FP32", "shape": [1, *SHAPE]}
    head["parameters"] = {"binary_data_size": EXAMPLE.nbytes}
    text = json.dumps({"id": "7", "inputs": [head], "parameters": parameters}).encode()
    return text + EXAMPLE.tobytes(), {"inference-header-content-length": str(len(text))}


@pytest.mark.parametrize("kind", ["application/octet-stream", "text/plain"])
def test_bytes_are_answered_in_json_as_json_is(server: Server, kind: str):
    body, headers = in_bytes(mode="1")
    status, data = server.ask(
        "POST", "/v2/models/net/infer", body, {**headers, "content-type": kind}
    )
    _, expected = server.infer(request(mode="1"))
    found = json.loads(data)
    assert status == 200
    for each in (found, expected):
        each["parameters"] = sorted(each["parameters"])
    assert found == expected


@pytest.mark.parametrize(
    ("path", "cut", "status", "words"),
    [
        ("/v2/models/net/infer", 1, 400, "has neither `data` nor a `binary_data_size`"),
        ("/v2/models/other/infer", 0, 404, "other"),
        ("/v2/models/net/versions/1/infer", 0, 501, "versioning"),
    ],
)
def test_bytes_are_refused_as_json_is(server: Server, path: str, cut: int, status: int, words: str):
    body, headers = in_bytes()
    headers["content-type"] = "application/octet-stream"
    got, data = server.ask("POST", path, body[: len(body) - cut], headers)
    assert (got, words in json.loads(data)["error"]) == (status, True), data


def test_a_body_that_comes_slowly_takes_time_from_its_deadline(server: Server):
    data = json.dumps(request(deadline_ms=150)).encode()
    head = (
        f"POST /v2/models/net/infer HTTP/1.1\r\nHost: localhost\r\ncontent-length: {len(data)}\r\n"
        "content-type: application/json\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head.encode() + data[:20])
        time.sleep(0.3)
        connection.sendall(data[20:])
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 504
        assert b"passed before the request was read" in answer.read()


@pytest.mark.parametrize("where", ["header", "parameter"])
def test_a_deadline_is_a_header_or_a_parameter(server: Server, where: str):
    if where == "header":
        status, answer = server.infer(request(), x_deadline_ms="5000")
    else:
        status, answer = server.infer(request(deadline_ms=5000))
    assert status == 200
    assert answer["parameters"]["deadline_met"] is True


def test_a_deadline_and_a_mode_of_null_say_nothing(server: Server):
    """In JSON without bytes KServe refuses a null."""
    body, headers = in_bytes(deadline_ms=None, mode=None)
    headers |= {"content-type": "application/octet-stream", "x-deadline-ms": "5000"}
    status, data = server.ask("POST", "/v2/models/net/infer", body, headers)
    assert (status, json.loads(data)["parameters"]["deadline_met"]) == (200, True)


def test_a_mode_is_answered_and_counted_by_its_own_name_however_it_is_written(server: Server):
    for written in ("m02", " 1/4 ", "1/4,*=1/4"):
        status, answer = server.infer(request(mode=written))
        assert (status, answer["parameters"]["mode"]) == (200, "1/4")
    counted = re.findall(
        r'wenable_mode_total{mode="(.*)"}', server.ask("GET", "/metrics")[1].decode()
    )
    assert set(counted) <= {"1", "1/4"}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/net/ready", {"ready": True}),
    ],
)
def test_it_says_that_it_is_well(server: Server, path: str, fields: dict):
    status, data = server.ask("GET", path)
    assert status == 200
    assert fields.items() <= json.loads(data).items()


def test_the_model_is_described(server: Server):
    described = json.loads(server.ask("GET", "/v2/models/net")[1])
    assert described["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 3, 8, 8]}]
    assert described["outputs"][0]["shape"] == [-1, 5]


BAD = [
    (request(deadline_ms=-5), 400, "`deadline_ms` (=-5) must be a finite number above 0"),
    (request(deadline_ms="soon"), 400, "must be a finite number above 0"),
    (request(deadline_ms=True), 400, "must be a finite number above 0"),
    (request(deadline_ms="nan"), 400, "must be a finite number above 0"),
    (request(deadline_ms=10**400), 400, "must be a finite number above 0"),
    (request(mode="1/2"), 400, "was not exported; net.wen has 1, 1/4"),
    (request(mode="1", deadline_ms=9), 400, "ask for one of them"),
    (request(np.zeros((5, *SHAPE), np.float32)), 400, "from 1 to 4 examples"),
    (request(np.zeros((1, 3, 8, 9), np.float32)), 400, "must have shape"),
    (request(np.full((1, *SHAPE), 1e39, np.float64)), 400, "NaN or infinity"),
    ({"inputs": []}, 400, "`inputs` must be input"),
    ({"inputs": 3}, 400, "no request of the protocol"),
    ({}, 400, "no request of the protocol"),
    (b"{", 400, "no request of the protocol"),
    (b"", 400, "no request of the protocol"),
    (b"[" * 100_000, 400, "error parsing the body"),
    (b"x" * (1 << 20) + b"x", 413, "the body is larger than 1048576 bytes"),
    ({**request(), "outputs": [{"name": "nothing"}]}, 400, "`outputs` must be some of"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "words"), BAD, ids=lambda value: str(value)[:30])
def test_what_makes_no_sense_is_refused_with_the_reason(server: Server, body, status, words):
    got, data = server.ask("POST", "/v2/models/net/infer", body)
    assert (got, words in json.loads(data)["error"]) == (status, True), data


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/other", 404), ("POST", "/v2/models/other/infer", 404),
        ("GET", "/nothing", 404), ("POST", "/v2/repository/models/net/unload", 404),
        ("PUT", "/v2/models/net/infer", 405),
    ],
)  # fmt: skip
def test_other_paths_are_not_there(server: Server, method: str, path: str, status: int):
    body = request() if method == "POST" else None
    assert server.ask(method, path, body)[0] == status


def test_a_client_that_goes_away_hurts_nobody(server: Server):
    body = json.dumps(request()).encode()
    head = b"POST /v2/models/net/infer HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    for sent in (b"", b"PO", head, head + b"content-length: 999999\r\n\r\n{", None):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            whole = head + b"content-length: %d\r\n\r\n" % len(body) + body
            connection.sendall(whole if sent is None else sent)
    assert server.infer()[0] == 200


def mangled(draw: random.Random) -> tuple[bytes, dict]:
    """Return a request that is broken somewhere, or not at all."""
    body = request(**draw.choice([{}, {"deadline_ms": draw.choice([-1, 0, 1e9, None, [], "x"])}]))
    given = body["inputs"][0]
    junk = [None, -1, 0, 2**70, "", "FP32", "é", [], {}, [[1]], True, 1e400, ["a"], {"a": [1]}]
    for _ in range(draw.randrange(3)):
        target = draw.choice([body, given])
        target[draw.choice([*target, "outputs", "parameters"])] = draw.choice(junk)
    data = json.dumps(body).encode()
    if draw.random() < 0.4:
        at = draw.randrange(len(data))
        data = data[:at] + draw.randbytes(draw.randrange(4)) + data[at + draw.randrange(4) :]
    headers = {}
    if draw.random() < 0.3:
        headers["inference-header-content-length"] = draw.choice(["0", "-1", "zz", "10", "9" * 30])
        headers["content-type"] = draw.choice(["application/octet-stream", "text/plain"])
    if draw.random() < 0.2:
        headers["x-deadline-ms"] = draw.choice(["nan", "-0", "inf", "1e999", "", "5000"])
    return data, headers


def test_nothing_that_clients_send_makes_it_fail(server: Server):
    """Two hundred here; `WENABLE_FUZZ=10000` for more."""
    draw = random.Random(int(os.environ.get("WENABLE_FUZZ_SEED", "0")))
    seen: dict[int, int] = {}
    for _ in range(int(os.environ.get("WENABLE_FUZZ", "200"))):
        data, headers = mangled(draw)
        status, answer = server.ask("POST", "/v2/models/net/infer", data, headers)
        assert status in (200, 400, 504), (status, answer, data[:500], headers)
        assert status == 200 or json.loads(answer)["error"]
        seen[status] = seen.get(status, 0) + 1
    assert min(seen[200], seen[400]) > 10
    assert server.infer()[0] == 200


def test_prometheus_reads_what_happened(server: Server):
    server.infer(request(deadline_ms=5000))
    text = server.ask("GET", "/metrics")[1].decode()
    for outcome in ("in_time", "done", "invalid"):
        assert f'wenable_requests_total{{outcome="{outcome}"}}' in text
    assert 'wenable_mode_total{mode="1"}' in text
    assert "wenable_request_seconds_bucket" in text


class TakingPixels(torch.nn.Sequential):
    def forward(self, pixels):  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(pixels)


class TakingWholeNumbers(torch.nn.Sequential):
    def forward(self, input):
        return super().forward(input.float())


def test_a_new_file_is_taken_when_told_and_a_bad_one_never(server: Server, bundle: Path, expected):
    kept = bundle.with_suffix(".kept")
    shutil.copy(bundle, kept)
    bundle.unlink()
    bundle.write_bytes(b"no bundle")
    assert server.infer(request(mode="1"))[0] == 200  # nobody told it yet
    server.process.send_signal(signal.SIGHUP)
    assert server.says("the one before goes on")
    assert server.infer(request(mode="1"))[0] == 200
    torch.manual_seed(1)
    layers = [torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3)]
    model = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(16 * 16, 5))
    bundle.unlink()
    we.export(we.convert(model, torch.zeros(1, *SHAPE)), ["1", "1/4"], bundle)
    server.process.send_signal(signal.SIGHUP)
    assert server.says("loaded anew")
    status, answer = server.infer(request(mode="1"))
    assert status == 200
    assert not np.allclose(answer["outputs"][0]["data"], expected["1"][0])
    for taking, kind in ((TakingPixels, torch.float32), (TakingWholeNumbers, torch.int64)):
        bundle.unlink()
        other = taking(*layers, torch.nn.Flatten(), torch.nn.Linear(16 * 16, 5))
        we.export(we.convert(other, torch.zeros(1, *SHAPE, dtype=kind)), ["1", "1/4"], bundle)
        server.process.send_signal(signal.SIGHUP)
        assert server.says("the one before goes on: its inputs are")
        assert server.infer(request(mode="1"))[0] == 200
    bundle.unlink()
    shutil.move(kept, bundle)


def test_a_burst_is_answered_or_refused_at_once_and_told_to_stop_it_answers_what_it_took(
    server: Server,
):
    """The last one with this server."""
    data = json.dumps(request(np.repeat(EXAMPLE, 4, 0), deadline_ms=2000)).encode()
    connections = []
    for _ in range(60):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request(
            "POST", "/v2/models/net/infer", data, {"content-type": "application/json"}
        )
        connections.append(connection)
    time.sleep(0.02)
    server.process.send_signal(signal.SIGTERM)
    seen: dict[int, int] = {}
    for connection in connections:
        try:
            answer = connection.getresponse()
            assert json.loads(answer.read())
            seen[answer.status] = seen.get(answer.status, 0) + 1
        except (OSError, http.client.HTTPException):  # not taken: it came after the signal
            seen[0] = seen.get(0, 0) + 1
        finally:
            connection.close()
    said, _ = server.process.communicate(timeout=30)
    assert seen.keys() <= {200, 429, 503, 0}
    assert seen[200] >= 1
    assert "stopped: all requests that were taken have been answered" in said
    assert server.process.returncode == 0
    with pytest.raises(ConnectionRefusedError):
        server.ask("GET", "/v2/health/live")


def test_it_serves_without_torch(bundle: Path, tmp_path: Path):
    (tmp_path / "torch.py").write_text("raise ImportError('torch was asked for')")
    code = (
        "import sys, wenable.serving.server as server; server._import_kserve();"
        "import wenable.serving.model, wenable.serving.answers, wenable.cli.serve;"
        "print('torch' in sys.modules)"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    shown = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert shown.stdout.strip() == "False", shown.stderr


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--port", "70000", "`--port` (=70000) must be from 0 to 65535"),
        ("--max-batch", "0", "`--max-batch`"),
        ("--deadline-ms", "-1", "`--deadline-ms`"),
        ("--name", "a/b", "`--name` (='a/b')"),
    ],
)
def test_options_outside_their_range_are_refused(bundle: Path, option, value, words):
    from typer.testing import CliRunner

    from wenable.cli.main import app

    shown = CliRunner().invoke(app, ["serve", str(bundle), option, value])
    assert shown.exit_code == 1
    assert words in shown.output
