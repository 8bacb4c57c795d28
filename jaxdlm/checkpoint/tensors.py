"""The tensors of a folder by name, whichever shard holds each: the index rules, and nothing read but headers."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from jaxdlm.checkpoint import strict_json
from jaxdlm.checkpoint.errors import (
    DuplicateTensor,
    HeaderInvalid,
    PickleRefused,
    TensorsMismatch,
    UnsafePath,
)
from jaxdlm.checkpoint.safetensors import DTYPES, SHARD_NAME, SafetensorsFile, TensorInfo, open_safetensors

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
SHOWN = 10  # names of a long list that an error message quotes


class Tensors(Protocol):
    """Tensors by name: their headers, and their values in the stored dtype.

    warnings: of what was found amiss in the folder, for the manifest. dropped: name that is not stored -> the stored tensor
    that it shares its memory with, as far as the files say.
    """

    @property
    def infos(self) -> Mapping[str, TensorInfo]: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...
    @property
    def dropped(self) -> Mapping[str, str]: ...
    def file(self, name: str) -> Path: ...
    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray: ...


@dataclass(frozen=True)
class ShardedTensors:
    """The safetensors shards of one folder as one mapping."""

    folder: Path
    infos: Mapping[str, TensorInfo]
    shards: Mapping[str, SafetensorsFile]  # tensor name -> its shard
    warnings: tuple[str, ...] = ()

    @property
    def dropped(self) -> dict[str, str]:
        """As the shards' metadata says.

        safetensors' `save_model` writes it for every name that it drops; other entries of the metadata say nothing.
        """
        twins: dict[str, str] = {}
        for file in self.files:
            for name, twin in file.metadata.items():
                if twin not in file.tensors or name in self.infos:
                    continue
                if twins.setdefault(name, twin) != twin:
                    raise DuplicateTensor(
                        f"was dropped for {twins[name]} and for {twin}", file=file.path, tensor=name,
                        hint="save the checkpoint again",
                    )  # fmt: skip
        return twins

    def scaled(self) -> ShardedTensors:
        """The same, which read FP8, too: for who multiplies it with its scales."""
        files = {file.path: replace(file, scaled=True) for file in self.files}
        return replace(self, shards={name: files[file.path] for name, file in self.shards.items()})

    def file(self, name: str) -> Path:
        """The shard that holds a tensor."""
        return self.shards[name].path

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """One tensor, or the rows [a, b) of its leading axis."""
        return self.shards[name].read(name, rows)

    @property
    def files(self) -> tuple[SafetensorsFile, ...]:
        """Each shard once, by name."""
        return tuple(sorted({file.path: file for file in self.shards.values()}.values(), key=lambda file: file.path))


@dataclass(frozen=True)
class SharedTensors:
    """Tensors of which some go by a second name: `shared` maps it to the name that is stored."""

    inner: Tensors
    shared: Mapping[str, str]

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.inner.warnings

    @property
    def dropped(self) -> Mapping[str, str]:
        return self.inner.dropped

    @functools.cached_property
    def infos(self) -> Mapping[str, TensorInfo]:
        """The stored ones, and each second name with the header of its tensor."""
        return {**self.inner.infos, **{name: self.inner.infos[twin] for name, twin in self.shared.items()}}

    def file(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self.inner.file(self.shared.get(name, name))

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """One tensor, or the rows [a, b) of its leading axis."""
        return self.inner.read(self.shared.get(name, name), rows)


def share(tensors: Tensors, shared: Mapping[str, str]) -> Tensors:
    """The same tensors, with a second name for some."""
    return SharedTensors(tensors, shared) if shared else tensors


def open_tensors(folder: Path, slashes: bool = False) -> ShardedTensors:
    """Map every tensor of a folder to its shard.

    The index wins over a lone model.safetensors; each of its entries must exist in the shard that it names, and each
    header tensor must be in the index. `slashes` allows "/" in tensor names (our own format uses it).
    Raises: HeaderInvalid, TruncatedFile, UnsafePath, DuplicateTensor, TensorsMismatch, PickleRefused.
    """
    index = folder / INDEX
    if index.exists() or index.is_symlink():
        tensors = _indexed(folder, index)
    elif (folder / SINGLE).exists() or (folder / SINGLE).is_symlink():
        tensors = _collect(folder, [open_safetensors(folder / SINGLE, folder)], ())
    else:
        shards = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
        if not shards:
            raise no_tensors(folder)
        tensors = _collect(folder, [open_safetensors(path, folder) for path in shards], ())
    for name in () if slashes else tensors.infos:
        if "/" in name:
            raise UnsafePath(
                "is not a safe tensor name", file=tensors.file(name), tensor=name, hint="rename the tensor"
            )
    return tensors


def no_tensors(folder: Path) -> Exception:
    """Why a folder without safetensors is refused: pickles get their own explanation."""
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        return PickleRefused(
            "is a pickle, which can run code when it is read", file=folder / pickles[0],
            hint="save the model with save_pretrained(safe_serialization=True), or pass --allow-pickle to read it with "
            "torch.load(weights_only=True)",
        )  # fmt: skip
    return HeaderInvalid(
        "holds no *.safetensors", file=folder, hint="give the folder that holds config.json and weights"
    )


def _indexed(folder: Path, index: Path) -> ShardedTensors:
    table = strict_json.read_object(index, folder)
    weights = table.get("weight_map")
    if not isinstance(weights, dict) or not all(isinstance(shard, str) for shard in weights.values()):
        raise HeaderInvalid("weight_map must map tensor names to shard names", file=index)
    for name, shard in weights.items():
        if not SHARD_NAME.fullmatch(shard) or shard.startswith("."):
            raise UnsafePath(
                f"names the shard {shard[:80]!r}", file=index, tensor=name, hint="shards are plain *.safetensors names"
            )
    files = {shard: open_safetensors(folder / shard, folder) for shard in sorted(set(weights.values()))}
    for name, shard in weights.items():
        if name not in files[shard].tensors:
            raise TensorsMismatch(
                "is in the index but not in the shard",
                file=folder / shard,
                tensor=name,
                hint="download the shard again",
            )
    for shard, file in files.items():
        for name in file.tensors:
            if name not in weights:
                raise TensorsMismatch(
                    "is in the shard but not in the index", file=file.path, tensor=name, hint=f"rewrite {INDEX}"
                )
            if weights[name] != shard:
                raise DuplicateTensor(
                    f"is also in {weights[name]}", file=file.path, tensor=name, hint="remove one of the two copies"
                )
    return _collect(folder, list(files.values()), _total(table, files.values(), index))


def _total(table: dict, files: Iterable[SafetensorsFile], index: Path) -> tuple[str, ...]:
    metadata = table.get("metadata")
    stated = metadata.get("total_size") if isinstance(metadata, dict) else None
    actual = sum(info.nbytes for file in files for info in file.tensors.values())
    if stated is None or stated == actual:
        return ()
    return (f"{index.name}: total_size is {stated}, the tensors have {actual} bytes",)


def _collect(folder: Path, files: list[SafetensorsFile], warnings: tuple[str, ...]) -> ShardedTensors:
    infos: dict[str, TensorInfo] = {}
    shards: dict[str, SafetensorsFile] = {}
    for file in files:
        for name, info in file.tensors.items():
            if name in infos:
                raise DuplicateTensor(
                    f"is also in {shards[name].path.name}",
                    file=file.path,
                    tensor=name,
                    hint="remove one of the two copies",
                )
            infos[name], shards[name] = info, file
    return ShardedTensors(folder, infos, shards, warnings)


def compare_names(expected: set[str], present: set[str], file: object, stated: str = "config.json") -> None:
    """Completeness by set arithmetic: TensorsMismatch lists what is missing (with the closest name) and unexpected."""
    missing, extra = sorted(expected - present), sorted(present - expected)
    if not missing and not extra:
        return
    parts = []
    if missing:
        parts.append(
            f"{len(missing)} missing: "
            + ", ".join(_closest(name, extra or sorted(present)) for name in missing[:SHOWN])
        )
    if extra:
        parts.append(f"{len(extra)} unexpected: " + ", ".join(extra[:SHOWN]))
    raise TensorsMismatch(
        f"tensors do not fit {stated}: " + "; ".join(parts), file=file, tensor=None if not missing else missing[0],
        hint=f"check that {stated} and the weights belong together",
    )  # fmt: skip


def _closest(name: str, pool: list[str]) -> str:
    near = difflib.get_close_matches(name, pool[:5000], 1, 0.8)
    return f"{name} (is there: {near[0]})" if near and near[0] != name else name


def ignored(names: Iterable[str], patterns: Iterable[str]) -> dict[str, str]:
    """Names that a glob pattern (only `*` is special) matches whole, with the pattern."""
    rules = [(pattern, re.compile(".*".join(map(re.escape, pattern.split("*"))))) for pattern in patterns]
    return {name: pattern for name in names for pattern, rule in reversed(rules) if rule.fullmatch(name)}


def float_dtype(info: TensorInfo) -> np.dtype | None:
    """The NumPy dtype of a floating tensor, None for anything else."""
    return DTYPES[info.dtype] if info.dtype in ("F64", "F32", "F16", "BF16") else None
