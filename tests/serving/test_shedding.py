"""Requests refused by their headers: what is read of them, and what becomes of their connections."""

import asyncio
import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.test_server import Server, bundle, request  # noqa: F401
from wenable.serving.asgi import READ_ON
from wenable.serving.batcher import Coming
from wenable.serving.refusals import RefusedError
from wenable.serving.shedding import Shedding

INFER = "/v2/models/net/infer"
DATA = json.dumps(request()).encode()
JSON = {"content-type": "application/json"}


class Queue:
    """Refuses what has a deadline below 10 ms."""

    def __init__(self) -> None:
        self.asked: list[float | None] = []
        self.ended = 0

    def announce(self, *, deadline_ms: float | None = None) -> Coming:
        self.asked.append(deadline_ms)
        if deadline_ms is not None and deadline_ms < 10:
            raise RefusedError(429, "no time", "refused")
        return Coming(self.end)

    def end(self, _: Coming) -> None:
        self.ended += 1


def handled(headers: dict[str, str], body: list[bytes], most_bytes: int = 100) -> tuple[Any, ...]:
    """Send one request through; return the queue, what happened in its order, and what was sent."""
    queue, happened, sent = Queue(), [], []
    parts = iter(body)

    async def receive() -> dict[str, Any]:
        happened.append("read")
        part = next(parts)
        return {"type": "http.request", "body": part, "more_body": part != body[-1]}

    async def send(message: dict[str, Any]) -> None:
        happened.append(message["type"])
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        happened.append("handled")

    given = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": INFER, "headers": given}
    shedding = Shedding(app, queue, most_bytes)  # pyright: ignore[reportArgumentType]
    asyncio.run(shedding(scope, receive, send))
    return queue, happened, sent


def test_the_answer_leaves_before_the_body_is_read():
    _, happened, sent = handled({"x-deadline-ms": "5"}, [b"1", b"2", b""])
    answer = ["http.response.start", "http.response.body"]
    assert happened == [*answer, "read", "read", "read", "http.response.body"]
    assert sent[0]["status"] == 429
    assert (b"retry-after", b"1") in sent[0]["headers"]
    assert json.loads(sent[1]["body"]) == {"error": "no time"}


def test_a_body_without_an_end_is_not_read_for_ever():
    _, happened, _ = handled({"x-deadline-ms": "5"}, [b"x" * 50] * 99 + [b"end"], most_bytes=100)
    assert happened.count("read") == READ_ON * 100 // 50 + 1


def test_a_client_that_waits_to_send_its_body_is_not_told_to():
    _, happened, sent = handled({"x-deadline-ms": "5", "expect": "100-Continue"}, [b""])
    assert "read" not in happened
    assert (b"connection", b"close") in sent[0]["headers"]


@pytest.mark.parametrize(
    ("headers", "deadline_ms"),
    [
        ({}, None), ({"x-deadline-ms": "20"}, 20.0), ({"x-deadline-ms": "soon"}, None),
        ({"x-deadline-ms": "nan"}, None), ({"x-deadline-ms": "-1"}, None), ({"x-deadline-ms": ""}, None),
    ],
)  # fmt: skip
def test_what_headers_do_not_say_is_left_to_the_handlers(headers, deadline_ms):
    queue, happened, _ = handled(headers, [b""])
    assert queue.asked == [deadline_ms]
    assert happened == ["handled"]
    assert queue.ended == 1


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Server]:  # noqa: F811
    running = Server(bundle, "--queue", "1")
    yield running
    running.process.kill()
    running.process.communicate()


def metric(server: Server, name: str) -> float:
    lines = server.ask("GET", "/metrics")[1].decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def wait_for(server: Server, coming: int) -> None:
    ends_s = time.monotonic() + 20
    while metric(server, "wenable_requests_coming") != coming:
        assert time.monotonic() < ends_s


