"""Back to safetensors under the original names, bit-equal: shards of at most 5 GB, an index, config and tokenizer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints_convert.staging import check_output
from checkpoints_convert.verify import check_files, read_manifest
from jaxdlm import argument
from jaxdlm.checkpoint import strict_json
from jaxdlm.checkpoint.errors import OutputRefused
from jaxdlm.checkpoint.leaf import FLOATS
from jaxdlm.checkpoint.packed.weight import KEY
from jaxdlm.checkpoint.safetensors import SafetensorsWriter, TensorInfo
from jaxdlm.checkpoint.source import Checkpoint, open_folder
from jaxdlm.checkpoint.spec import SOURCE_CONFIG, TOKENIZER_FILES, write_json
from jaxdlm.checkpoint.tensors import INDEX, SINGLE
from jaxdlm.errors import InputError
from jaxdlm.models.registry import family_named
from jaxdlm.models.table import TensorMap

SHARD_BYTES = 5 * 10**9
Header = dict[str, tuple[np.dtype, tuple[int, ...]]]


def export(converted: Path, out: Path, *, force: bool = False, shard_bytes: int = SHARD_BYTES) -> int:
    """Write the safetensors folder that `converted` was made from; returns the number of tensors.

    Tensors keep the dtype of the conversion (with --dtype keep: the source's, so every tensor is bit-equal), except
    those that the library holds in float32 on purpose, which go back to their source dtype, exactly. A tied head is
    not written. Of a quantised checkpoint the weights that its codes stand for are written. The folder appears under its
    name when it is complete.
    """
    source = open_folder(converted)
    if source.kind != "converted":
        raise InputError(f"{converted}: is not a converted checkpoint; give the folder that checkpoints_convert wrote")
    out = argument.path(out, "OUT").absolute()
    if force and out.exists():
        raise OutputRefused("exists already", file=out, hint="an export never replaces a folder; choose another name")
    check_output(source.folder, out, False)
    manifest = read_manifest(source.folder)
    check_files(source.folder)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        maps = _hub_order(source, manifest)
        count = _write(source, maps, manifest, partial, shard_bytes)
        for name in TOKENIZER_FILES:
            if (source.folder / name).is_file():
                shutil.copyfile(source.folder / name, partial / name)
        _write_config(source.folder / SOURCE_CONFIG, partial / "config.json")
        os.rename(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return count


def _write_config(path: Path, target: Path) -> None:
    """The configuration that the checkpoint had: as it was, but for a layout of quantised weights, which are written whole."""
    if not path.is_file():
        return
    values = strict_json.read_object(path, path.parent)
    if values.pop(KEY, None):
        write_json(target, values)
    else:
        shutil.copyfile(path, target)


def _hub_order(source: Checkpoint, manifest: dict[str, Any]) -> dict[str, list[TensorMap]]:
    """Hub name -> the maps that fill it (several for a fused tensor), layer by layer."""
    names = set(manifest["tensors"])
    entries_by_name: dict[str, list[TensorMap]] = {}
    for entry in family_named(_family(source)).tensors(source.config, names):
        for name in entry.sources:
            entries_by_name.setdefault(name, []).append(entry)
    return dict(sorted(entries_by_name.items(), key=lambda item: _natural(item[0])))


def _family(source: Checkpoint) -> str:
    raw = strict_json.read_object(source.folder / SOURCE_CONFIG, source.folder)
    return "jaxdlm" if raw.get("model_type") == "jaxdlm" else source.config.family


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


class Back:
    """The tensors that a converted checkpoint was made from, under the original names, in float32."""

    def __init__(self, source: Checkpoint):
        self._source = source
        self._manifest = read_manifest(source.folder)
        self._maps = _hub_order(source, self._manifest)
        shapes = {name: tuple(maps[0].source_shape) for name, maps in self._maps.items()}
        sizes = {name: 4 * int(np.prod(shape, dtype=np.int64)) for name, shape in shapes.items()}
        self.infos = {name: TensorInfo(name, "F32", shape, 0, sizes[name]) for name, shape in shapes.items()}

    def file(self, name: str) -> Path:
        """The converted folder."""
        return self._source.folder

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """One tensor, or rows of it."""
        tensor = _rebuild(self._source, name, self._maps[name], np.dtype(np.float32), self.infos[name].shape)
        return tensor if rows is None else tensor[rows[0] : rows[1]]


def _write(
    source: Checkpoint, maps: dict[str, list[TensorMap]], manifest: dict[str, Any], folder: Path, shard_bytes: int
) -> int:
    headers = _shards(source, maps, manifest, shard_bytes)
    single = len(headers) == 1
    weights: dict[str, str] = {}
    total = 0
    for number, header in enumerate(headers):
        name = SINGLE if single else f"model-{number + 1:05d}-of-{len(headers):05d}.safetensors"
        with SafetensorsWriter(folder / name, header) as writer:
            for tensor, (dtype, shape) in header.items():
                writer.write(tensor, _rebuild(source, tensor, maps[tensor], dtype, shape))
                weights[tensor] = name
                total += int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if not single:
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weights})
    return len(weights)


def _shards(
    source: Checkpoint, maps: dict[str, list[TensorMap]], manifest: dict[str, Any], shard_bytes: int
) -> list[Header]:
    headers: list[Header] = [{}]
    filled = 0
    for name, entries in maps.items():
        leaf = source.leaf("/".join(map(str, entries[0].path)))
        stored = FLOATS[manifest["tensors"][name]["dtype"]]
        dtype = stored if manifest["dtype"] == "keep" else leaf.dtype
        size = int(np.prod(entries[0].source_shape, dtype=np.int64)) * dtype.itemsize
        if headers[-1] and filled + size > shard_bytes:
            headers.append({})
            filled = 0
        headers[-1][name] = (dtype, tuple(entries[0].source_shape))
        filled += size
    return headers


def _rebuild(
    source: Checkpoint, name: str, entries: Iterable[TensorMap], dtype: np.dtype, shape: tuple[int, ...]
) -> np.ndarray:
    """One hub tensor from the leaves that it went into."""
    out = np.empty(shape, dtype)
    for entry in entries:
        leaf = source.leaf("/".join(map(str, entry.path)))
        bounds = [slice(None)] * len(leaf.shape)
        if entry.layer is not None:
            bounds[0] = slice(entry.layer, entry.layer + 1)
        number = entry.sources.index(name)
        if entry.op.stack:  # one expert of many: read it alone
            at = 1 if entry.layer is not None else 0
            bounds[at] = slice(number, number + 1)
        value = leaf.read(tuple(bounds)).reshape(entry.shape[1:] if entry.op.stack else entry.shape)
        entry.op.cut(out)[...] = entry.op._replace(stack=False).inverse(value)[0].astype(dtype)
    return out
