"""KServe's server with one bundle behind it: started, told to load anew, stopped with grace."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wenable.runtime.session import Session
from wenable.serving.batcher import Batcher
from wenable.serving.refusals import RefusedError

_BACKLOG = 2048


@dataclass(frozen=True)
class ServeOptions:
    """How a bundle is served.

    - `deadline_ms`: for requests that name none; None for no deadline then.
    - `max_batch`: examples that run together, at most; 1 for no batches.
    - `queue`: requests that may wait; more are refused.
    - `max_body_mb`: of one request, in MiB.
    - `grace_s`: for requests that were taken when the server is told to stop.

    Raises `ValueError` for one outside its range.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    deadline_ms: float | None = None
    max_batch: int = 8
    queue: int = 64
    max_body_mb: float = 32.0
    grace_s: int = 30

    def __post_init__(self) -> None:
        for name, least, most in (
            ("port", 0, 65535), ("max_batch", 1, 1024), ("queue", 1, 10**6),
            ("max_body_mb", 1e-3, 4096), ("grace_s", 0, 3600), ("deadline_ms", 1e-3, 1e9),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ValueError(f"`{name}` (={value}) must be from {least} to {most}")

    @property
    def batches(self) -> tuple[int, ...]:
        """The sizes that requests are joined to: powers of two up to `max_batch`."""
        return tuple(2**k for k in range(self.max_batch.bit_length()) if 2**k <= self.max_batch)


def serve(
    name: str,
    open_session: Callable[[], Session],
    options: ServeOptions,
    tell: Callable[[str], None],
) -> None:
    """Serve a bundle until SIGTERM or SIGINT; requests that were taken are answered first.

    - `open_session`: opens the bundle; called again at SIGHUP. The old session goes on until the new one
      is warmed up, and if that fails.
    - `tell`: gets lines for the person who started it.

    Raises `ImportError` without KServe, `OSError` for an address that is taken.
    """
    _import_kserve()
    from wenable.serving import metrics
    from wenable.serving.model import ServedBundle

    listening = socket.create_server((options.host, options.port), backlog=_BACKLOG)
    reload = threading.Event()
    if hasattr(signal, "SIGHUP"):  # before the warm-up, in which it would end the server
        signal.signal(signal.SIGHUP, lambda *_: reload.set())
    session = open_session()
    batches = _warmed_up(session, options)
    batcher = Batcher(session, batches=batches, capacity=options.queue)
    metrics.watch(batcher)
    model = ServedBundle(
        name,
        session,
        batcher,
        default_deadline_ms=options.deadline_ms,
        most_examples=options.max_batch,
    )
    ended = threading.Event()
    thread = threading.Thread(
        target=_reload_when_told,
        args=(reload, ended, open_session, options, model, tell),
        daemon=True,
    )
    thread.start()
    port = listening.getsockname()[1]
    tell(f"serving {name} on http://{options.host}:{port}/v2/models/{name}/infer")
    try:
        _run(model, batcher, options, listening)
    finally:
        ended.set()
        reload.set()
        batcher.close()
        tell("stopped: all requests that were taken have been answered")


def _run(model: Any, batcher: Batcher, options: ServeOptions, listening: socket.socket) -> None:
    from kserve import ModelRepository
    from kserve.protocol.model_repository_extension import ModelRepositoryExtension
    from kserve.protocol.rest.server import RESTServer

    from wenable.serving.answers import OurDataPlane, add_handlers
    from wenable.serving.bytes_route import BytesRoute
    from wenable.serving.limits import Limits
    from wenable.serving.shedding import Shedding

    class Server(RESTServer):
        def _register_endpoints(self, app: Any) -> None:
            app.router.routes.insert(0, BytesRoute(self.dataplane))
            super()._register_endpoints(app)

        def _add_exception_handlers(self, app: Any) -> None:
            super()._add_exception_handlers(app)
            add_handlers(app)

        def _add_middlewares(self, app: Any) -> None:  # without KServe's timing of each request
            most_bytes = int(options.max_body_mb * 2**20)
            app.add_middleware(Limits, most_bytes=most_bytes)
            app.add_middleware(Shedding, batcher=batcher, most_bytes=most_bytes)  # before it

    models = ModelRepository()
    models.update(model)
    server = Server(
        "kserve.model_server:app",
        OurDataPlane(model_registry=models),
        ModelRepositoryExtension(model_registry=models),
        listening.getsockname()[1],
        grace_period=options.grace_s,
    )
    server.config.access_log = False
    warnings.filterwarnings("ignore", message="ORJSONResponse is deprecated")  # KServe's choice
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn stops with grace at either, and then raises it again for whoever had it before.
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listening])


def _reload_when_told(
    reload: threading.Event,
    ended: threading.Event,
    open_session: Callable[[], Session],
    options: ServeOptions,
    model: Any,
    tell: Callable[[str], None],
) -> None:
    while reload.wait() and not ended.is_set():
        reload.clear()
        try:
            with ExitStack() as not_taken:
                session = not_taken.enter_context(open_session())
                batches = _warmed_up(session, options)
                _check_same(session, model)
                not_taken.pop_all()
        except Exception as error:  # whatever is wrong with the new file, the old one goes on
            tell(f"the bundle was not loaded anew, the one before goes on: {error}")
            continue
        model.replace(session, batches)
        tell(f"loaded anew: {Path(session.bundle.path).name}")


def _warmed_up(session: Session, options: ServeOptions) -> tuple[int, ...]:
    """Make a session ready for requests, and return the sizes of batch that they are joined to."""
    batches = options.batches if session.bundle.answers_row_by_row else (1,)
    for size in session.image_sizes:  # the first request of each would hold up all others
        session.warm_up(batches, size)
    return batches


def _check_same(session: Session, model: Any) -> None:
    from wenable.serving.model import described_inputs

    new, sent = described_inputs(session), model.get_input_types()
    if new != sent:
        raise RefusedError(400, f"its inputs are {new}, and clients send {sent}")


def _import_kserve() -> None:
    """Import KServe without our command line, which it would read for options of its own."""
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        import kserve.model_server  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"`wenable serve` needs KServe's server: pip install 'wenable[serve]' ({error})"
        ) from error
    finally:
        sys.argv = arguments
