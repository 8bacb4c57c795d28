"""What a conversion will write, decided from headers alone: parts, groups, bytes, expected memory."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxdlm.checkpoint.errors import OutputRefused
from jaxdlm.checkpoint.leaf import LeafSpec
from jaxdlm.checkpoint.quantised import Layout
from jaxdlm.checkpoint.source import Checkpoint, leaf_dtype
from jaxdlm.checkpoint.spec import Quantised, Spec, StoredLeaf, itemsize
from jaxdlm.checkpoint.store import CHUNK_BYTES
from jaxdlm.errors import InputError
from jaxdlm.quant import Recipe, shape_of

GIB = 2**30
GROUP_BYTES = 256 * 2**20
BASE_BYTES = int(0.7e9)  # a process with JAX, Orbax and TensorStore imported
CHUNKS = 32  # chunks alive at once: read, waiting to be measured, arranged, on their way to the disk; twice for float32
PLAN_VERSION = 2


@dataclass(frozen=True)
class Part:
    """What is written at once: a whole leaf, or one layer of it; one array on disk, or those of a quantised leaf."""

    leaf: LeafSpec
    stored: tuple[StoredLeaf, ...]
    number: int
    layout: Layout | None = None

    @property
    def split(self) -> bool:
        return self.stored[0].split

    @property
    def name(self) -> str:
        """The part by the name that its array has, or would have if it were not quantised."""
        return replace(self.stored[0], path=self.leaf.path).name(self.number)

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays on disk."""
        return tuple(stored.name(self.number) for stored in self.stored)

    @property
    def nbytes(self) -> int:
        return sum(math.prod(stored.part_shape) * itemsize(stored.dtype) for stored in self.stored)

    @property
    def sources(self) -> tuple[str, ...]:
        pieces = [self.leaf.pieces[self.number]] if self.split else self.leaf.pieces
        return tuple(name for piece in pieces for name in piece.sources)


@dataclass(frozen=True)
class Plan:
    """Groups of parts in the order in which they are written."""

    source: Checkpoint
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
        by_path: dict[str, tuple[StoredLeaf, ...]] = {}
        for group in self.groups:
            by_path.update((part.leaf.path, part.stored) for part in group)
        return tuple(stored for leaf in self.source.leaves for stored in by_path[leaf.path])

    @property
    def layouts(self) -> dict[str, Layout]:
        """The quantised leaves by path."""
        return {part.leaf.path: part.layout for group in self.groups for part in group if part.layout is not None}

    def spec(self, manifest_sha256: str, sums: Mapping[str, int]) -> Spec:
        """What spec.json will say; `sums` are the seals of the parts by name."""
        leaves = tuple(
            replace(leaf, sums=tuple(sums[leaf.name(number)] for number in range(len(leaf.groups))))
            for leaf in self.leaves()
        )
        return Spec(
            self.source.config, leaves, manifest_sha256, {path: layout.how for path, layout in self.layouts.items()}
        )


def make_plan(
    source: Checkpoint, dtype: str = "keep", max_leaf_bytes: int = GIB, group_bytes: int = GROUP_BYTES,
    recipe: Recipe | None = None,
) -> Plan:  # fmt: skip
    """Cut the leaves into parts of at most `max_leaf_bytes` where a layer axis allows, and those into groups.

    A group is what a killed run may have to write again; it is larger than `group_bytes` only where one part is. recipe:
    how the large matrices are quantised; None: not at all.
    """
    if source.kind == "converted":
        raise InputError(f"{source.folder}: is converted already; load it as it is, or export it")
    dtype = source.dtype or dtype if dtype == "keep" else dtype
    requested = None if dtype == "keep" else dtype
    target = {leaf.path: leaf_dtype(source.config, leaf.path, leaf.dtype, requested) for leaf in source.leaves}
    layouts = {} if recipe is None else _layouts(source, recipe, target)
    # codes come from the weights as they are stored: a cast before would only add to the error
    sized = [leaf if leaf.path in layouts else leaf.astype(target[leaf.path]) for leaf in source.leaves]
    split = {leaf.path: leaf.stacked and leaf.nbytes > max_leaf_bytes for leaf in sized}
    groups = _groups(sized, split, group_bytes, layouts)
    return Plan(source, dtype, groups, _fingerprint(source, dtype, max_leaf_bytes, group_bytes, recipe))


