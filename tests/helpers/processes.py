"""Processes of their own that start at once: forked from one that has loaded torch and this package.

A new interpreter takes six seconds for that, which is more than most of the work that tests give it.
"""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.multiprocessing import start_processes

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["torch.distributed", "wenable.search.exploring", "wenable.training", "wenable.exporting"]
)


def exit_status(work: Callable[..., None], *arguments: Any) -> int:
    """Run a function of a module in a process of its own; -9 if that was killed."""
    process = _SERVER.Process(target=_work_alone, args=(dict(os.environ), work, arguments))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def run_in_processes(count: int, work: Callable[[int, Path], None], folder: Path) -> None:
    """Run `work(process, folder)` in several processes that torch has joined.

    Raises what the first of them raised.
    """
    start_processes(_work_together, (count, work, folder), count, start_method="forkserver")


def _work_alone(
    environment: dict[str, str], work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    # The server's variables are those of the test that started it.
    os.environ.clear()
    os.environ.update(environment)
    _with_one_thread()
    work(*arguments)


def _work_together(
    process: int, count: int, work: Callable[[int, Path], None], folder: Path
) -> None:
    from torch import distributed

    _with_one_thread()
    distributed.init_process_group(
        "gloo", f"file://{folder}/meeting", rank=process, world_size=count
    )
    try:
        work(process, folder)
    finally:
        distributed.destroy_process_group()


def _with_one_thread() -> None:
    import torch

    torch.set_num_threads(1)
