"""A file that is there whole or not at all, on the disk before it has its name."""

import os

import pytest

from jaxdlm import whole
from jaxdlm.whole import TEMPORARY, whole_file


def test_it_takes_the_place_of_the_old_one_at_the_end(tmp_path, monkeypatch):
    target, synced = tmp_path / "a", []
    target.write_bytes(b"old")
    monkeypatch.setattr(whole.os, "fsync", lambda handle: synced.append(target.read_bytes()))
    with whole_file(target) as file:
        file.write(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new" and synced[0] == b"old", "synced before it had its name"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_what_is_not_finished_leaves_nothing(tmp_path, error):
    target = tmp_path / "a"
    target.write_bytes(b"old")
    with pytest.raises(type(error)), whole_file(target) as file:
        file.write(b"half")
        raise error
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


def test_two_writers_do_not_meet_and_one_writes_over_what_a_kill_has_left(tmp_path):
    target = tmp_path / "a"
    with whole_file(target) as one, whole_file(target) as other:
        assert one.name != other.name
    (tmp_path / f"{TEMPORARY}a").write_bytes(b"left by a kill")
    with whole_file(target, target.name) as file:
        file.write(b"new")
    assert target.read_bytes() == b"new" and os.listdir(tmp_path) == ["a"]


def test_a_link_is_refused_where_there_is_a_file(tmp_path):
    target = tmp_path / "a"
    target.write_bytes(b"old")
    with pytest.raises(FileExistsError), whole_file(target, place=os.link) as file:
        file.write(b"new")
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]
