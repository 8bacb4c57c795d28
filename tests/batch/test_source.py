"""Input files that are damaged, endless or unpack to gigabytes: named, and never held in memory."""

import bz2
import gzip
import json
import lzma
import os
import tracemalloc
import zipfile

import pytest

from jaxdlm.batch import source
from jaxdlm.batch.rows import Defaults, Refusal, read
from jaxdlm.errors import InputError
from tests.conformance.toy_models import model

GOOD = json.dumps({"id": "a", "tokens": [3, 4]}).encode() + b"\n"
DEFAULTS = Defaults(max_new=8, seed=0)


def found(path):
    return [read(raw, model("same"), DEFAULTS, {}) for raw in source.source(str(path)).rows()]


def test_a_line_without_end_is_its_own_error_row(tmp_path):
    """Half a gigabyte that unpacks from half a megabyte: one row is refused, its neighbours are read."""
    path = tmp_path / "in.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(GOOD)
        for _ in range(64):
            file.write(b"x" * (1 << 21))
        file.write(b"\n" + GOOD)
    assert path.stat().st_size < 1 << 21
    tracemalloc.start()
    index = source.scan(str(path))
    rows = found(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (index.rows, index.duplicates) == (3, {2: 1})
    assert [isinstance(row, Refusal) for row in rows] == [False, True, False]
    assert "line 2 has 134217728 bytes, more than" in rows[1].message
    assert peak < 4 * source.LONGEST


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_lines_are_those_of_the_file_however_it_comes(tmp_path, monkeypatch, step):
    data = b"\xef\xbb\xbf" + GOOD + b"\r\n  \n" + GOOD[:-1] + b"\r\n" + b"x" * 50 + b"\n" + GOOD[:-2]
    (tmp_path / "in.jsonl").write_bytes(data)
    monkeypatch.setattr(source, "STEP", step)
    monkeypatch.setattr(source, "LONGEST", 40)
    rows = list(source.source(str(tmp_path / "in.jsonl")).rows())
    assert [(raw.row, raw.line, raw.last) for raw in rows] == [
        (0, 1, False),
        (1, 4, False),
        (2, 5, False),
        (3, 6, True),
    ]
    assert rows[0].value == GOOD[:-1] and rows[1].value == GOOD[:-1] + b"\r" and rows[3].value == GOOD[:-2]
    assert "line 5 has 50 bytes, more than 40" in str(rows[2].value)


def _zip(path, data=None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        if data is not None:
            archive.writestr("in.jsonl", data)


def _flipped(path):
    _zip(path, GOOD * 100)
    data = bytearray(path.read_bytes())
    data[45:60] = b"\xff" * 15
    path.write_bytes(data)


BAD = {
    "words.xz": lambda path: path.write_bytes(b"words"),
    "cut.xz": lambda path: path.write_bytes(lzma.compress(bytes(range(256)) * 99)[:100]),
    "changed.xz": lambda path: path.write_bytes(lzma.compress(GOOD * 99)[:-30] + b"z" * 30),
    "words.bz2": lambda path: path.write_bytes(b"words"),
    "cut.bz2": lambda path: path.write_bytes(bz2.compress(bytes(range(256)) * 99)[:100]),
    "words.zip": lambda path: path.write_bytes(b"PK\x03\x04words"),
    "empty.zip": _zip,
    "changed.zip": _flipped,
    "pipe.jsonl": os.mkfifo,
    "device.jsonl": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("name", BAD)
def test_inputs_that_are_refused(tmp_path, name):
    BAD[name](tmp_path / name)
    with pytest.raises(InputError, match=r"input .*(is damaged|cannot be read|is not a regular file)") as caught:
        source.scan(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_sound_archive(tmp_path):
    _zip(tmp_path / "in.zip", GOOD)
    (tmp_path / "in.xz").write_bytes(lzma.compress(GOOD))
    assert source.scan(str(tmp_path / "in.zip")) == source.scan(str(tmp_path / "in.xz"))
