"""Runs a function that a model wrote, on given inputs, in a process of its own that can do little else.

Time limit, memory cap, an empty environment; no files, no processes, no network: the kernel grants no further file
descriptor, and an audit hook refuses the calls, together with every way to the hook itself (frames, code objects).
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

SECONDS = 3.0  # the wall limit of the usual code benchmarks
MEMORY = 512 * 2**20

_RUNNER = """
import json, resource, sys
def main():
    request = json.loads(sys.stdin.read())
    code = compile(request["source"], "answer", "exec")
    for limit, value in ((resource.RLIMIT_AS, request["memory"]), (resource.RLIMIT_CPU, request["seconds"] + 1),
                         (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NPROC, 0),
                         (resource.RLIMIT_NOFILE, 0)):
        resource.setrlimit(limit, (value, value))
    refused = ("open", "socket.", "os.", "subprocess.", "shutil.", "ctypes.", "import", "pty.", "signal.", "mmap.",
               "object.__", "sys.", "gc.", "code.", "function.", "cpython.", "resource.", "marshal.", "pickle.")
    error = PermissionError
    def refuse(event, args):
        if event.startswith(refused):
            raise error(event)
    dumps, write = json.dumps, sys.stdout.write
    names, results = {}, []
    sys.addaudithook(refuse)
    exec(code, names)
    for value in request["inputs"]:
        try:
            results.append(names[request["name"]](value))
        except BaseException as failure:
            results.append("error " + type(failure).__name__)
    write(dumps(results))
main()
"""


def run(
    source: str, name: str, inputs: list[Any], *, seconds: float = SECONDS, memory: int = MEMORY
) -> list[Any] | None:
    """[name(input) for input in inputs] as JSON values; None where it fails, takes too long or returns no JSON."""
    request = {"source": source, "name": name, "inputs": inputs, "seconds": int(seconds) + 1, "memory": memory}
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _RUNNER],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=seconds,
            env={},
            cwd="/",
            check=False,
        )
        return json.loads(done.stdout) if done.returncode == 0 else None
    except (subprocess.TimeoutExpired, json.JSONDecodeError, UnicodeDecodeError):
        return None
