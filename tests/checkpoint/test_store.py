"""A converted folder that somebody else has made: refused by name before anything is allocated or waited for.

`--verify` and `load` judge alike.
"""

import json
import os
import shutil

import numpy as np
import pytest

from checkpoints_convert.convert import convert
from checkpoints_convert.plan import make_plan
from checkpoints_convert.verify import verify
from jaxdlm.checkpoint import load_params, store
from jaxdlm.checkpoint.source import open_folder
from jaxdlm.checkpoint.spec import SPEC, _digest
from jaxdlm.errors import InputError
from tests.convert.folders import GOLDEN

GROUP = "params/0000"
LEAF = f"{GROUP}/embed"
CHUNK = f"{LEAF}/c/0/0"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "sound"
    convert(make_plan(open_folder(GOLDEN / "llada_tiny")), out)
    shutil.copytree(out, out.parent / "elsewhere")
    return out


def spec(change):
    def edit(folder):
        values = json.loads((folder / SPEC).read_text())
        del values["sha256"]
        change(values, next(leaf for leaf in values["leaves"] if leaf["path"] == "embed"))
        (folder / SPEC).write_text(json.dumps(values | {"sha256": _digest(values)}))

    return edit


def metadata(change):
    def edit(folder):
        path = folder / LEAF / "zarr.json"
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return edit


def chunks(shape):
    return metadata(lambda values: values["chunk_grid"]["configuration"].update(chunk_shape=shape))


def instead(name, make):
    def edit(folder):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        make(path)

    return edit


def elsewhere(name):
    """A link to the same thing in another folder."""
    return instead(name, lambda path: path.symlink_to(path.parents[name.count("/") + 1] / "elsewhere" / name))


def both(*edits):
    return lambda folder: [edit(folder) for edit in edits]


def length(size):
    return spec(lambda values, leaf: leaf["shape"].__setitem__(0, size))


BAD = {
    "a shape of -1 in spec.json": (length(-1), "spec.json"),
    "a huge shape in spec.json": (length(2**40), "spec.json"),
    "a huge shape in both": (both(length(2**40), metadata(lambda values: values["shape"].__setitem__(0, 2**40))), "spec"),
    "a huge shape in the metadata": (metadata(lambda values: values["shape"].__setitem__(0, 2**40)), "another shape"),
    "a negative shape": (metadata(lambda values: values["shape"].__setitem__(0, -1)), "another shape"),
    "huge chunks": (chunks([2**40, 128]), "chunks that no conversion makes"),
    "chunks of a fraction": (chunks([1.5, 128]), "without a chunk shape"),
    "chunks of another rank": (chunks([8]), "chunks that no conversion makes"),
    "chunks of one value": (chunks([1, 1]), "another size"),
    "another type": (metadata(lambda values: values.update(data_type="float64")), "another data_type"),
    "another codec": (metadata(lambda values: values["codecs"].append({"name": "gzip"})), "another codecs"),
    "other keys": (
        metadata(lambda values: values.update(chunk_key_encoding={"name": "v2"})), "that a conversion does not write"),
    "metadata that are a list": (instead(f"{LEAF}/zarr.json", lambda path: path.write_text("[]")), "chunk shape"),
    "deep metadata": (instead(f"{LEAF}/zarr.json", lambda path: path.write_text("[" * 99999)), "not valid JSON"),
    "large metadata": (instead(f"{LEAF}/zarr.json", lambda path: path.write_text(" " * 2**21)), "more than 1048576"),
    "metadata of a pipe": (instead(f"{LEAF}/zarr.json", os.mkfifo), "regular"),
    "a chunk of a pipe": (instead(CHUNK, os.mkfifo), "regular"),
    "a chunk of a device": (instead(CHUNK, lambda path: path.symlink_to("/dev/zero")), "regular"),
    "a chunk of a terabyte": (lambda folder: os.truncate(folder / CHUNK, 2**40), "another size"),
    "a chunk from elsewhere": (elsewhere(CHUNK), "outside the checkpoint"),
    "an array from elsewhere": (elsewhere(LEAF), "outside the checkpoint"),
    "a group from elsewhere": (elsewhere(GROUP), "outside the checkpoint"),
    "everything from elsewhere": (elsewhere("params"), "outside the checkpoint"),
    "Orbax's metadata of a pipe": (instead(f"{GROUP}/_METADATA", os.mkfifo), "regular"),
    "Orbax's metadata of a terabyte": (lambda folder: os.truncate(folder / GROUP / "_METADATA", 2**40), "larger than"),
    "a device beside the arrays": (
        lambda folder: (folder / GROUP / "more").symlink_to("/dev/zero"), "regular"),
    "thousands of files beside the arrays": (
        lambda folder: [(folder / GROUP / f"x{number}").touch() for number in range(1001)], "more than 1000 files"),
}  # fmt: skip


def judged(folder):
    """What opening and checking a converted folder says, as `load` does before it reads an array; "" for nothing."""
    try:
        tensors = open_folder(folder).tensors
        for name in tensors.infos:
            tensors.check(name)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("case", BAD)
def test_refused_by_verify_and_by_load(case, sound, tmp_path):
    edit, words = BAD[case]
    folder = tmp_path / "bad"
    shutil.copytree(sound, folder)
    shutil.copytree(sound, tmp_path / "elsewhere")
    edit(folder)
    with pytest.raises(InputError, match=words) as caught:
        verify(folder)
    assert "\n" not in str(caught.value)
    assert judged(folder) == str(caught.value)


def test_links_that_stay_inside(sound, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(sound, folder)
    (folder / "params").rename(folder / "arrays")
    (folder / "params").symlink_to("arrays")
    assert verify(folder) == verify(sound)
    assert not judged(folder)


def test_a_hub_cache_of_links(sound, tmp_path):
    """Every file of a snapshot is a link to a blob beside it."""
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0f", tmp_path / "models--a--b" / "blobs"
    shutil.copytree(sound, snapshot)
    blobs.mkdir()
    for number, path in enumerate(sorted(path for path in snapshot.rglob("*") if path.is_file())):
        shutil.move(path, blobs / str(number))
        path.symlink_to(os.path.relpath(blobs / str(number), path.parent))
    assert verify(snapshot) == verify(sound)
    first = np.asarray(load_params(snapshot)["embed"])
    np.testing.assert_array_equal(first, np.asarray(load_params(sound)["embed"]))


def test_every_chunk_is_read_alone(sound, monkeypatch):
    """`--verify` holds one chunk at a time, however large the array."""
    sizes = []
    original = store.cut

    def cut(shape, chunk, order):
        for index in original(shape, chunk, order):
            sizes.append([part.stop - part.start for part in index])
            yield index

    monkeypatch.setattr(store, "cut", cut)
    stored = open_folder(sound).tensors.parts["embed"]
    store.read_all(stored)
    assert sizes and all(np.prod(size) * stored.dtype.itemsize <= store.CHUNK_BYTES for size in sizes)
