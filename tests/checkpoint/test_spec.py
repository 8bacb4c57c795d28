"""spec.json: an exact inverse of what is written, and every field held against its kind."""

import json

import pytest

from jaxdlm.checkpoint.errors import CheckpointError
from jaxdlm.checkpoint.spec import SPEC, Spec, StoredLeaf, _digest, read_spec, write_json, write_spec
from tests.models.configs import BASE

LEAVES = (
    StoredLeaf("embed", (61, 32), "float32", False, (0,), (2**32 - 1,)),
    StoredLeaf("segments/0/0/wq", (3, 32, 4, 8), "bfloat16", True, (0, 1, 1), (1, 2, 3)),
)
HOSTILE = (None, [], [1], [-1], ["1"], [2**70], [1.0], {}, "x", "", "3", True, 0, -1, 0.5, 2**70, 10**3000)


@pytest.fixture
def folder(tmp_path):
    write_spec(tmp_path, Spec(BASE, LEAVES, "0" * 64))
    return tmp_path


def rewritten(folder, change) -> None:
    """With a checksum that agrees: what is wrong is the field."""
    values = json.loads((folder / SPEC).read_text())
    del values["sha256"]
    change(values)
    write_json(folder / SPEC, values | {"sha256": _digest(values)})


def test_what_is_written_is_read(folder):
    assert read_spec(folder) == Spec(BASE, LEAVES, "0" * 64)


@pytest.mark.parametrize("field", ["config", "leaves", "manifest_sha256", "family", "format", "version"])
def test_a_field_of_another_kind_is_refused(folder, field):
    original = (folder / SPEC).read_text()
    for value in HOSTILE:
        if (field in ("manifest_sha256", "family") and isinstance(value, str)) or (field == "leaves" and value == []):
            continue
        (folder / SPEC).write_text(original)
        rewritten(folder, lambda values, value=value: values.update({field: value}))
        with pytest.raises(CheckpointError, match="convert the checkpoint again") as caught:
            read_spec(folder)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("field", ["path", "shape", "dtype", "split", "groups", "sums"])
def test_a_field_of_a_leaf_of_another_kind_is_refused(folder, field):
    original = (folder / SPEC).read_text()
    for value in HOSTILE:
        fits = {
            "path": isinstance(value, str),
            "groups": value == [1],
            "sums": value == [1],
            "shape": value in ([], [1]),
        }
        if fits.get(field):
            continue
        (folder / SPEC).write_text(original)
        rewritten(folder, lambda values, value=value: values["leaves"][0].update({field: value}))
        with pytest.raises(CheckpointError, match="convert the checkpoint again") as caught:
            read_spec(folder)
        line = str(caught.value)
        assert f"leaves[0].{field}" in line or f"leaves[0] has no {field}" in line or "embed" in line
        assert "\n" not in line and len(line) < 600


def test_a_negative_side_is_refused_before_anything_reads_it(folder):
    rewritten(folder, lambda values: values["leaves"][1].update(shape=[3, -1, 4, 8]))
    with pytest.raises(CheckpointError, match=r"leaves\[1\]\.shape\[1\]=-1: must be a whole number, at least 1"):
        read_spec(folder)
