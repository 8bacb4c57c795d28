"""Work on what strangers wrote, in a process of its own: its time, its memory and its answer are bounded.

`Child` is a fresh interpreter (never a fork: JAX's threads and devices stay with the caller) that has imported one module
of this package and limited itself as `jaxdlm.confined.limits` says. It costs a start once and some 50 us per question,
whatever the platform; what only one system offers (limits of memory, a filter of system calls) is added where it is there.
"""

import contextlib
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
from typing import Any

from jaxdlm.errors import InputError

START = 60.0  # seconds that a start may take on a busy machine
PASSED = ("SYSTEMROOT", "LD_LIBRARY_PATH")  # without them an interpreter may not start; nothing else is passed on
ROOT = pathlib.Path(__file__).parents[1]
# `jaxdlm` becomes a package without its __init__, so that a child imports its own module and no more
BOOT = """
import importlib, json, sys, types
root, paths, entry = json.loads(sys.argv[1])
sys.path[:] = paths
sys.modules["jaxdlm"] = package = types.ModuleType("jaxdlm")
package.__path__ = [root]
importlib.import_module(entry).main()
"""


class Died(Exception):
    """The child ended or said what is no answer."""


class Child:
    """A process that answers questions, one after another.

    Args: module: name of the module of `jaxdlm.confined` whose `main` it runs; most: bytes that an answer may have.
    It starts at once, and is waited for by the first question. Raises InputError where it does not start.
    """

    def __init__(self, module: str, most: int) -> None:
        self._most = most
        self._answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        told = json.dumps([str(ROOT), [str(path) for path in sys.path if path], f"jaxdlm.confined.{module}"])
        own_group: dict[str, Any] = {"process_group": 0} if os.name == "posix" else {}  # Ctrl-C is the caller's
        try:
            self._process = subprocess.Popen(
                [sys.executable or "python", "-I", "-S", "-c", BOOT, told],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=os.sep,
                env={name: os.environ[name] for name in PASSED if name in os.environ}, **own_group,
            )  # fmt: skip
        except OSError as error:
            raise InputError(
                f"no process can be started for {module} ({error.strerror}): allow this user one"
            ) from None
        questions, replies = self._process.stdin, self._process.stdout
        assert questions is not None and replies is not None
        self._questions, self._replies = questions, replies
        threading.Thread(target=self._read, daemon=True, name=f"confined {module}").start()
        self._ready = False

    def ask(self, question: Any, seconds: float) -> Any:
        """The answer to a question; both are JSON. Raises TimeoutError or Died, and the child is no more."""
        data = json.dumps(question).encode()
        self._meet()
        try:
            self._questions.write(len(data).to_bytes(8, "big") + data)
            self._questions.flush()
        except OSError:
            self.close()
            raise Died from None
        except BaseException:
            self.close()
            raise
        return self._answer(seconds)

    def _meet(self) -> None:
        try:
            self._ready = self._ready or bool(self._answer(START))
        except (Died, TimeoutError):
            raise InputError(
                f"{sys.executable} does not start with jinja2 and the limits of jaxdlm.confined: is it this Python?"
            ) from None

    def _answer(self, seconds: float) -> Any:
        try:
            data = self._answers.get(timeout=seconds)
            if data is None:
                raise Died
            return json.loads(data)
        except queue.Empty:
            self.close()
            raise TimeoutError from None
        except (ValueError, RecursionError, MemoryError):  # no JSON, nested too deeply, numbers of thousands of digits
            self.close()
            raise Died from None
        except BaseException:  # an interrupt: the answer would be taken for that of the next question
            self.close()
            raise

    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """Ends the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._questions, self._replies):
            with contextlib.suppress(OSError):  # what it was told last, and has not read
                pipe.close()

    def _read(self) -> None:
        """Hands on answers of at most `most` bytes; None ends them."""
        pipe = self._replies
        try:
            while len(head := pipe.read(8)) == 8 and (size := int.from_bytes(head, "big")) <= self._most:
                data = pipe.read(size)
                if len(data) < size:
                    break
                self._answers.put(data)
        except (OSError, ValueError, MemoryError):
            pass
        self._answers.put(None)
