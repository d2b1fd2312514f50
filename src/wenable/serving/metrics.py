"""What Prometheus reads at `/metrics`, beside what KServe counts itself."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from wenable.serving.batcher import Answer

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_REQUESTS = Counter(
    "wenable_requests",
    "Requests by what became of them: in_time, late, done (without a deadline), refused, expired,"
    " invalid, failed",
    ["outcome"],
)
_MODES = Counter("wenable_mode", "Requests answered, by the mode that ran", ["mode"])
_LATENCY = Histogram(
    "wenable_request_seconds", "From arrival to answer, waiting included", buckets=_SECONDS
)
_WAITING = Histogram("wenable_waiting_seconds", "From arrival to its batch", buckets=_SECONDS)
_BATCH = Histogram(
    "wenable_batch_size",
    "Examples that ran with a request, itself included",
    buckets=(1, 2, 4, 8, 16, 32),
)
_QUEUE = Gauge("wenable_queue_length", "Requests that wait")


def count(outcome: str) -> None:
    """Count a request that got no answer."""
    _REQUESTS.labels(outcome).inc()


def answered(answer: Answer) -> None:
    """Count a request that was answered."""
    count("done" if answer.met is None else "in_time" if answer.met else "late")
    _MODES.labels(answer.mode).inc()
    _LATENCY.observe(answer.total_ms / 1e3)
    _WAITING.observe(answer.waited_ms / 1e3)
    _BATCH.observe(answer.batch)


def queued(length: int) -> None:
    """Show how many requests wait."""
    _QUEUE.set(length)
