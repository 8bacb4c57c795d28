"""Orbax on disk: one small Orbax checkpoint per group of leaves. The only module that knows Orbax.

A group is written atomically by Orbax itself (temporary folder, then rename), so a killed conversion loses at most the
group in flight. Arrays are stored unsharded and uncompressed (random bfloat16 weights barely compress, and reading and
writing run at the speed of the disk); chunks of at most 64 MiB let a device read only its shard.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdlm.checkpoint.errors import ChecksumMismatch

CHUNK_BYTES = 64 * 2**20
PARAMS = "params"


def group_folder(root: Path, number: int) -> Path:
    """Where group `number` of a converted checkpoint lies."""
    return root / PARAMS / f"{number:04d}"


def save_group(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as one Orbax checkpoint; the folder appears only when it is complete."""
    import orbax.checkpoint as ocp

    options = {name: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES) for name in arrays}
    with _checkpointer() as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(dict(arrays), save_args=options), force=True)


def read_group(folder: Path, names: Mapping[str, Any]) -> dict[str, Any]:
    """Read some arrays of a group.

    names: name -> None (a NumPy array, as stored) or a jax.ShapeDtypeStruct with a sharding (a jax.Array of that dtype,
    each device reading its own part). Damaged bytes are a ChecksumMismatch.
    """
    import jax
    import orbax.checkpoint as ocp

    def how(target: Any) -> Any:
        if target is None:
            return ocp.RestoreArgs(restore_type=np.ndarray)
        return ocp.ArrayRestoreArgs(
            restore_type=jax.Array, sharding=target.sharding, global_shape=target.shape, dtype=target.dtype
        )

    args = ocp.args.PyTreeRestore(
        item=dict.fromkeys(names, 0),
        restore_args={name: how(target) for name, target in names.items()},
        partial_restore=True,
    )
    try:
        with _checkpointer() as checkpointer:
            return dict(checkpointer.restore(folder.absolute(), args=args))
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise _unreadable(error, folder, next(iter(names), None)) from error


def read_rows(folder: Path, name: str, rows: tuple[int, int]) -> np.ndarray:
    """Rows [a, b) of one stored array; reads the chunks that hold them."""
    import tensorstore

    where = {"driver": "ocdbt", "base": f"file://{folder.absolute()}/"}
    try:
        array = tensorstore.open({"driver": "zarr3", "kvstore": where, "path": name}, open=True).result()
        return np.asarray(array[rows[0] : rows[1]].read().result())
    except ValueError as error:
        raise _unreadable(error, folder, name) from error


def _unreadable(error: Exception, folder: Path, name: str | None) -> ChecksumMismatch:
    line = " ".join(str(error).split())[:300]
    return ChecksumMismatch(f"cannot be read back: {line}", file=folder, tensor=name, hint="convert again with --force")


@contextlib.contextmanager
def _checkpointer() -> Iterator[Any]:
    import jax
    import orbax.checkpoint as ocp
    from orbax.checkpoint import type_handlers

    registry = type_handlers.create_type_handler_registry(
        (np.ndarray, type_handlers.NumpyHandler(deepcopy_host_arrays=False)), (jax.Array, type_handlers.ArrayHandler())
    )
    handler = ocp.PyTreeCheckpointHandler(
        use_ocdbt=True, use_zarr3=True, use_compression=False, type_handler_registry=registry
    )
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)  # Orbax warns about settings that are chosen here on purpose
    checkpointer = ocp.Checkpointer(handler)
    try:
        yield checkpointer
    finally:
        checkpointer.close()
        log.setLevel(level)
