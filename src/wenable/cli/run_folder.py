"""The folder of a training run: what stands there already, and what a run may do with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its checkpoint, its log and its networks.

    - `path`: `--out`. `resume`, `overwrite`: what the user asked for.

    Raises `ValueError` where a run stands there that nobody asked to go on with or to overwrite.
    """

    path: Path
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise ValueError(
                "`--resume` and `--overwrite` exclude each other: go on, or begin anew"
            )
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"`--out` (={self.path}) is a file; name a folder")
        there = [each.name for each in self._files() if each.exists()]
        if there and not self.resume and not self.overwrite:
            raise ValueError(
                f"`--out` (={self.path}) holds a run already ({', '.join(there)}): `--resume` goes on"
                " with it, `--overwrite` deletes it, or name another folder"
            )
        if there and self.resume and not self.checkpoint.exists():
            raise ValueError(
                f"`--out` (={self.path}) holds a run ({', '.join(there)}) without the checkpoint to go on"
                " from: `--overwrite` deletes it and begins anew, or name another folder"
            )

    @property
    def checkpoint(self) -> Path:
        """What a run goes on from."""
        return self.path / "checkpoint.safetensors"

    @property
    def log(self) -> Path:
        """A row for each epoch."""
        return self.path / "epochs.csv"

    @property
    def network(self) -> Path:
        """The network at the end of the run."""
        return self.path / "net.safetensors"

    @property
    def best(self) -> Path:
        """The network after the best epoch, where that was asked for."""
        return self.path / "best.safetensors"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's logs."""
        return self.path / "tensorboard"

    def begin(self) -> None:
        """Delete the run that is to be overwritten; a run that goes on loses nothing."""
        if self.overwrite:
            for each in self._files():
                each.unlink(missing_ok=True)
            for each in self.tensorboard.glob("events.out.tfevents.*"):
                each.unlink()

    def _files(self) -> tuple[Path, ...]:
        return self.checkpoint, self.log, self.network, self.best
