"""rows.jsonl: a line of meta, then one object per row; appended, never rewritten, so a run can go on where it stopped."""

import hashlib
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from jaxdlm.errors import InputError

SCHEMA = 1
FIXED = ("schema", "model", "model_hash", "split", "seed", "G", "K", "stop")  # a run goes on only if these agree

Line = dict[str, Any]


def meta(
    lm: Any, *, split: str, seed: int, canvas: int | None, block: int | None, stop: bool = True, mixture: str = "minibench"
) -> Line:  # fmt: skip
    """The first line: what was run, with what, on what."""
    import jaxdlm

    device = jax.devices()[0]
    return {
        "kind": "meta", "schema": SCHEMA, "version": jaxdlm.__version__, "git": _git(),
        "time": time.strftime("%FT%TZ", time.gmtime()), "device": device.device_kind, "platform": device.platform,
        "device_count": jax.device_count(), "cores": cores(), "load": _load(), "python": platform.python_version(),
        "jax": jax.__version__, "dtype": str(jax.tree.leaves(lm.params)[0].dtype), "model": lm.name,
        "model_hash": model_hash(lm), "tokenizer_hash": _tokenizer_hash(lm), "mixture": mixture, "split": split,
        "seed": seed, "G": canvas, "K": block, "stop": stop, "argv": sys.argv[1:],
    }  # fmt: skip


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _load() -> list[float] | None:
    return [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None


def model_hash(lm: Any) -> str:
    """sha256 over shape, type and the first 64 KiB of every weight."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(lm.params):
        head = np.asarray(leaf.reshape(-1)[: 2**14])
        digest.update(f"{leaf.shape}{leaf.dtype}".encode() + head.tobytes())
    return digest.hexdigest()[:16]


def _tokenizer_hash(lm: Any) -> str | None:
    if lm.tokenizer is None:
        return None
    return hashlib.sha256(lm.tokenizer.backend.to_str().encode()).hexdigest()[:16]


def _git() -> str | None:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=pathlib.Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def read(path: pathlib.Path) -> tuple[Line | None, list[Line]]:
    """(meta, rows) of a file; (None, []) where there is none. A half-written last line is left out."""
    if not path.exists():
        return None, []
    head, lines = None, []
    for number, text in enumerate(path.read_text().splitlines()):
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue  # the process died while it wrote
        if number == 0 and line.get("kind") == "meta":
            head = line
        elif line.get("kind") == "row":
            lines.append(line)
    if head is None:
        raise InputError(f"{path} does not begin with a line of meta: choose another --output")
    return head, lines


def open_for(path: pathlib.Path, head: Line) -> tuple[Any, list[Line]]:
    """(file to append to, rows that are there). Raises InputError where the file belongs to another run."""
    old, lines = read(path)
    if old is not None:
        for name in FIXED:
            if old.get(name) != head[name]:
                raise InputError(
                    f"{path} holds rows with {name}={old.get(name)!r}, this run has {head[name]!r}: choose another --output"
                )
    torn = old is not None and path.read_bytes()[-1:] != b"\n"
    file = path.open("a", encoding="utf-8")
    if torn:
        file.write("\n")
    if old is None:
        append(file, [head])
    return file, lines


def append(file: Any, lines: Iterable[Line]) -> None:
    """One JSON object per line, on disk when this returns."""
    file.write(
        "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":"), default=list) + "\n" for line in lines)
    )
    file.flush()
