"""What a conversion will write, decided from headers alone: parts, groups, bytes, expected memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from jaxdlm.checkpoint.errors import OutputRefused
from jaxdlm.checkpoint.leaf import LeafSpec
from jaxdlm.checkpoint.source import Source, leaf_dtype
from jaxdlm.checkpoint.spec import Spec, StoredLeaf
from jaxdlm.checkpoint.store import CHUNK_BYTES
from jaxdlm.errors import InputError

GIB = 2**30
GROUP_BYTES = 256 * 2**20
BASE_BYTES = int(0.7e9)  # a process with JAX, Orbax and TensorStore imported
CHUNKS = 32  # chunks alive at once: read, waiting to be measured, arranged, on their way to the disk; twice for float32
PLAN_VERSION = 2


@dataclass(frozen=True)
class Part:
    """One array on disk: a whole leaf, or one layer of it."""

    leaf: LeafSpec
    stored: StoredLeaf
    number: int

    @property
    def name(self) -> str:
        return self.stored.name(self.number)

    @property
    def nbytes(self) -> int:
        return self.leaf.nbytes // (self.leaf.shape[0] if self.stored.split else 1)

    @property
    def sources(self) -> tuple[str, ...]:
        pieces = [self.leaf.pieces[self.number]] if self.stored.split else self.leaf.pieces
        return tuple(name for piece in pieces for name in piece.sources)


@dataclass(frozen=True)
class Plan:
    """Groups of parts in the order in which they are written."""

    source: Source
    dtype: str
    groups: tuple[tuple[Part, ...], ...]
    fingerprint: str

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for group in self.groups for part in group)

    @property
    def largest(self) -> int:
        return max(part.nbytes for group in self.groups for part in group)

    @property
    def expected_peak(self) -> int:
        """Bytes of anonymous memory: the bare process and the chunks in flight, whatever the size of a leaf."""
        return BASE_BYTES + CHUNKS * CHUNK_BYTES

    def leaves(self) -> tuple[StoredLeaf, ...]:
        """The leaves in the order of the parameter tree."""
        found: dict[str, StoredLeaf] = {}
        for group in self.groups:
            found.update((part.leaf.path, part.stored) for part in group)
        return tuple(found[leaf.path] for leaf in self.source.leaves)

    def spec(self, manifest_sha256: str, sums: Mapping[str, int]) -> Spec:
        """What spec.json will say; `sums` are the seals of the parts by name."""
        leaves = tuple(
            replace(leaf, sums=tuple(sums[leaf.name(number)] for number in range(len(leaf.groups))))
            for leaf in self.leaves()
        )
        return Spec(self.source.config, leaves, manifest_sha256)


def make_plan(source: Source, dtype: str = "keep", max_leaf_bytes: int = GIB, group_bytes: int = GROUP_BYTES) -> Plan:
    """Cut the leaves into parts of at most `max_leaf_bytes` where a layer axis allows, and those into groups.

    A group is what a killed run may have to write again; it is larger than `group_bytes` only where one part is.
    """
    if source.kind == "converted":
        raise InputError(f"{source.folder}: is converted already; load it as it is, or export it")
    requested = None if dtype == "keep" else dtype
    sized = [leaf.astype(leaf_dtype(source.config, leaf.path, leaf.dtype, requested)) for leaf in source.leaves]
    split = {leaf.path: leaf.stacked and leaf.nbytes > max_leaf_bytes for leaf in sized}
    groups = _groups(sized, split, group_bytes)
    return Plan(source, dtype, groups, _fingerprint(source, dtype, max_leaf_bytes, group_bytes))


def _groups(leaves: list[LeafSpec], split: Mapping[str, bool], room: int) -> tuple[tuple[Part, ...], ...]:
    numbers: list[list[tuple[LeafSpec, int]]] = [[]]
    filled = 0
    for leaf in leaves:
        count = leaf.shape[0] if split[leaf.path] else 1
        for number in range(count):
            size = leaf.nbytes // count
            if numbers[-1] and filled + size > room:
                numbers.append([])
                filled = 0
            numbers[-1].append((leaf, number))
            filled += size
    where: dict[str, list[int]] = {}
    for group, members in enumerate(numbers):
        for leaf, _ in members:
            where.setdefault(leaf.path, []).append(group)
    stored = {
        leaf.path: StoredLeaf(leaf.path, leaf.shape, str(leaf.dtype), split[leaf.path], tuple(where[leaf.path]))
        for leaf in leaves
    }
    return tuple(tuple(Part(leaf, stored[leaf.path], number) for leaf, number in members) for members in numbers)


def _fingerprint(source: Source, dtype: str, max_leaf_bytes: int, room: int) -> str:
    """Changes whenever a finished group of an interrupted run could not be used."""
    files = {}
    for name in source.tensors.infos:
        path = source.tensors.file(name)
        if str(path) not in files:
            state = path.stat()
            files[str(path)] = [state.st_size, state.st_mtime_ns]
    facts: list[Any] = [PLAN_VERSION, source.config.to_json(), files, dtype, max_leaf_bytes, room]
    facts.append([(info.name, info.dtype, info.shape, info.start) for info in source.tensors.infos.values()])
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def check_space(plan: Plan, free: int, done: int, out: object) -> None:
    """OutputRefused unless 1.1 times what is still to be written is free."""
    need = int(1.1 * (plan.nbytes - done)) + 2**20
    if free < need:
        raise OutputRefused(
            "not enough space on the disk", file=out, expected=f">= {need / 1e9:.2f} GB free", got=f"{free / 1e9:.2f} GB",
            hint="free some space or choose another disk",
        )  # fmt: skip


def describe(plan: Plan) -> Iterator[str]:
    """The dry run's report, line by line."""
    source = plan.source
    for part_group in plan.groups:
        for part in part_group:
            if part.number == 0:
                first = part.leaf.pieces[0].sources
                more = sum(len(piece.sources) for piece in part.leaf.pieces) - 1
                tail = f" (+{more})" if more else ""
                cut = f" in {part.leaf.shape[0]} parts" if part.stored.split else ""
                yield f"{part.leaf.path}  {list(part.leaf.shape)} {part.stored.dtype}{cut}  <-  {first[0]}{tail}"
    for name, rule in source.ignored.items():
        yield f"ignored  {name}  ({rule})"
    yield from (f"note  {note}" for note in source.notes)
    yield (
        f"family {source.config.family}: {len(source.tensors.infos)} tensors, {len(source.leaves)} leaves, "
        f"{plan.nbytes / 1e9:.3f} GB in {len(plan.groups)} groups, largest part {plan.largest / 1e9:.3f} GB, "
        f"expected peak memory {plan.expected_peak / 1e9:.2f} GB"
    )
