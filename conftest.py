"""Makes the examples of the documentation and of the docstrings tests, collected by pytest.

It stands at the root because the README, `docs` and `src` each hold examples.
"""

import gc
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser

from tests.helpers.quick_traces import make_traces_quick
from tests.helpers.remembered_traces import remember_traces

# Some tests import ONNX Runtime themselves; nobody wants to hear of them.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Tests that run side by side have a core each.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)

make_traces_quick()
remember_traces()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Look for garbage less often: it was a tenth of the time of tests that trace networks.

    Imported objects are not frozen: `exporting.fake_tensors` finds caches among what is collected.
    """
    gc.set_threshold(20_000, 10, 50)


def _enter_empty_folder(namespace: dict[str, Any]) -> None:
    """Run a page in a folder of its own, since some of them write files."""
    namespace["_folder"], namespace["_before"] = tempfile.TemporaryDirectory(), Path.cwd()
    os.chdir(namespace["_folder"].name)


def _leave_folder(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["_before"])
    namespace["_folder"].cleanup()


_pages = Sybil(
    parsers=[PythonCodeBlockParser()],
    patterns=["README.md", "docs/*.md", "docs/**/*.md"],
    setup=_enter_empty_folder,
    teardown=_leave_folder,
)
_docstrings = Sybil(
    parsers=[DocTestParser()],
    patterns=["src/wenable/**/*.py", "src/wenable/*.py", "experiments/*.py", "results/*.py"],
)

pytest_collect_file = (_pages + _docstrings).pytest()
