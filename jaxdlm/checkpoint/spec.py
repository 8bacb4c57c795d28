"""`spec.json` of a converted checkpoint: the model's configuration and where each leaf lies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxdlm.argument import Kind, flag, listed, one_of, record, table, text, whole
from jaxdlm.checkpoint import strict_json
from jaxdlm.checkpoint.errors import ChecksumMismatch, HeaderInvalid
from jaxdlm.checkpoint.leaf import FLOATS, STORED
from jaxdlm.checkpoint.store import Stored, group_folder
from jaxdlm.errors import InputError
from jaxdlm.models.config import ModelConfig
from jaxdlm.quant import KINDS
from jaxdlm.whole import whole_file

SPEC, MANIFEST, SOURCE_CONFIG = "spec.json", "manifest.json", "source_config.json"
FORMAT, VERSION, QUANTISED = "jaxdlm-checkpoint", 2, 3  # the third: with quantised leaves
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "chat_template.json", "vocab.json", "merges.txt", "tokenizer.model", "generation_config.json",
)  # fmt: skip


@dataclass(frozen=True)
class StoredLeaf:
    """A leaf on disk: `groups` and `sums` have one entry per layer where the leaf was split, else a single one.

    groups: number of the group that holds it; sums: `store.seal` of it.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    split: bool
    groups: tuple[int, ...]
    sums: tuple[int, ...] = ()

    def name(self, number: int) -> str:
        """Name inside its group; dots, since Orbax makes folders of slashes."""
        flat = self.path.replace("/", ".")
        return f"{flat}.{number:04d}" if self.split else flat

    def stored(self, root: Path, number: int) -> Stored:
        """Where that part of it lies in a converted checkpoint."""
        return Stored(group_folder(root, self.groups[number]), self.name(number), self.part_shape, STORED[self.dtype])

    @property
    def part_shape(self) -> tuple[int, ...]:
        return self.shape[1:] if self.split else self.shape


@dataclass(frozen=True)
class Quantised:
    """How a leaf is quantised: bits of a code, rows of a group, "power" or "uniform"; dtype: of the weight it stands for."""

    bits: int
    group: int
    kind: str
    dtype: str


@dataclass(frozen=True)
class Spec:
    """The whole file. quantised: leaves of the model that are stored as several arrays (`jaxdlm.checkpoint.quantised`)."""

    config: ModelConfig
    leaves: tuple[StoredLeaf, ...]
    manifest_sha256: str
    quantised: Mapping[str, Quantised] = field(default_factory=dict)


def write_spec(folder: Path, spec: Spec) -> None:
    """Write spec.json; call it last, since its presence makes a folder a converted checkpoint."""
    leaves = [
        {"path": leaf.path, "shape": list(leaf.shape), "dtype": leaf.dtype, "split": leaf.split,
         "groups": list(leaf.groups), "sums": list(leaf.sums)}
        for leaf in spec.leaves
    ]  # fmt: skip
    values = {
        "format": FORMAT,
        "version": QUANTISED if spec.quantised else VERSION,
        "family": spec.config.family,
        "config": spec.config.to_json(),
        "manifest_sha256": spec.manifest_sha256,
        "leaves": leaves,
    }
    if spec.quantised:
        values["quantised"] = {path: asdict(how) for path, how in spec.quantised.items()}
    write_json(folder / SPEC, values | {"sha256": _digest(values)})


def _digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object, whatever its layout; spec.json holds that of everything else in it."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Write JSON so that either the whole file is there or none."""
    with whole_file(path, path.name) as file:
        file.write(json.dumps(value, indent=indent, allow_nan=False).encode())


def read_spec(folder: Path) -> Spec:
    """Read and check spec.json; an unknown format or version is refused."""
    path = folder / SPEC
    values = strict_json.read_object(path, folder)
    if values.get("format") != FORMAT or values.get("version") not in (VERSION, QUANTISED):
        raise HeaderInvalid(
            "was written by another version", file=path, expected=f"{FORMAT} {VERSION}",
            got=f"{values.get('format')!r:.40} {values.get('version')!r:.40}", hint="convert the checkpoint again",
        )  # fmt: skip
    stated = values.pop("sha256", None)
    if stated != _digest(values):
        raise ChecksumMismatch("was changed after the conversion", file=path, hint="convert the checkpoint again")
    try:
        values = record({"quantised": {}} | values, SPEC, FIELDS, required=True, dot=": ")
        config = ModelConfig.from_json(values["config"])
    except InputError as error:
        raise HeaderInvalid(f"is damaged: {error}", file=path, hint="convert the checkpoint again") from None
    for leaf in values["leaves"]:
        count = leaf.shape[0] if leaf.split and leaf.shape else 1
        if len(leaf.groups) != count or len(leaf.sums) != count or (leaf.split and not leaf.shape):
            raise HeaderInvalid("has a damaged entry", file=path, tensor=leaf.path, hint="convert the checkpoint again")
    for name, how in values["quantised"].items():
        if how.bits not in (4, 8) or how.kind not in KINDS or how.dtype not in FLOATS:
            raise HeaderInvalid("is quantised in an unknown way", file=path, tensor=name, hint="update the library")
    return Spec(config, values["leaves"], values["manifest_sha256"], values["quantised"])


def _leaf(value: Any, name: str) -> StoredLeaf:
    return StoredLeaf(**_exactly(value, name, LEAF))


def _quantised(value: Any, name: str) -> dict[str, Quantised]:
    return {path: Quantised(**_exactly(how, f"{name}.{path}", HOW)) for path, how in table(value, name).items()}


def _exactly(value: Any, name: str, schema: Mapping[str, Kind]) -> dict[str, Any]:
    """The fields of a record that the checksum covers: one more than these would say how the arrays are to be read."""
    fields = record(value, name, schema, required=True)
    if unknown := sorted(fields.keys() - schema.keys()):
        raise InputError(f"{name} has {unknown[0]!r:.60}, which this version does not know")
    return fields


LEAF: dict[str, Kind] = {
    "path": text, "shape": listed(whole(1)), "dtype": one_of(*STORED), "split": flag, "groups": listed(whole(0)),
    "sums": listed(whole(0, 2**64 - 1)),
}  # fmt: skip
HOW: dict[str, Kind] = {"bits": whole(1), "group": whole(1), "kind": text, "dtype": text}
FIELDS: dict[str, Kind] = {
    "family": text, "config": table, "manifest_sha256": text, "leaves": listed(_leaf), "quantised": _quantised,
}  # fmt: skip


def itemsize(dtype: str) -> int:
    """Bytes of one value."""
    return int(np.dtype(STORED[dtype]).itemsize)
