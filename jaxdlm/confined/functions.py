"""The child that runs a function which a model wrote, on given inputs, and can do little else.

An audit hook refuses files, processes, sockets, imports and every way to the hook itself (frames, code objects); the limits
of the process refuse them once more; and on Linux the kernel refuses every system call but a few (`jaxdlm.confined.calls`).
"""

import importlib
import sys
from typing import Any

from jaxdlm.confined import calls, limits

REFUSED = (
    "open", "socket.", "os.", "subprocess.", "shutil.", "ctypes.", "import", "pty.", "signal.", "mmap.", "object.__",
    "sys.", "gc.", "code.", "function.", "cpython.", "resource.", "marshal.", "pickle.",
)  # fmt: skip


class Nowhere:
    """Where the function prints to."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


def main() -> None:
    limits.answer("ready")
    question = limits.receive()
    code = compile(question["source"], "answer", "exec")
    for module in question.get("modules", ()):  # an import of what is loaded reads no file
        importlib.import_module(module)
    limits.confine(question["memory"])
    limits.allow_seconds(question["seconds"])
    calls.restrict()
    _run(code, question["name"], question["inputs"], limits.answer)


def _run(code: Any, name: str, inputs: list[Any], answer: Any) -> None:
    refused, error = REFUSED, PermissionError

    def refuse(event: str, args: Any) -> None:
        if event.startswith(refused):
            raise error(event)

    names: dict[str, Any] = {}
    results = []
    sys.stdout = sys.stderr = Nowhere()  # type: ignore[assignment]
    sys.addaudithook(refuse)
    exec(code, names)
    for value in inputs:
        try:
            results.append(names[name](value))
        except BaseException as failure:
            results.append("error " + type(failure).__name__)
    answer(results)
