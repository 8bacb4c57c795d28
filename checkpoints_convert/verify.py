"""Reading a converted checkpoint back and comparing every part, and its source, with the manifest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from checkpoints_convert.statistics import crc32
from jaxdlm.checkpoint import files, store, strict_json
from jaxdlm.checkpoint.errors import ChecksumMismatch, HeaderInvalid
from jaxdlm.checkpoint.source import open_folder
from jaxdlm.checkpoint.spec import MANIFEST, read_spec
from jaxdlm.checkpoint.store import CHUNK_BYTES
from jaxdlm.checkpoint.stored import StoredTensors
from jaxdlm.checkpoint.tensors import Tensors


def read_manifest(out: Path) -> dict[str, Any]:
    """manifest.json, after comparing it with the checksum in spec.json."""
    spec = read_spec(out)
    path = out / MANIFEST
    manifest = strict_json.read_object(path, out)
    digest = hashlib.sha256(files.read(path, out)).hexdigest()
    if digest != spec.manifest_sha256:
        raise ChecksumMismatch(
            "was changed after the conversion", file=path, expected=spec.manifest_sha256[:16], got=digest[:16],
            hint="convert the checkpoint again",
        )  # fmt: skip
    leaves, tensors = manifest.get("leaves"), manifest.get("tensors")
    listed = isinstance(leaves, list) and all(isinstance(_of(entry, "part"), str) for entry in leaves)
    summed = isinstance(tensors, dict) and all(type(_of(facts, "crc32")) is int for facts in tensors.values())
    if not (listed and summed):
        raise HeaderInvalid("has a damaged entry", file=path, hint="convert the checkpoint again")
    return manifest


def _of(entry: Any, key: str) -> Any:
    return entry.get(key) if isinstance(entry, dict) else None


def check_files(out: Path) -> StoredTensors:
    """The parts of a converted checkpoint, after a check that no file of one is missing, cut or from elsewhere."""
    tensors = open_folder(out).tensors
    if not isinstance(tensors, StoredTensors):
        raise HeaderInvalid("is not a converted checkpoint", file=out, hint="give the folder that holds spec.json")
    for name in tensors.infos:
        tensors.check(name)
    return tensors


def verify(out: Path) -> int:
    """Re-read every part and compare its checksums; returns how many. Raises ChecksumMismatch naming part and file."""
    manifest = read_manifest(out)
    tensors = check_files(out)
    listed = {entry["part"] for entry in manifest["leaves"]}
    if listed != set(tensors.infos):
        raise HeaderInvalid(
            "lists other parts than spec.json", file=out / MANIFEST, hint="convert the checkpoint again"
        )
    for part in tensors.parts.values():
        store.read_all(part)
    return len(listed)


def verify_source(out: Path, tensors: Tensors) -> int:
    """Re-read every source tensor and compare with the manifest; a flipped byte is named with its shard."""
    manifest = read_manifest(out)
    for name, facts in manifest["tensors"].items():
        if name not in tensors.infos:
            raise ChecksumMismatch(
                "is gone", file=out / MANIFEST, tensor=name, hint="give the source that was converted"
            )
        checksum = _checksum(tensors, name)
        if checksum != facts["crc32"]:
            raise ChecksumMismatch(
                "changed since the conversion", file=tensors.file(name), tensor=name,
                expected=f"crc32 {facts['crc32']:08x}", got=f"{checksum:08x}", hint="download the shard again",
            )  # fmt: skip
    return len(manifest["tensors"])


def _checksum(tensors: Tensors, name: str) -> int:
    """CRC-32 of a tensor, read a few rows at a time."""
    info = tensors.infos[name]
    if not info.shape:
        return crc32(tensors.read(name))
    step, total = max(1, info.shape[0] * CHUNK_BYTES // max(1, info.nbytes)), 0
    for start in range(0, info.shape[0], step):
        total = crc32(tensors.read(name, (start, min(start + step, info.shape[0]))), total)
    return total
