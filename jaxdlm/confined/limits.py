"""What a child does to itself before it touches what a stranger wrote, and how it is asked and answers."""

import contextlib
import json
import sys
from typing import Any

IN, OUT = sys.stdin.buffer, sys.stdout.buffer


def confine(memory: int) -> None:
    """No more than so many bytes of memory, no file, no socket, no process. What the system does not offer is left out.

    Everything that is needed must be imported before.
    """
    with contextlib.suppress(ImportError):  # Windows has none of them
        import resource

        limits = {
            resource.RLIMIT_AS: memory, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0, resource.RLIMIT_NPROC: 0,
            resource.RLIMIT_NOFILE: 0,
        }  # fmt: skip
        for limit, value in limits.items():
            with contextlib.suppress(ValueError, OSError):  # macOS knows some of them by name only
                resource.setrlimit(limit, (value, value))


def allow_seconds(seconds: float) -> None:
    """Seconds of processor time from now on; the caller's clock ends a child sooner, unless the caller has died."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        most = int(used.ru_utime + used.ru_stime + seconds) + 2
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def receive() -> Any:
    """The next question. SystemExit where the caller has none, or is gone."""
    head = IN.read(8)
    data = IN.read(int.from_bytes(head, "big")) if len(head) == 8 else b""
    if not data:
        raise SystemExit
    return json.loads(data)


def answer(value: Any) -> None:
    data = json.dumps(value).encode()
    OUT.write(len(data).to_bytes(8, "big") + data)
    OUT.flush()
