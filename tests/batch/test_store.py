"""Where an output may be: local paths in either spelling, and what is refused in one line."""

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
