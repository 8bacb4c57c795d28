"""What a model wrote, run: results, failures, and that the kernel refuses what the interpreter has no hook for."""

import sys

import pytest

from jaxdlm.errors import InputError
from jaxdlm.eval.tasks import sandbox

REFUSED = ("error PermissionError", "error RuntimeError")
# calls that raise no audit event, so that only the kernel can refuse them
CALLS = [
    "stat('/etc/passwd').st_size", "readlink('/proc/self/exe')", "getcwd()", "mkfifo('/tmp/x')", "mknod('/tmp/x')",
    "chroot('/')", "setuid(1000)", "sched_setscheduler(0, 0, posix.sched_param(0))", "uname()[1]", "pipe()",
]  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="a filter of system calls")
def test_the_kernel_refuses_every_other_call():
    """In one process: each of them is refused, and the interpreter goes on."""
    tries = [f"lambda: posix.{call}" for call in CALLS] + ["lambda: _thread.start_new_thread(int, ())"]
    source = (
        "import posix, _thread\n"
        f"TRIES = [{', '.join(tries)}]\n"
        "def f(at): return TRIES[at]()\n"
    )  # fmt: skip
    found = sandbox.run(source, "f", list(range(len(tries))), seconds=20)
    assert found is not None and set(found) <= set(REFUSED), found


@pytest.mark.slow
def test_failures_are_none():
    assert sandbox.run("def f(x): return 'a' * (1 << 21)", "f", [1]) is None
    assert sandbox.run("def f(x): return 10**5000", "f", [1]) is None
    assert sandbox.run("def f(x):\n while True: print('a' * 10**6)", "f", [1], seconds=0.5) is None


def test_the_share_of_cases_that_pass():
    """One that raises is wrong, and takes no other with it; a program that does not run passes none."""
    cases = [(1, 2), (3, 6), (0, 0), ("a", 5)]
    assert sandbox.passed("f = lambda x: x + x", "f", cases) == 0.75
    assert sandbox.passed("f = lambda x: 2 // x * 2 if x < 3 else 6", "f", cases[:3]) == pytest.approx(1 / 3)
    assert sandbox.passed("f = (", "f", cases) == sandbox.passed("f = 1", "f", []) == 0.0


def test_lists_only():
    source = "import posix\ndef f(x):\n posix.write(1, (2).to_bytes(8, 'big') + b'{}')\n return x"
    assert sandbox.run(source, "f", [1]) is None


def test_systems_without_limits(monkeypatch):
    monkeypatch.setattr(sandbox.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="Linux or macOS"):
        sandbox.run("def f(x): return x", "f", [1])
