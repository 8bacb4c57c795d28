"""Tiny checkpoint folders for the tests."""

import json
import pathlib

import jax
import numpy as np

from jaxdlm.checkpoint.safetensors import write_safetensors

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def hub_folder(
    folder: pathlib.Path, files: dict[str, np.ndarray], config: dict, shards: int = 1, metadata: dict | None = None
) -> pathlib.Path:
    """A Hugging Face folder, with an index where there are several shards."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        write_safetensors(folder / "model.safetensors", files, metadata)
        return folder
    names = list(files)
    weights = {}
    for number in range(shards):
        shard = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = names[number::shards]
        write_safetensors(folder / shard, {name: files[name] for name in part})
        weights |= dict.fromkeys(part, shard)
    total = sum(array.nbytes for array in files.values())
    index = {"metadata": {"total_size": total}, "weight_map": weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def golden(name: str) -> tuple[dict[str, np.ndarray], dict]:
    """(tensors, config.json) of a recorded checkpoint."""
    from jaxdlm.checkpoint.safetensors import open_safetensors

    folder = GOLDEN / f"{name}_tiny"
    file = open_safetensors(folder / "model.safetensors")
    return {key: file.read(key) for key in file.tensors}, json.loads((folder / "config.json").read_text())


def assert_trees_equal(a, b) -> None:
    """Bit for bit, dtype included."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        x, y = np.asarray(x), np.asarray(y)
        assert x.dtype == y.dtype
        assert np.array_equal(np.atleast_1d(x).view(np.uint8), np.atleast_1d(y).view(np.uint8))
