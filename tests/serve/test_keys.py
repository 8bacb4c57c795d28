"""Who may ask, and what the command refuses before a model is loaded."""

import socket

import pytest

from jaxdlm import cli
from jaxdlm.errors import InputError
from jaxdlm.serve.app import host_of
from jaxdlm.serve.keys import VARIABLE, Keys, check_open, read_keys
from jaxdlm.serve.server import files_for


def test_a_key_opens_and_is_never_shown(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text("first-secret\n\n second-secret \n")
    monkeypatch.setenv(VARIABLE, "third-secret")
    keys = read_keys(str(file))
    assert all(keys.open(f"Bearer {number}-secret") for number in ("first", "second", "third"))
    assert keys.open("bearer  first-secret")
    for header in (
        "",
        "Bearer",
        "Bearer ",
        "Bearer first",
        "first-secret",
        "Basic first-secret",
        "Bearer first-secret x",
    ):
        assert not keys.open(header), header
    assert "secret" not in repr(keys) + str(vars(keys).keys())
    assert Keys([]).open("") and not Keys([])


@pytest.mark.parametrize("words", ["short", "with a space in it", "lettres-é-dedans"])
def test_bad_keys_are_refused_without_showing_them(tmp_path, monkeypatch, words):
    monkeypatch.setenv(VARIABLE, words)
    with pytest.raises(InputError, match="an API key has") as caught:
        read_keys(None)
    assert words not in str(caught.value)
    monkeypatch.delenv(VARIABLE)
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(InputError, match="holds no key"):
        read_keys(str(tmp_path / "empty"))
    with pytest.raises(InputError, match="is no file"):
        read_keys(str(tmp_path / "none"))


def test_a_server_that_others_reach_needs_a_key():
    check_open("127.0.0.1", Keys([]))
    check_open("0.0.0.0", Keys(["secret-key"]))
    with pytest.raises(InputError, match="without a key would answer anybody"):
        check_open("0.0.0.0", Keys([]))


@pytest.mark.parametrize(
    ("header", "host"),
    [("127.0.0.1:8000", "127.0.0.1"), ("[::1]:8000", "::1"), ("LOCALHOST", "localhost"), ("", ""), ("a.b:1", "a.b")],
)
def test_the_host_of_a_request(header, host):
    assert host_of(header) == host


def test_what_the_command_refuses(monkeypatch, capsys):
    """Before a model is loaded, in one line with status 2."""
    monkeypatch.delenv(VARIABLE, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        cases = {
            "without a key": ["--host", "0.0.0.0"],
            f"--port {port}": ["--port", port],
            "needs 1000000064 open files": ["--connections", "1000000000"],
            "--stop and --no-stop": ["--stop", "x", "--no-stop"],
            "nothing": ["--policy", "nothing"],
        }
        for words, arguments in cases.items():
            assert cli.main(["serve", "tiny", *arguments]) == cli.BAD_INPUT, words
            told = capsys.readouterr().err
            assert told.count("\n") == 1 and words in told, told
    files_for(1)