class Held:
    """Keeps the only place in the queue, by a body that is not there yet, for up to a second."""

    def __init__(self, server: Server) -> None:
        self.connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\ncontent-type: application/json\r\n"
        wait_for(server, coming=0)
        self.connection.sendall(f"{head}content-length: {len(DATA)}\r\n\r\n".encode() + DATA[:10])
        wait_for(server, coming=1)

    def finish(self) -> int:
        self.connection.sendall(DATA[10:])
        answer = http.client.HTTPResponse(self.connection)
        answer.begin()
        answer.read()
        self.connection.close()
        return answer.status


def test_refused_requests_leave_their_connection_as_it_was(server: Server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.connect()
    own, held = connection.sock, Held(server)
    larger = DATA + b" " * 400_000  # more than is read at once
    for data in (DATA, larger, b"", DATA):
        connection.request("POST", INFER, data, JSON)
        answer = connection.getresponse()
        assert answer.status == 429, (len(data), answer.read())
        assert answer.getheader("retry-after") == "1"
        assert "the queue is full: 1 requests wait" in json.loads(answer.read())["error"]
    connection.request("GET", "/v2/health/live")
    assert json.loads(connection.getresponse().read()) == {"live": True}
    assert held.finish() == 200
    for _ in range(2):
        connection.request("POST", INFER, DATA, JSON)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["id"]) == (200, "7")
    assert connection.sock is own  # http.client opens another one when a server closes
    connection.close()


def test_a_pooling_client_goes_on_with_its_connection(server: Server):
    def port(answer: httpx.Response) -> int:
        return answer.extensions["network_stream"].get_extra_info("client_addr")[1]

    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client:
        held = Held(server)
        refused = [client.post(INFER, content=DATA, headers=JSON) for _ in range(3)]
        chunked = client.post(INFER, content=iter([DATA[:9], DATA[9:]]), headers=JSON)
        assert [each.status_code for each in (*refused, chunked)] == [429] * 4
        assert held.finish() == 200
        found = client.post(INFER, content=DATA, headers=JSON)
        assert found.status_code == 200
        assert {port(each) for each in (*refused, chunked, found)} == {port(found)}


def test_pipelined_requests_are_answered_in_their_order(server: Server):
    held = Held(server)
    head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\ncontent-type: application/json\r\n"
    one = f"{head}content-length: {len(DATA)}\r\n\r\n".encode() + DATA
    live = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nconnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(one + one + live)
        said = b"".join(iter(lambda: connection.recv(65536), b""))
    assert [each[:3] for each in said.split(b"HTTP/1.1 ")[1:]] == [b"429", b"429", b"200"]
    assert held.finish() == 200


def test_a_client_that_asks_before_it_sends_is_told_without_its_body(server: Server):
    held = Held(server)
    head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nexpect: 100-continue\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(f"{head}content-length: {len(DATA)}\r\n\r\n".encode())
        said = b"".join(iter(lambda: connection.recv(65536), b""))
    assert said.startswith(b"HTTP/1.1 429 ")
    assert b"connection: close" in said
    assert held.finish() == 200


def test_a_client_that_goes_away_while_it_is_refused_hurts_nobody(server: Server):
    held = Held(server)
    head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\ncontent-length: 99999\r\n\r\n"
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head.encode() + b"{")
    assert held.finish() == 200
    wait_for(server, coming=0)
    assert server.infer()[0] == 200


def test_a_slow_client_keeps_the_place_for_a_second(server: Server):
    held = Held(server)
    assert server.infer()[0] == 429
    time.sleep(1.0)
    assert server.infer()[0] == 200
    assert held.finish() == 200


def test_prometheus_reads_how_many_were_refused_unread(server: Server):
    held = Held(server)

    before = metric(server, "wenable_refused_unread_total")
    assert server.infer()[0] == 429
    assert metric(server, "wenable_refused_unread_total") == before + 1
    assert held.finish() == 200
