"""Reading a converted checkpoint back and comparing every part, and its source, with the manifest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints_convert.statistics import crc32
from jaxdlm.checkpoint import strict_json
from jaxdlm.checkpoint.errors import ChecksumMismatch, HeaderInvalid
from jaxdlm.checkpoint.source import stored_tensors
from jaxdlm.checkpoint.spec import MANIFEST, read_spec
from jaxdlm.checkpoint.tensors import Tensors


def read_manifest(out: Path) -> dict[str, Any]:
    """manifest.json, after comparing it with the checksum in spec.json."""
    spec = read_spec(out)
    path = out / MANIFEST
    manifest = strict_json.read_object(path, out)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != spec.manifest_sha256:
        raise ChecksumMismatch(
            "was changed after the conversion", file=path, expected=spec.manifest_sha256[:16], got=digest[:16],
            hint="convert the checkpoint again",
        )  # fmt: skip
    return manifest


def verify(out: Path) -> int:
    """Re-read every part and compare CRC-32s; returns how many. Raises ChecksumMismatch naming part and file."""
    manifest = read_manifest(out)
    tensors = stored_tensors(out, read_spec(out))
    listed = {entry["part"]: entry for entry in manifest["leaves"]}
    if set(listed) != set(tensors.infos):
        raise HeaderInvalid(
            "lists other parts than spec.json", file=out / MANIFEST, hint="convert the checkpoint again"
        )
    for name, entry in listed.items():
        array = np.asarray(tensors.read(name))
        same = (str(array.dtype), list(array.shape), crc32(array)) == (entry["dtype"], entry["shape"], entry["crc32"])
        if not same:
            raise ChecksumMismatch(
                f"does not equal what was written from {entry['sources'][0]}", file=tensors.file(name), tensor=name,
                expected=f"crc32 {entry['crc32']:08x}", got=f"{crc32(array):08x}", hint="convert again with --force",
            )  # fmt: skip
    return len(listed)


def verify_source(out: Path, tensors: Tensors) -> int:
    """Re-read every source tensor and compare with the manifest; a flipped byte is named with its shard."""
    manifest = read_manifest(out)
    for name, facts in manifest["tensors"].items():
        if name not in tensors.infos:
            raise ChecksumMismatch(
                "is gone", file=out / MANIFEST, tensor=name, hint="give the source that was converted"
            )
        found = crc32(tensors.read(name))
        if found != facts["crc32"]:
            raise ChecksumMismatch(
                "changed since the conversion", file=tensors.file(name), tensor=name,
                expected=f"crc32 {facts['crc32']:08x}", got=f"{found:08x}", hint="download the shard again",
            )  # fmt: skip
    return len(manifest["tensors"])
