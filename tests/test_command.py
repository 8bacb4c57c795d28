"""What a command says and returns where the world is hostile: full disks, narrow encodings, floods of letters, Ctrl-C."""

import errno
import io
import json
import os
import subprocess
import sys

import click
import pytest

from jaxdlm import _start, cli, command
from jaxdlm.errors import LONGEST, InputError, shortened


def ran(action, *arguments):
    @click.command(cls=command.Command)
    @command.traceback
    def act(traceback):
        return action()

    return command.run(act, "prog", list(arguments))


def raising(error):
    def action():
        raise error

    return action


def test_long_messages_keep_the_thing_and_the_fix(capsys):
    message = "the name " + "x" * 100_000 + " is unknown: choose another"
    assert ran(raising(InputError(message))) == command.BAD_INPUT
    line = capsys.readouterr().err
    assert line.startswith("prog: the name xxx") and line.endswith("xxx is unknown: choose another\n")
    assert len(line) < LONGEST + 20
    assert len(str(InputError(message))) <= LONGEST
    assert ran(raising(RuntimeError("y" * 10**6))) == command.FAILED
    assert len(capsys.readouterr().err) < LONGEST + 20
    assert ran(lambda: None, "--" + "z" * 5000) == command.BAD_INPUT
    assert len(capsys.readouterr().err) < LONGEST + 20


@pytest.mark.parametrize("length", [0, 1, 1199, 1200, 1201, 10**6])
def test_shortened(length):
    text = ("ab" * (length // 2 + 1))[:length]
    cut = shortened(text)
    assert len(cut) <= LONGEST and (cut == text) == (length <= LONGEST)
    assert text.startswith(cut[:300]) and text.endswith(cut[-300:])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named(code, capsys):
    assert ran(raising(OSError(code, os.strerror(code), "out/rows"))) == command.FAILED
    assert capsys.readouterr().err == (
        "prog: the disk is full (out/rows): free some space, and run the same command again\n"
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_behind_stdout():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "jaxdlm", "--version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == command.FAILED
    assert done.stderr == "jaxdlm: the disk is full: free some space, and run the same command again\n"


def test_letters_that_stdout_lacks(monkeypatch):
    """Lines of JSON stay JSON, answers stay readable, and nothing raises: ASCII, and half of a surrogate pair in UTF-8."""
    for encoding in ("ascii", "utf-8"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        said = {"text": "naïve 😀 \ud800"}
        assert ran(lambda said=said: print(json.dumps(said, ensure_ascii=False))) == command.OK
        assert json.loads(stream.buffer.getvalue().decode(encoding)) == said


def test_stdin_is_read_as_any_system_writes_it(monkeypatch):
    def typed(data):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="ascii"))
        return cli.read_prompts(["-"])

    assert typed("\ufeffnaïve\r\n\r\n two \n".encode()) == ["naïve", " two "]
    with pytest.raises(InputError, match="line 2 of stdin is not UTF-8 at byte 1"):
        typed(b"a\nb\xff\n")
    monkeypatch.setattr(cli, "LINE", 10)
    with pytest.raises(InputError, match="line 1 of stdin has more than 10 bytes"):
        typed(b"a" * 1000)


def test_an_interrupt_while_modules_are_imported(monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(_start.importlib, "import_module", interrupted)
    assert _start.jaxdlm() == command.INTERRUPTED
    assert capsys.readouterr().err == "jaxdlm: interrupted\n"
    assert _start.convert() == command.INTERRUPTED


def test_commands_begin_there():
    """The scripts that are installed, and `python -m jaxdlm`."""
    scripts = (cli.__file__.rsplit(os.sep, 2)[0]) + "/pyproject.toml"
    with open(scripts) as file:
        text = file.read()
    assert 'jaxdlm = "jaxdlm._start:jaxdlm"' in text and 'jaxdlm-convert = "jaxdlm._start:convert"' in text
    loaded = "import sys, jaxdlm._start; print('click' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_converter_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "checkpoints_convert"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        command.BAD_INPUT, "checkpoints_convert: Missing argument 'SOURCE'; see checkpoints_convert --help\n",
    )  # fmt: skip


def test_a_schema_that_is_no_file_is_named_by_its_option(tmp_path):
    """And nobody is told to download a checkpoint again."""
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(InputError, match=r"^--json-schema .* is no file: give the path"):
            command.language(None, None, str(path), False, None)
