"""Only regular files are opened, inside the folder, of bounded size; nothing that could wait is waited for."""

import os

import pytest

from jaxdlm.checkpoint import errors, files

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "a").write_text("words")
    (tmp_path / "outside").write_text("secret")
    return inside


REFUSED = {
    "absent": (lambda path: None, errors.HeaderInvalid, "does not exist"),
    "a pipe": (os.mkfifo, errors.UnsafePath, "regular"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), errors.UnsafePath, "regular"),
    "a folder": (lambda path: path.mkdir(), errors.UnsafePath, "regular"),
    "a link out": (lambda path: path.symlink_to("../outside"), errors.UnsafePath, "outside the checkpoint"),
    "a loop": (lambda path: path.symlink_to(path), errors.UnsafePath, "resolved"),
    "too large": (lambda path: path.write_bytes(b"x" * 11), errors.HeaderInvalid, "11 bytes, more than 10"),
    "sparse": (lambda path: (path.touch(), os.truncate(path, 2**40)), errors.HeaderInvalid, "more than 10"),
    "no text": (lambda path: path.write_bytes(b"ab\xff"), errors.HeaderInvalid, "not UTF-8 at byte 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(folder, case):
    make, kind, words = REFUSED[case]
    make(folder / "b")
    with pytest.raises(kind, match=words) as caught:
        files.read_text(folder / "b", folder, most=10)
    assert str(folder / "b") in str(caught.value)


def test_what_is_read(folder):
    (folder / "link").symlink_to("a")
    assert files.read_text(folder / "link", folder) == "words"
    assert files.size_of(folder / "a", folder) == 5
    files.copy(folder / "a", folder / "copy", folder)
    assert (folder / "copy").read_text() == "words"


def test_a_pipe_that_takes_a_files_place_is_not_waited_for(folder, monkeypatch):
    seen = os.stat(folder / "a")
    os.remove(folder / "a")
    os.mkfifo(folder / "a")
    monkeypatch.setattr(files, "_look", lambda path, inside: (path, seen))
    with pytest.raises(errors.UnsafePath, match="regular"):
        files.open_file(folder / "a", folder)


LOCKS = {
    "a pipe": (os.mkfifo, "regular"),
    "a link": (lambda path: path.symlink_to("../outside"), "regular"),
    "a folder": (lambda path: path.mkdir(), "regular"),
}


@pytest.mark.parametrize("case", LOCKS)
def test_locks(folder, case):
    make, words = LOCKS[case]
    make(folder / "lock")
    with pytest.raises(errors.OutputRefused, match=words):
        files.open_lock(folder / "lock")
    assert (folder.parent / "outside").read_text() == "secret"


def test_a_lock_keeps_what_it_holds(folder):
    for name in ("a", "new"):
        with files.open_lock(folder / name):
            pass
    assert (folder / "a").read_text() == "words" and (folder / "new").read_bytes() == b""
