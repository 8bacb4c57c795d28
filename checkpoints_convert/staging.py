"""The temporary place of a conversion: a journal of finished groups, one writer at a time, a rename at the end."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from jaxdlm.checkpoint import files
from jaxdlm.checkpoint.errors import OutputRefused
from jaxdlm.checkpoint.spec import SPEC
from jaxdlm.checkpoint.store import group_folder

JOURNAL, LOCK, SUFFIX = "journal.jsonl", "lock", ".partial"


@dataclass
class Staging:
    """An unfinished output. `finished`: group number -> what was recorded about it."""

    folder: Path
    finished: dict[int, dict[str, Any]] = field(default_factory=dict)

    def record(self, group: int, facts: dict[str, Any]) -> None:
        """Note a group as done; the line is on the disk when this returns."""
        self.finished[group] = facts
        with open(self.folder / JOURNAL, "a", encoding="utf-8") as file:
            file.write(json.dumps({"group": group, **facts}) + "\n")
            file.flush()
            os.fsync(file.fileno())


def staging_folder(out: Path) -> Path:
    """Beside the output, on the same disk, so that the last step is one rename."""
    return out.with_name(out.name + SUFFIX)


def check_output(source: Path, out: Path, force: bool) -> None:
    """OutputRefused where OUT exists (without force), is not a checkpoint of ours, or overlaps the source."""
    real = out.resolve()
    if real == source or source.is_relative_to(real) or real.is_relative_to(source):
        raise OutputRefused(f"overlaps the source {source}", file=out, hint="choose a folder outside of it")
    if not out.exists() and not out.is_symlink():
        return
    if not force:
        raise OutputRefused("exists already", file=out, hint="choose another name, or pass --force to replace it")
    ours = out.is_dir() and not out.is_symlink() and ((out / SPEC).is_file() or not any(out.iterdir()))
    if not ours:
        raise OutputRefused("exists and is not a converted checkpoint", file=out, hint="remove it yourself")


@contextmanager
def open_staging(out: Path, fingerprint: str) -> Iterator[Staging]:
    """The staging folder of `out`, with what an interrupted run of the same plan has finished; else empty."""
    folder = staging_folder(out)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _check_ours(folder)
    folder.mkdir(exist_ok=True)
    with files.open_lock(folder / LOCK) as lock:
        _take(lock, folder)
        finished = _read_journal(folder, fingerprint)
        if finished is None:
            for path in folder.iterdir():
                if path.name != LOCK:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            (folder / JOURNAL).write_text(json.dumps({"fingerprint": fingerprint}) + "\n", encoding="utf-8")
        yield Staging(folder, finished or {})


def _check_ours(folder: Path) -> None:
    """OutputRefused for a folder that no conversion has made: it will be emptied."""
    if not os.path.lexists(folder):
        return
    names = set() if folder.is_symlink() or not folder.is_dir() else {path.name for path in folder.iterdir()}
    if folder.is_symlink() or not folder.is_dir() or not (JOURNAL in names or names <= {LOCK}):
        raise OutputRefused("exists and is not a conversion under way", file=folder, hint="remove it yourself")


def _take(lock: BinaryIO, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise OutputRefused("another conversion is writing here", file=folder, hint="wait for it to end") from None


def _read_journal(folder: Path, fingerprint: str) -> dict[int, dict[str, Any]] | None:
    """Finished groups, or None where the journal is absent or belongs to another plan. A torn last line is dropped."""
    try:
        lines = files.read_text(folder / JOURNAL, folder).splitlines()
        if not lines or json.loads(lines[0]) != {"fingerprint": fingerprint}:
            return None
    except (OSError, ValueError):
        return None
    finished = {}
    for line in lines[1:]:
        try:
            facts = json.loads(line)
            number = facts.pop("group")
            if group_folder(folder, number).is_dir():
                finished[number] = facts
        except (ValueError, TypeError, KeyError, AttributeError):
            break
    return finished


def discard(out: Path) -> None:
    """Remove the staging folder: the input was bad, so a rerun could not use it."""
    shutil.rmtree(staging_folder(out), ignore_errors=True)


def publish(staging: Staging, out: Path, force: bool) -> None:
    """Rename the finished folder to its name; with force the old one goes last."""
    for name in (JOURNAL, LOCK):
        (staging.folder / name).unlink(missing_ok=True)
    old = out.with_name(out.name + ".old")
    if force and out.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(out, old)
    os.rename(staging.folder, out)
    shutil.rmtree(old, ignore_errors=True)
