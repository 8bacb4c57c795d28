"""Where an output may be: local paths in either spelling, and what is refused in one line."""

import os
import pathlib

import pytest

from jaxdlm.batch.store import Folder, store
from jaxdlm.errors import InputError
from tests.batch.jobs import job, read, rows, write


def test_a_file_url_is_its_path(tmp_path):
    folder = store(f"file://{tmp_path}/with%20space")
    assert isinstance(folder, Folder) and folder.root == pathlib.Path(tmp_path) / "with space"
    assert folder.create("a", b"1") and not folder.create("a", b"2") and folder.get("a") == b"1"
    assert store(f"file://localhost{tmp_path}/x").root == tmp_path / "x"


@pytest.mark.parametrize("where", ["", "file:///", "file://host/x", "~nobody-of-this-name/x", "x" * 5000, "a\0b"])
def test_what_is_no_place_is_refused(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^output") as caught:
        store(where)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    assert not list(tmp_path.iterdir())


def test_a_job_that_is_a_folder_is_named(tmp_path):
    source = write(tmp_path / "in.jsonl", rows(2))
    (tmp_path / "out" / "job.json").mkdir(parents=True)
    with pytest.raises(
        InputError, match=r"job\.json cannot be read \(Is a directory\): remove it, or choose another folder"
    ):
        job(source, tmp_path / "out").run()
    assert job(source, f"file://{tmp_path}/two").run() == 0
    assert len(read(tmp_path / "two")) == 2


def test_empty_folders_of_a_job_go_and_others_stay(tmp_path):
    folder = store(str(tmp_path))
    folder.put("parts/a/1", b"x")
    folder.put("parts/b/1", b"x")
    (tmp_path / "mine").mkdir()
    folder.delete("parts/a/1")
    folder.prune("parts/")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["1", "b", "mine", "parts"]
    folder.delete("parts/b/1")
    folder.prune("parts/")
    folder.prune("parts/")  # another worker's turn
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    folder.put("parts/a/3", b"y")
    assert folder.get("parts/a/3") == b"y"


def test_a_folder_that_vanishes_is_passed_over(tmp_path, monkeypatch):
    """Listed by one worker while another removes it; made again for a file on its way there."""
    folder = store(str(tmp_path))
    folder.put("parts/a/1", b"x")
    folder.put("rows", b"x")
    own = os.scandir

    def gone(path="."):
        if os.fspath(path).endswith("/a"):
            raise FileNotFoundError(path)
        return own(path)

    monkeypatch.setattr(os, "scandir", gone)
    assert folder.names() == {"rows"}
    monkeypatch.undo()

    made, opened = pathlib.Path.mkdir, []

    def taken(path, **named):
        made(path, **named)
        if path.name == "b" and not opened:
            opened.append(path.rmdir())

    monkeypatch.setattr(pathlib.Path, "mkdir", taken)
    folder.put("parts/b/1", b"z")
    assert opened == [None] and folder.get("parts/b/1") == b"z"