def _layouts(source: Checkpoint, recipe: Recipe, target: Mapping[str, np.dtype]) -> dict[str, Layout]:
    recipe.check()
    axes = {leaf.path: recipe.axes(leaf.path) for leaf in source.leaves}
    flat = {leaf.path: shape_of(leaf.shape, which) for leaf in source.leaves if (which := axes[leaf.path])}
    uneven = [path for path, shape in flat.items() if recipe.group and shape.rows % recipe.group]
    if uneven:
        common = math.gcd(*(shape.rows for shape in flat.values()))
        raise InputError(
            f"--group {recipe.group}: {uneven[0]} has {flat[uneven[0]].rows} rows, which it does not divide; {common} and "
            f"its divisors divide those of every tensor"
        )
    layouts = {}
    for leaf in source.leaves:
        if (which := axes[leaf.path]) is not None:
            how = Quantised(recipe.bits, recipe.group or flat[leaf.path].rows, recipe.kind, str(target[leaf.path]))
            layouts[leaf.path] = Layout(leaf.path, leaf.shape, which, how)
    missing = [name for name in recipe.include if name not in layouts]
    if missing:
        raise InputError(f"--include {missing[0]}: {source.folder.name} has no such weight of its own (it is tied)")
    return layouts


def _groups(
    leaves: list[LeafSpec], split: Mapping[str, bool], room: int, layouts: Mapping[str, Layout]
) -> tuple[tuple[Part, ...], ...]:
    numbers: list[list[tuple[LeafSpec, int]]] = [[]]
    filled = 0
    for leaf in leaves:
        count = leaf.shape[0] if split[leaf.path] else 1
        whole = sum(math.prod(stored.shape) * itemsize(stored.dtype) for stored in _stored(leaf, False, (), layouts))
        for number in range(count):
            size = whole // count
            if numbers[-1] and filled + size > room:
                numbers.append([])
                filled = 0
            numbers[-1].append((leaf, number))
            filled += size
    where: dict[str, list[int]] = {}
    for group, members in enumerate(numbers):
        for leaf, _ in members:
            where.setdefault(leaf.path, []).append(group)
    stored = {leaf.path: _stored(leaf, split[leaf.path], tuple(where[leaf.path]), layouts) for leaf in leaves}
    return tuple(
        tuple(Part(leaf, stored[leaf.path], number, layouts.get(leaf.path)) for leaf, number in members)
        for members in numbers
    )


def _stored(
    leaf: LeafSpec, split: bool, groups: tuple[int, ...], layouts: Mapping[str, Layout]
) -> tuple[StoredLeaf, ...]:
    if leaf.path in layouts:
        return layouts[leaf.path].stored(split, groups)
    return (StoredLeaf(leaf.path, leaf.shape, str(leaf.dtype), split, groups),)


def _fingerprint(source: Checkpoint, dtype: str, max_leaf_bytes: int, room: int, recipe: Recipe | None) -> str:
    """Changes whenever a finished group of an interrupted run could not be used."""
    files = {}
    for name in source.tensors.infos:
        path = source.tensors.file(name)
        if str(path) not in files:
            state = path.stat()
            files[str(path)] = [state.st_size, state.st_mtime_ns]
    facts: list[Any] = [PLAN_VERSION, source.config.to_json(), files, dtype, max_leaf_bytes, room, recipe]
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


def kind_of(layout: Layout) -> str:
    """ "int4 (power, groups of 64)"."""
    how = layout.how
    scales = "one scale per column" if how.group == layout.flat.rows else f"groups of {how.group}"
    return f"int{how.bits} ({how.kind}, {scales})"


def describe(plan: Plan) -> Iterator[str]:
    """The dry run's report, line by line."""
    source = plan.source
    for part_group in plan.groups:
        for part in part_group:
            if part.number == 0:
                first = part.leaf.pieces[0].sources
                more = sum(len(piece.sources) for piece in part.leaf.pieces) - 1
                tail = f" (+{more})" if more else ""
                cut = f" in {part.leaf.shape[0]} parts" if part.split else ""
                kind = part.stored[0].dtype if part.layout is None else kind_of(part.layout)
                yield f"{part.leaf.path}  {list(part.leaf.shape)} {kind}{cut}  <-  {first[0]}{tail}"
    for name, rule in source.ignored.items():
        yield f"ignored  {name}  ({rule})"
    yield from (f"note  {note}" for note in source.notes)
    yield (
        f"family {source.config.family}: {len(source.tensors.infos)} tensors, {len(source.leaves)} leaves, "
        f"{plan.nbytes / 1e9:.3f} GB in {len(plan.groups)} groups, largest part {plan.largest / 1e9:.3f} GB, "
        f"expected peak memory {plan.expected_peak / 1e9:.2f} GB"
    )
