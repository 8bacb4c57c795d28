"""Code: equivalent texts pass, others fail, and the sandbox refuses what it must."""

import pytest

from jaxdlm.eval.task import TASKS, make
from jaxdlm.eval.tasks import sandbox
from jaxdlm.eval.tasks.code import expected


def test_equivalent_and_wrong_programs():
    example = next(e for e in make("code", 40, "train", ops=1, lists=False) if "double" in e.prompt)
    check = TASKS["code"].check
    assert check(example, "def f ( x ) :\n    return x + x").correct
    assert not check(example, "def f ( x ) :\n    return x + 2").correct
    assert not check(example, "def f ( x ) : : return").valid
    assert expected([("double", None), ("subtract", 3)], 5) == 7


@pytest.mark.slow
def test_the_sandbox_allows_arithmetic_and_nothing_else():
    assert sandbox.run("def f(x): return sorted(x)", "f", [[2, 1]]) == [[1, 2]]
    assert sandbox.run("def f(x): return open('/etc/hostname').read()", "f", [1]) == ["error PermissionError"]
    assert sandbox.run("import socket", "f", [1]) is None
    assert sandbox.run("def f(x): return 'a' * 10**11", "f", [1]) == ["error MemoryError"]
    assert sandbox.run("def f(x):\n    while True: pass", "f", [1], seconds=0.5) is None
    assert sandbox.run("def f(x): return 1", "g", [1]) != [1]


FRAME = "def f(x):\n try:\n  1/0\n except Exception as e:\n  g = e.__traceback__.tb_frame.f_back\n"
ESCAPES = {
    "the hook's frame": FRAME + "  return str(g.f_locals)",
    "a generator's frame": "def f(x):\n def g(): yield 1\n return str(g().gi_frame.f_back)",
    "another hook": "import sys\ndef f(x):\n sys.addaudithook(print)\n return sys._getframe(1).f_globals",
    "a loaded module": "import sys\ndef f(x):\n return sys.modules['posix'].system('true')",
    "code of its own": "def f(x):\n return (lambda: 0).__code__.replace(co_consts=(1,))",
    "a new process": "import posix\ndef f(x):\n return posix.fork()",
    "a file": "import posix\ndef f(x):\n return posix.open('/etc/passwd', 0)",
    "limits": "import resource\ndef f(x):\n return resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))",
}


@pytest.mark.parametrize("way", ESCAPES)
def test_no_way_out_of_the_sandbox(way):
    assert sandbox.run(ESCAPES[way], "f", [1]) in (None, ["error PermissionError"])


def test_different_surface_forms_occur():
    forms = {e.answer.split()[0] + str(e.answer.count("\n")) for e in make("code", 60, "train", ops=2)}
    assert {"def1", "def2", "f0"} <= forms
