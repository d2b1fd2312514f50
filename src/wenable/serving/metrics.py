"""What Prometheus reads at `/metrics`, beside what KServe counts itself."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from wenable.serving.batcher import Answer, Batcher

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_REQUESTS = Counter(
    "wenable_requests",
    "Requests by what became of them: in_time, late, done (without a deadline), refused, expired,"
    " invalid, failed",
    ["outcome"],
)
_MODES = Counter("wenable_mode", "Requests answered, by the mode that ran", ["mode"])
_UNREAD = Counter("wenable_refused_unread", "Requests refused before their body was read")
_LATENCY = Histogram(
    "wenable_request_seconds", "From arrival until the answer has left", buckets=_SECONDS
)
_WAITING = Histogram("wenable_waiting_seconds", "From arrival to its batch", buckets=_SECONDS)
_BATCH = Histogram(
    "wenable_batch_size",
    "Examples that ran with a request, itself included",
    buckets=(1, 2, 4, 8, 16, 32),
)
_QUEUE = Gauge("wenable_queue_length", "Requests that wait")
_COMING = Gauge("wenable_requests_coming", "Requests whose body is being read")


def count(outcome: str) -> None:
    """Count a request that got no answer."""
    _REQUESTS.labels(outcome).inc()


def unread() -> None:
    """Count a request that was refused by its headers, beside its outcome."""
    _UNREAD.inc()


def answered(answer: Answer, total_ms: float, deadline_ms: float | None) -> None:
    """Count a request whose answer has left, so many milliseconds after it came."""
    met = deadline_ms is None or total_ms <= deadline_ms
    count("done" if deadline_ms is None else "in_time" if met else "late")
    _MODES.labels(answer.mode).inc()
    _LATENCY.observe(total_ms / 1e3)
    _WAITING.observe(answer.waited_ms / 1e3)
    _BATCH.observe(answer.batch)


def watch(batcher: Batcher) -> None:
    """Show how many requests wait, and how many more are being read, whenever somebody asks."""
    _QUEUE.set_function(lambda: batcher.length)
    _COMING.set_function(lambda: batcher.coming)
