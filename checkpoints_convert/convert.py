"""The converter: chunk by chunk from source to disk; statistics and writing run beside the next read."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints_convert.plan import Part, Plan, check_space
from checkpoints_convert.quantise import Quantiser, relative_error
from checkpoints_convert.staging import Staging, check_output, discard, open_staging, publish
from checkpoints_convert.statistics import Recorder
from jaxdlm.checkpoint import files, store
from jaxdlm.checkpoint.errors import CheckpointError, ValuesInvalid
from jaxdlm.checkpoint.leaf import LeafSpec, contiguous
from jaxdlm.checkpoint.source import Checkpoint
from jaxdlm.checkpoint.spec import MANIFEST, SOURCE_CONFIG, TOKENIZER_FILES, write_json, write_spec
from jaxdlm.checkpoint.tensors import Tensors

Progress = Callable[[str, int], None]  # (leaf, bytes that are on their way to the disk)


class ConversionFailed(RuntimeError):
    """The work failed for a reason that is not the input's; what was finished is kept for the next run."""


@dataclass(frozen=True)
class Result:
    """What a conversion did; quantised: path -> what the manifest says about it."""

    out: Path
    nbytes: int
    groups: int
    resumed: int
    bytes_read: int
    warnings: tuple[str, ...]
    quantised: Mapping[str, Any]


def convert(
    plan: Plan, out: Path, *, force: bool = False, strict: bool = False, progress: Progress | None = None
) -> Result:
    """Write `plan` to `out`: Orbax groups, spec.json, manifest.json, tokenizer files.

    Works in `out`.partial and renames it last. A rerun after a kill continues behind the last finished group. Bad input
    leaves nothing. strict: NaN or infinity is an error, not a warning. Raises CheckpointError, ConversionFailed.
    """
    out = Path(out).expanduser().absolute()
    check_output(plan.source.folder, out, force)
    try:
        with open_staging(out, plan.fingerprint) as staging:
            try:
                manifest, recorder, resumed = _work(plan, staging, strict, progress, out)
            except CheckpointError:
                discard(out)  # only ours: a run that found the place taken never gets here
                raise
            publish(staging, out, force)
    except CheckpointError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise ConversionFailed(f"{out}: the disk is full; free space and run again to continue") from error
        raise
    return Result(
        out, plan.nbytes, len(plan.groups), resumed, recorder.bytes_read, tuple(manifest["warnings"]),
        manifest.get("quantised", {}),
    )  # fmt: skip


def _work(
    plan: Plan, staging: Staging, strict: bool, progress: Progress | None, out: Path
) -> tuple[dict[str, Any], Recorder, int]:
    resumed = len(staging.finished)
    done = sum(part.nbytes for number in staging.finished for part in plan.groups[number])
    check_space(plan, shutil.disk_usage(staging.folder).free, done, out)
    recorder = _write_groups(plan, staging, strict, progress)
    manifest = _manifest(plan, staging, recorder)
    _finish(plan, staging, manifest)
    return manifest, recorder, resumed


def _write_groups(plan: Plan, staging: Staging, strict: bool, progress: Progress | None) -> Recorder:
    targets = {name: part.leaf.dtype for group in plan.groups for part in group for name in part.sources}
    with ThreadPoolExecutor(1) as measuring:
        recorder = Recorder(plan.source.tensors, targets, measuring)
        for facts in staging.finished.values():
            recorder.known |= facts["tensors"]
        for number, group in enumerate(plan.groups):
            if number in staging.finished:
                if progress:
                    progress(group[0].leaf.path, sum(part.nbytes for part in group))
                continue
            folder = store.group_folder(staging.folder, number)
            folder.parent.mkdir(exist_ok=True)
            quantisers = {part.name: _quantiser(part, recorder, progress) for part in group if part.layout is not None}
            store.save_group(folder, _streams(group, quantisers, recorder, progress))
            fresh = recorder.collect()
            if number == len(plan.groups) - 1:
                fresh |= recorder.rest(set(targets))
            _refuse_nonfinite(plan, fresh, strict)
            arrays = [stored.stored(staging.folder, part.number) for part in group for stored in part.stored]
            sums = {array.name: store.seal(array) for array in arrays}
            codes = {name: quantiser.facts() for name, quantiser in quantisers.items()}
            staging.record(number, {"tensors": fresh, "parts": sums, "quantised": codes})
    return recorder


def _streams(
    group: Iterable[Part], quantisers: Mapping[str, Quantiser], recorder: Recorder, progress: Progress | None
) -> dict[str, store.Stream]:
    """The arrays of a group by name."""
    streams: dict[str, store.Stream] = {}
    for part in group:
        if part.name in quantisers:
            streams |= dict(zip(part.names, quantisers[part.name].streams().values()))
        else:
            streams[part.names[0]] = _stream(_leaf(part, recorder), progress)
    return streams


