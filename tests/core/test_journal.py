"""The journal of a search: what is on it stays, whatever ends the process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from wenable.core.journal import Journal, JournalError

HEADER = {"weights": 17, "threshold": 0.5, "knobs": ("a", "b")}
ENTRIES = [{"kind": "evaluation", "mode": "1/2", "right": n, "share": n / 3} for n in range(3)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Journal(tmp_path / "search.jsonl", HEADER) as journal:
        for entry in ENTRIES:
            journal.append(entry)
    return tmp_path / "search.jsonl"


def test_what_was_written_is_read_back(path: Path):
    with Journal(path, HEADER) as journal:
        assert journal.entries == ENTRIES
        journal.append({"kind": "step"})
    with Journal(path, HEADER) as journal:
        assert journal.entries == [*ENTRIES, {"kind": "step"}]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_cut_off_anywhere_it_holds_every_whole_line_and_goes_on(path: Path):
    content = path.read_bytes()
    ends = [i for i, byte in enumerate(content) if byte == ord("\n")]
    for length in sorted({*range(0, len(content), 23), *ends, *(end + 1 for end in ends)}):
        path.write_bytes(content[:length])
        whole = max(sum(end < length for end in ends) - 1, 0)  # the header is no entry
        with Journal(path, HEADER) as journal:
            assert journal.entries == ENTRIES[:whole]
            journal.append({"more": 1})
        with Journal(path, HEADER) as journal:
            assert journal.entries == [*ENTRIES[:whole], {"more": 1}]


def test_a_damaged_line_is_refused_and_a_damaged_last_one_dropped(path: Path):
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = lines[2].replace(b'"right":1', b'"right":2')
    path.write_bytes(b"".join([*lines[:2], damaged, *lines[3:]]))
    with pytest.raises(JournalError, match=r"line 3 of the journal .* is damaged"):
        Journal(path, HEADER)
    path.write_bytes(b"".join([*lines[:2], damaged]))
    with Journal(path, HEADER) as journal:
        assert journal.entries == ENTRIES[:1]


def test_a_journal_of_another_run_is_refused_with_what_differs(path: Path):
    before = path.read_bytes()
    with pytest.raises(JournalError, match=r"another run \(weights: 17 there, 18 here\)"):
        Journal(path, {**HEADER, "weights": 18})
    with pytest.raises(
        JournalError, match=r"threshold: 0\.5 there, 0\.6 here; more: None there, 1 h"
    ):
        Journal(path, {**HEADER, "threshold": 0.6, "more": 1})
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a journal", b"{}\n{}\n", b"\x00" * 99])
def test_another_file_is_refused_and_left_alone(tmp_path: Path, content: bytes):
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    with pytest.raises(JournalError, match="is no journal of a search; nothing was changed"):
        Journal(path, HEADER)
    assert path.read_bytes() == content


def test_a_journal_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "search.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr("wenable.core.journal.VERSION", 2)
        Journal(path, HEADER).close()
    with pytest.raises(JournalError, match="no journal of a search of version 1; its first line"):
        Journal(path, HEADER)


def test_two_on_one_journal_are_refused(path: Path):
    with Journal(path, HEADER), pytest.raises(JournalError, match="in use by another process"):
        Journal(path, HEADER)
    with Journal(path, HEADER) as journal:  # and it is free again
        assert journal.entries == ENTRIES


def test_a_killed_process_keeps_nothing_locked_and_loses_nothing(tmp_path: Path):
    path = tmp_path / "search.jsonl"
    code = f"""
import os, signal
from pathlib import Path
from wenable.core.journal import Journal
journal = Journal(Path({str(path)!r}), {{"run": 1}})
for n in range(5):
    journal.append({{"n": n}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with Journal(path, {"run": 1}) as journal:
        assert journal.entries == [{"n": n} for n in range(5)]


def test_a_folder_that_is_missing_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere to write search\.jsonl into"):
        Journal(tmp_path / "nowhere" / "search.jsonl", HEADER)
