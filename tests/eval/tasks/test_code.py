"""Code: equivalent texts pass, others fail, and the sandbox refuses what it must."""

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


def test_the_sandbox_allows_arithmetic_and_nothing_else():
    assert sandbox.run("def f(x): return sorted(x)", "f", [[2, 1]]) == [[1, 2]]
    assert sandbox.run("def f(x): return open('/etc/hostname').read()", "f", [1]) == ["error PermissionError"]
    assert sandbox.run("import socket", "f", [1]) is None
    assert sandbox.run("def f(x): return 'a' * 10**11", "f", [1]) == ["error MemoryError"]
    assert sandbox.run("def f(x):\n    while True: pass", "f", [1], seconds=0.5) is None
    assert sandbox.run("def f(x): return 1", "g", [1]) != [1]


def test_different_surface_forms_occur():
    forms = {e.answer.split()[0] + str(e.answer.count("\n")) for e in make("code", 60, "train", ops=2)}
    assert {"def1", "def2", "f0"} <= forms