def _leaf(part: Part, tensors: Tensors) -> LeafSpec:
    """The leaf of a part, or its layer, read from these tensors."""
    leaf = replace(part.leaf, tensors=tensors)
    return leaf.layer(part.number) if part.split else leaf


def _quantiser(part: Part, recorder: Recorder, progress: Progress | None) -> Quantiser:
    assert part.layout is not None
    return Quantiser(part.layout, _leaf(part, recorder), _leaf(part, recorder.inner), part.split, progress)


def _stream(leaf: LeafSpec, progress: Progress | None) -> store.Stream:
    """The leaf as chunks in the order of its sources, so that each is read from its first byte to its last."""
    order = leaf.order()

    def read(index: store.Index) -> np.ndarray:
        array = contiguous(leaf.read(index))
        if progress:
            progress(leaf.path, array.nbytes)
        return array

    return store.Stream(leaf.shape, leaf.dtype, store.chunk_of(leaf.shape, leaf.dtype.itemsize, order), order, read)


def _refuse_nonfinite(plan: Plan, fresh: dict[str, Any], strict: bool) -> None:
    for name, facts in fresh.items() if strict else ():
        if facts["nonfinite"]:
            raise ValuesInvalid(
                f"holds {facts['nonfinite']} NaN or infinite values", file=plan.source.tensors.file(name), tensor=name,
                hint="download it again, or convert without --strict",
            )  # fmt: skip


def _manifest(plan: Plan, staging: Staging, recorder: Recorder) -> dict[str, Any]:
    source = plan.source
    warnings = list(source.tensors.warnings)
    for name, facts in recorder.known.items():
        if facts["nonfinite"]:
            warnings.append(f"{name}: {facts['nonfinite']} NaN or infinite values")
        elif len(facts["shape"]) > 1 and facts["min"] == facts["max"]:
            warnings.append(f"{name}: every value is {facts['min']}")
    shards = sorted({source.tensors.file(name) for name in source.tensors.infos})
    return {
        "source": source.raw.get("_name_or_path") or source.folder.name,
        "family": source.config.family,
        "dtype": plan.dtype,
        "files": {path.name: {"bytes": path.stat().st_size} for path in shards},
        "tensors": {
            name: {"file": source.tensors.file(name).name, **recorder.known[name]} for name in sorted(recorder.known)
        },
        "leaves": [
            {"path": part.leaf.path, "part": stored.name(part.number), "shape": list(stored.part_shape),
             "dtype": stored.dtype, "sources": list(part.sources)}
            for group in plan.groups for part in group for stored in part.stored
        ],
        **_quantised(plan, staging),
        "ignored": dict(source.ignored),
        "notes": list(source.notes),
        "warnings": warnings,
        "versions": _versions(),
    }  # fmt: skip


def _quantised(plan: Plan, staging: Staging) -> dict[str, Any]:
    """What quantising did to each leaf: {"quantised": {path: ...}}, nothing where nothing was quantised."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for number, group in enumerate(plan.groups):
        for part in group:
            if part.layout is not None:
                parts.setdefault(part.leaf.path, []).append(staging.finished[number]["quantised"][part.name])
    quantised = {
        path: asdict(plan.layouts[path].how) | {
            "relative_error": relative_error(facts),
            "exponents": [exponent for part in facts for exponent in part["exponents"]],
        }
        for path, facts in parts.items()
    }  # fmt: skip
    return {"quantised": quantised} if quantised else {}


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("jax", "numpy", "orbax-checkpoint")}


def _finish(plan: Plan, staging: Staging, manifest: dict[str, Any]) -> None:
    _copy_documents(plan.source, staging.folder)
    write_json(staging.folder / MANIFEST, manifest)
    digest = hashlib.sha256((staging.folder / MANIFEST).read_bytes()).hexdigest()
    sums = {name: value for facts in staging.finished.values() for name, value in facts["parts"].items()}
    write_spec(staging.folder, plan.spec(digest, sums))


def _copy_documents(source: Checkpoint, target: Path) -> None:
    """Configuration and tokenizer files; those of a GGUF file are written as its metadata have them."""
    if source.documents is not None:
        for name, contents in source.documents.items():
            write_json(target / (SOURCE_CONFIG if name == "config.json" else name), contents, indent=None)
        return
    for name in TOKENIZER_FILES:
        path = source.folder / name
        if path.exists() or path.is_symlink():
            files.copy(path, target / name, source.folder)
    files.copy(source.folder / "config.json", target / SOURCE_CONFIG, source.folder)
