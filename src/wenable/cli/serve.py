"""`wenable serve`: a bundle behind KServe's model server."""

from __future__ import annotations

from pathlib import Path

import typer

from wenable.runtime.session import Session
from wenable.serving.server import ServeOptions, serve


def run_serve(
    bundle: Path,
    name: str,
    options: ServeOptions,
    engine: str,
    threads: int | None,
    memory_budget_mb: float | None,
    deadline_target: float,
) -> None:
    """Serve a bundle until it is told to stop.

    - `name`: as clients call it; that of the file if empty.
    """
    name = name or bundle.stem
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise ValueError(f"`--name` (={name!r}) must be of letters, digits, - _ and .")

    def opened() -> Session:
        return Session(
            bundle,
            engine=engine,
            threads=threads,
            memory_budget_mb=memory_budget_mb,
            deadline_target=deadline_target,
        )

    serve(name, opened, options, lambda line: typer.echo(line))
