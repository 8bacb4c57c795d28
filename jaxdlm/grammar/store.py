"""Compiled grammars are kept: the latest in memory, all of them as files beside the compiled programs."""

import collections
import contextlib
import functools
import hashlib
import os
import pathlib
import threading
import zipfile
from collections.abc import Callable

import numpy as np
import platformdirs

from jaxdlm.grammar.grammar import BUCKETS, Grammar
from jaxdlm.grammar.tokens import TokenTable
from jaxdlm.whole import whole_file

IN_MEMORY = 64
ON_DISK = 512  # files; the oldest go
_latest: "collections.OrderedDict[tuple[str, str], Grammar]" = collections.OrderedDict()
_lock = threading.Lock()


def kept(words: str, fingerprint: str, make: Callable[[], TokenTable]) -> Grammar:
    """The grammar of these words for this tokenizer: from memory, from its file, or made and kept in both."""
    key = (words, fingerprint)
    with _lock:
        if key in _latest:
            _latest.move_to_end(key)
            return _latest[key]
    place = folder()
    file = None if place is None else place / f"{_name(words, fingerprint)}.npz"
    table = None if file is None else _read(file, words)
    if table is None:
        table = make()
        if file is not None:
            _write(file, words, table)
    grammar = Grammar(words, fingerprint, *table)
    with _lock:
        _latest[key] = grammar
        while len(_latest) > IN_MEMORY:
            _latest.popitem(last=False)
    return grammar


def forget() -> None:
    """Drops what is in memory."""
    with _lock:
        _latest.clear()


def folder() -> pathlib.Path | None:
    """The folder of the files: `grammars` in JAXDLM_COMPILE_CACHE, else in the user's folder of caches.

    None where that variable is "off" or names a bucket, and where the folder cannot be written to.
    """
    from jaxdlm.core import programs  # brings JAX, which nothing else here needs

    stated = os.environ.get(programs.VARIABLE, "")
    if stated.lower() in programs.OFF or "://" in stated:
        return None
    parent = pathlib.Path(stated).expanduser() if stated else platformdirs.user_cache_path("jaxdlm", appauthor=False)
    return parent / "grammars" if programs.writable(parent / "grammars") else None


@functools.cache
def _compiler() -> str:
    """Letters for the modules that compile: another version of them reads none of the files of this one."""
    digest = hashlib.sha256()
    for module in sorted(pathlib.Path(__file__).parent.glob("*.py")):
        digest.update(module.read_bytes())
    return digest.hexdigest()


def _name(words: str, fingerprint: str) -> str:
    return hashlib.sha256(f"{_compiler()} {fingerprint} {words}".encode()).hexdigest()[:32]


def _read(file: pathlib.Path, words: str) -> TokenTable | None:
    """The table in a file; None where there is none, or it is damaged."""
    try:
        with file.open("rb") as data, np.load(data, allow_pickle=False) as arrays:
            stated = bytes(arrays["words"]).decode()
            table = TokenTable(*(arrays[name] for name in TokenTable._fields))
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile):
        return None
    table = table._replace(start=int(table.start)) if np.shape(table.start) == () else table
    return table if stated == words and _sound(table) else None


def _sound(table: TokenTable) -> bool:
    """Whether every number is inside what it points into, so that no file can lead a loop astray."""
    kinds = [(table.classes, np.int32, 1), (table.next, np.int32, 2), (table.accepting, bool, 1),
             (table.distance, np.int32, 1), (table.forced, np.int32, 1)]  # fmt: skip
    if not isinstance(table.start, int) or any(x.dtype != kind or x.ndim != axes for x, kind, axes in kinds):
        return False
    states, classes = table.next.shape
    return (
        1 <= table.start < states <= BUCKETS[-1] and 1 <= classes <= BUCKETS[-1]
        and table.accepting.shape == table.distance.shape == table.forced.shape == (states,) and not table.next[0].any()
        and not table.next[:, 0].any() and _inside(table.classes, classes) and _inside(table.next, states)
        and _inside(table.forced + 1, table.classes.size + 1)
    )  # fmt: skip


def _inside(array: np.ndarray, size: int) -> bool:
    return array.size > 0 and bool(array.min() >= 0 and array.max() < size)


def _write(file: pathlib.Path, words: str, table: TokenTable) -> None:
    """Writes the file whole or not at all; a full disk costs the file and nothing else."""
    with contextlib.suppress(OSError):
        with whole_file(file) as out:
            np.savez(out, words=np.frombuffer(words.encode(), np.uint8), **table._asdict())
        _drop_oldest(file.parent)


def _drop_oldest(place: pathlib.Path) -> None:
    files = list(place.glob("*.npz"))
    if len(files) > ON_DISK:
        for file in sorted(files, key=lambda each: each.stat().st_mtime)[: len(files) - ON_DISK]:
            file.unlink(missing_ok=True)
