"""A child answers, is bounded in what it answers and how long that takes, and is gone afterwards."""

import sys

import pytest

from jaxdlm import confined
from jaxdlm.confined import Child, Died
from jaxdlm.errors import InputError

RETURN = {"source": "def f(x): return x", "name": "f", "inputs": [[1, "é", None]], "seconds": 5, "memory": 2**29}


def asked(most=2**20, seconds=20.0, **changes):
    child = Child("functions", most)
    try:
        return child.ask(RETURN | changes, seconds)
    finally:
        child.close()
        assert not child.alive()


def writing(data: str) -> str:
    """A function that writes bytes where its answer goes."""
    return f"import posix\ndef f(x):\n data = {data}\n posix.write(1, data)\n return x"


def test_an_answer():
    assert asked() == [[1, "é", None]]
    assert asked(source="def f(x):\n print('not an answer')\n return x") == [[1, "é", None]]


@pytest.mark.parametrize(
    "source",
    [
        "def f(x): return 'a' * 2000000",
        writing("b'\\xff' * 8"),
        writing("len(x).to_bytes(8, 'big') + b'no'"),
        writing("(100000).to_bytes(8, 'big') + b'[' * 100000"),
        writing("(5002).to_bytes(8, 'big') + b'[' + b'9' * 5000 + b']'"),
        writing("(2).to_bytes(8, 'big') + b'\\xff\\xfe'"),
        "def f(x):\n import posix\n posix._exit(0)",
        "def f(x):\n y = []\n for i in range(10**5): y = [y]\n return y",
        "def f(x): return 10**5000",
        "def f(x): return {1}",
        "def f(x: :",
    ],
    ids=[
        "large",
        "a length alone",
        "no JSON",
        "deep",
        "digits",
        "no text",
        "an end",
        "nested",
        "long",
        "a set",
        "no code",
    ],
)
def test_what_is_no_answer(source):
    with pytest.raises(Died):
        asked(source=source)


@pytest.mark.parametrize("source", ["def f(x):\n while True: pass", "def f(x):\n while True: print('a' * 9999)"])
def test_time(source):
    with pytest.raises(TimeoutError):
        asked(source=source, seconds=0.3)


def test_an_interpreter_that_does_not_start(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(InputError, match="no process can be started"):
        asked()
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with pytest.raises(InputError, match="/bin/true does not start"):
        asked()


def test_the_environment_is_empty(monkeypatch):
    """No secret of the caller is told to what a stranger wrote."""
    monkeypatch.setenv("SECRET", "a key")
    source = "import posix\ndef f(x): return sorted(map(str, posix.environ))"
    assert set(asked(source=source)[0]) <= {str(name.encode()) for name in (*confined.PASSED, "LC_CTYPE")}
