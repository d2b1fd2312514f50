"""Files are whole or not there: a writer that dies leaves the old one."""

import os
from pathlib import Path

import pytest

from wenable.core.files import write_whole


def test_a_file_is_written_and_replaced(tmp_path: Path):
    path = tmp_path / "a.bin"
    assert write_whole(path, b"one") == path
    write_whole(path, "zwei")
    assert path.read_bytes() == b"zwei"
    assert [each.name for each in tmp_path.iterdir()] == ["a.bin"]
    other = tmp_path / "plain"
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch, step: str):
    path = tmp_path / "a.bin"
    write_whole(path, b"old")

    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.bin"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path):
    with pytest.raises(OSError, match="absent"):
        write_whole(tmp_path / "absent" / "a", b"x")


def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path: Path):
    target = tmp_path / "net[1].wen"
    old, young, other = (
        tmp_path / name
        for name in (".net[1].wen.partial-abc", ".net[1].wen.partial-def", ".net1.wen.partial-abc")
    )
    for each in (old, young, other):
        each.write_text("half")
    for each in (old, other):
        os.utime(each, (1.0, 1.0))
    write_whole(target, "whole")
    assert sorted(tmp_path.iterdir()) == sorted([young, other, target])
