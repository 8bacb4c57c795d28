"""The safetensors reader against the safetensors package, and every way a file can lie."""

import json
import os

import ml_dtypes
import numpy as np
import pytest

from jaxdlm.checkpoint import errors
from jaxdlm.checkpoint.safetensors import SafetensorsWriter, open_safetensors, write_safetensors


def _arrays():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(6, 5)).astype(np.float32)
    return {
        "a.weight": values,
        "b.weight": values.astype(ml_dtypes.bfloat16),
        "c": values.astype(np.float16),
        "scalar": np.asarray(3.0, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "ids": np.arange(7, dtype=np.int64),
    }


def test_reads_what_the_package_writes(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    arrays = {name: array for name, array in _arrays().items() if array.dtype != ml_dtypes.bfloat16}
    library.save_file(arrays, tmp_path / "x.safetensors", metadata={"format": "pt"})
    file = open_safetensors(tmp_path / "x.safetensors")
    assert set(file.tensors) == set(arrays) and file.metadata == {"format": "pt"}
    for name, array in arrays.items():
        got = file.read(name)
        assert got.dtype == array.dtype and np.array_equal(got, array)


def test_the_package_reads_what_we_write(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    write_safetensors(tmp_path / "x.safetensors", _arrays())
    loaded = library.load_file(tmp_path / "x.safetensors")
    for name, array in _arrays().items():
        assert np.array_equal(loaded[name].reshape(-1).view(np.uint8), np.asarray(array).reshape(-1).view(np.uint8)), (
            name
        )


def test_rows_touch_only_their_bytes(tmp_path):
    write_safetensors(tmp_path / "x.safetensors", _arrays())
    file = open_safetensors(tmp_path / "x.safetensors")
    for name in ("a.weight", "b.weight"):
        assert np.array_equal(file.read(name, (2, 5)), _arrays()[name][2:5])


def test_a_failed_write_leaves_nothing(tmp_path):
    entries = {"a": (np.dtype(np.float32), (2,)), "b": (np.dtype(np.float32), (2,))}
    with pytest.raises(KeyboardInterrupt):
        with SafetensorsWriter(tmp_path / "x.safetensors", entries) as writer:
            writer.write("a", np.zeros(2, np.float32))
            raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def _file(path, header: bytes, data: bytes = b"", length: int | None = None):
    count = len(header) if length is None else length
    path.write_bytes(count.to_bytes(8, "little") + header + data)


def _entry(shape, offsets, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def _json(entries):
    return json.dumps(entries).encode()


ONE = _entry([2], [0, 8])
BAD = {
    "empty file": (lambda p: p.write_bytes(b""), errors.TruncatedFile, "too short"),
    "two bytes": (lambda p: p.write_bytes(b"ab"), errors.TruncatedFile, "too short"),
    "huge header": (lambda p: _file(p, b"{}", length=2**62), errors.HeaderInvalid, "claims a header"),
    "header beyond file": (lambda p: _file(p, b"{}", length=500), errors.TruncatedFile, "inside its header"),
    "truncated data": (lambda p: _file(p, _json({"t": ONE}), b"1234"), errors.TruncatedFile, "truncated"),
    "trailing bytes": (lambda p: _file(p, _json({"t": ONE}), b"123456789"), errors.TruncatedFile, "trailing"),
    "not json": (lambda p: _file(p, b"{nope"), errors.HeaderInvalid, "not valid JSON"),
    "not utf-8": (lambda p: _file(p, b'{"\xff":1}'), errors.HeaderInvalid, "not valid JSON"),
    "deep json": (lambda p: _file(p, b"[" * 200000), errors.HeaderInvalid, "not valid JSON"),
    "a list": (lambda p: _file(p, b"[]"), errors.HeaderInvalid, "object"),
    "duplicate key": (
        lambda p: _file(p, b'{"t":%s,"t":%s}' % (_json(ONE), _json(ONE)), bytes(8)), errors.HeaderInvalid, "twice"),
    "overlap": (lambda p: _file(p, _json({"t": ONE, "u": _entry([2], [4, 12])}), bytes(12)),
                errors.HeaderInvalid, "overlaps"),
    "hole": (lambda p: _file(p, _json({"t": ONE, "u": _entry([2], [12, 20])}), bytes(20)),
             errors.HeaderInvalid, "hole"),
    "range too small": (lambda p: _file(p, _json({"t": _entry([3], [0, 8])}), bytes(8)), errors.HeaderInvalid, "fill"),
    "overflowing dims": (lambda p: _file(p, _json({"t": _entry([2**62, 4], [0, 0])})), errors.HeaderInvalid, "fill"),
    "negative dim": (lambda p: _file(p, _json({"t": _entry([-2], [0, 8])}), bytes(8)), errors.HeaderInvalid, "shape"),
    "float dim": (lambda p: _file(p, _json({"t": _entry([2.0], [0, 8])}), bytes(8)), errors.HeaderInvalid, "shape"),
    "backward offsets": (lambda p: _file(p, _json({"t": _entry([2], [8, 0])}), bytes(8)), errors.HeaderInvalid,
                         "data_offsets"),
    "unknown dtype": (lambda p: _file(p, _json({"t": _entry([2], [0, 8], "Q4")}), bytes(8)), errors.DtypeUnsupported,
                      "Q4"),
    "extra key": (lambda p: _file(p, _json({"t": {**ONE, "x": 1}}), bytes(8)), errors.HeaderInvalid, "exactly"),
    "parent path": (lambda p: _file(p, _json({"../t": ONE}), bytes(8)), errors.UnsafePath, "safe tensor name"),
    "absolute path": (lambda p: _file(p, _json({"/t": ONE}), bytes(8)), errors.UnsafePath, "safe tensor name"),
    "NUL": (lambda p: _file(p, _json({"t\0": ONE}), bytes(8)), errors.UnsafePath, "safe tensor name"),
    "metadata": (lambda p: _file(p, _json({"__metadata__": {"a": 1}})), errors.HeaderInvalid, "__metadata__"),
    "missing": (lambda p: None, errors.HeaderInvalid, "does not exist"),
    "symlink loop": (lambda p: p.symlink_to(p), errors.UnsafePath, "resolved"),
    "directory": (lambda p: p.mkdir(), errors.UnsafePath, "regular"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_by_name(case, tmp_path):
    make, kind, words = BAD[case]
    path = tmp_path / "model.safetensors"
    make(path)
    with pytest.raises(kind, match=words) as caught:
        open_safetensors(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and isinstance(caught.value, ValueError)


def test_links_out_of_the_folder_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    write_safetensors(tmp_path / "x.safetensors", _arrays())
    (tmp_path / "in" / "model.safetensors").symlink_to(tmp_path / "x.safetensors")
    with pytest.raises(errors.UnsafePath, match="outside"):
        open_safetensors(tmp_path / "in" / "model.safetensors", tmp_path / "in")


@pytest.mark.parametrize("below", ["", "unet", "a/b"])
def test_links_of_the_hub_cache_are_followed(below, tmp_path):
    """Also from a subfolder of a snapshot; but nowhere else than to the blobs of its repository."""
    repository = tmp_path / "models--a--b"
    folder, blobs = repository / "snapshots" / "abc" / below, repository / "blobs"
    for path in (folder, blobs, tmp_path / "blobs"):
        path.mkdir(parents=True)
        write_safetensors(path / "123", _arrays())
    (folder / "model.safetensors").symlink_to(os.path.relpath(blobs / "123", folder))
    assert "a.weight" in open_safetensors(folder / "model.safetensors", folder).tensors
    for place in (tmp_path / "blobs", repository / "snapshots"):
        write_safetensors(place / "456", _arrays())
        (folder / "other.safetensors").unlink(missing_ok=True)
        (folder / "other.safetensors").symlink_to(os.path.relpath(place / "456", folder))
        with pytest.raises(errors.UnsafePath, match="outside"):
            open_safetensors(folder / "other.safetensors", folder)


def test_fp8_is_named_when_read(tmp_path):
    _file(tmp_path / "x.safetensors", _json({"t": _entry([2], [0, 2], "F8_E4M3")}), bytes(2))
    with pytest.raises(errors.DtypeUnsupported, match=r"'t'.*F8_E4M3"):
        open_safetensors(tmp_path / "x.safetensors").read("t")


@pytest.mark.parametrize("reader", ["filter", "exits", "head"])
def test_parts_of_models_are_read_with_the_same_suspicion(tmp_path, reader):
    from jaxdlm.rules.learn2pd import shipped_filter
    from jaxdlm.speculative.drafters.s2d import read_exits
    from jaxdlm.speculative.drafters.specdec_pp import read_head

    read = {
        "filter": lambda path: shipped_filter(str(path)),
        "exits": lambda path: read_exits(path, None),
        "head": lambda path: read_head(path, None),
    }[reader]
    path = tmp_path / "part.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    with pytest.raises(errors.HeaderInvalid, match=r"part\.safetensors: claims a header"):
        read(path)
