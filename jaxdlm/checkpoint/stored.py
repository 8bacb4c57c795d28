"""The parts of a converted checkpoint as tensors by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from jaxdlm.checkpoint import store
from jaxdlm.checkpoint.leaf import STORED
from jaxdlm.checkpoint.safetensors import NAMES, TensorInfo
from jaxdlm.checkpoint.spec import Spec, StoredLeaf


@dataclass(frozen=True)
class StoredTensors:
    """The parts of a converted checkpoint, each readable alone."""

    warnings: ClassVar[tuple[str, ...]] = ()
    dropped: ClassVar[Mapping[str, str]] = {}

    folder: Path
    infos: Mapping[str, TensorInfo]
    parts: Mapping[str, store.Stored]
    sums: Mapping[str, int]

    def file(self, name: str) -> Path:
        """The Orbax folder of a part."""
        return self.parts[name].folder

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """One part, or rows of it."""
        return store.read_rows(self.parts[name], rows)

    def check(self, name: str) -> None:
        """ChecksumMismatch unless the files of a part are those that were written; what they hold is checked by `read`."""
        store.check_seal(self.parts[name], self.sums[name])


def stored_tensors(folder: Path, spec: Spec) -> StoredTensors:
    """The parts of a converted checkpoint by name."""
    infos, parts, sums = {}, {}, {}
    for leaf in spec.leaves:
        for number in range(len(leaf.groups)):
            name = leaf.name(number)
            infos[name] = _part_info(leaf, name)
            parts[name], sums[name] = leaf.stored(folder, number), leaf.sums[number]
    return StoredTensors(folder, infos, parts, sums)


def _part_info(leaf: StoredLeaf, name: str) -> TensorInfo:
    size = int(np.prod(leaf.part_shape, dtype=np.int64)) * STORED[leaf.dtype].itemsize
    return TensorInfo(name, NAMES[STORED[leaf.dtype]], leaf.part_shape, 0, size)
