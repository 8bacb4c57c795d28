"""A model as a small difference from one that people have already: low-rank updates of its projections, and a few rows
of its embedding.

The file is safetensors. Of a projection W [R, in..., out...] of R layers, W + A · B in float32, it holds both factors in
8 bits with a scale per layer and rank (`jaxdlm.quant`, uniform):

    PATH/a/codes  int8[R, in, r]     PATH/a/scale  float32[R, 1, r]      (dots for slashes in PATH)
    PATH/b/codes  int8[R, out, r]    PATH/b/scale  float32[R, 1, r]
    embed/ids     int32[n]           embed/rows    float32[n, D]

and in its metadata one JSON object: the fingerprint of the base, the rank, the new configuration, and how it was made.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm._load import PACKAGED, load, packaged
from jaxdlm.errors import InputError
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.low_rank import merge
from jaxdlm.models.params import fingerprint, named_specs
from jaxdlm.quant import QuantizedLeaf, quantize
from jaxdlm.train import lora
from jaxdlm.train.export import export_params
from jaxdlm.typing import Array, PyTree

FORMAT, VERSION = "jaxdlm-delta", 1
LIMIT = 20 * 10**6  # bytes
AXES = {"a": -2, "b": -1}  # of a factor [R, in, r] or [R, r, out]: what shares a scale


def size(config: ModelConfig, rank: int, rows: int = 1) -> int:
    """Bytes of the arrays of a delta."""
    shapes = [spec.shape for pair in lora.specs(config, rank).values() for spec in pair]
    codes = sum(int(np.prod(shape)) for shape in shapes)
    return codes + sum(4 * rank * shape[0] for shape in shapes) + rows * 4 * (1 + config.hidden_size)


def check_size(config: ModelConfig, rank: int, limit: int = LIMIT) -> None:
    """Raises InputError, with the largest rank that fits, for a delta of more than `limit` bytes."""
    if size(config, rank) > limit:
        most = (limit - size(config, 0)) // (size(config, 1) - size(config, 0))  # a rank costs what the one before did
        fix = f"the largest that fits is {most}" if most > 0 else "no rank fits"
        raise InputError(
            f"a delta of rank {rank} has {size(config, rank) / 1e6:.1f} MB, more than {limit / 1e6:.1f}: {fix}"
        )


def save(
    path: Path, base: PyTree, config: ModelConfig, factors: Mapping[str, Mapping[str, Array]], ids: tuple[int, ...],
    rows: Array, record: Mapping[str, Any],
) -> None:  # fmt: skip
    """Writes the difference from `base` as one file, whole or not at all.

    config: of the new model; factors: {path with dots: {"a", "b"}} as `lora.init` has them; ids, rows: embeddings that
    changed; record: how it was made.
    """
    from safetensors.numpy import save_file

    arrays: dict[str, np.ndarray] = {
        "embed/ids": np.asarray(ids, np.int32),
        "embed/rows": np.asarray(rows, np.float32),
    }
    for name, pair in factors.items():
        for side, factor in pair.items():
            leaf, _ = quantize(_flat(factor, side), 8, axes=(AXES[side],), kind="uniform", path=name)
            arrays[f"{name}/{side}/codes"] = np.asarray(leaf.codes)
            arrays[f"{name}/{side}/scale"] = np.asarray(leaf.scale)
    rank = next(iter(factors.values()))["a"].shape[-1]
    head = {
        "version": VERSION,
        "base": fingerprint(base),
        "rank": rank,
        "config": config.to_json(),
        "record": dict(record),
    }
    part = path.with_name(path.name + ".part")
    save_file(arrays, str(part), metadata={FORMAT: json.dumps(head)})  # one entry: of several, the order is any
    part.replace(path)


def _flat(factor: Array, side: str) -> Array:
    """[R, in, r] of an A, [R, r, out] of a B."""
    layers = factor.shape[0]
    return factor.reshape(layers, -1, factor.shape[-1]) if side == "a" else factor.reshape(*factor.shape[:2], -1)


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Metadata and arrays of a delta. Raises InputError for anything that is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as file:
            head = json.loads((file.metadata() or {}).get(FORMAT, "null"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read as a delta ({error}): fetch or make it again") from None
    if not isinstance(head, dict) or head.get("version") != VERSION:
        raise InputError(f"{path} is no delta of jaxdlm, version {VERSION}: give the file that the recipe wrote")
    return head, arrays


def record_of(path: Path) -> dict[str, Any]:
    """How a delta was made, as `save` was told."""
    return dict(read(path)[0].get("record") or {})


def apply(path: Path, base: PyTree, config: ModelConfig) -> tuple[ModelConfig, PyTree]:
    """(configuration, weights) of the model that a delta makes of `base`, in the types of `base`.

    Load the base in float32: sums in 16 bits are rounded once more. Raises InputError for a delta of other weights, or
    one that does not fit the configuration.
    """
    metadata, arrays = read(path)
    if metadata.get("base") != fingerprint(base):
        raise InputError(
            f"{path} is a delta of other weights (base {metadata.get('base')}): load the model it was made of"
        )
    new = _config(path, metadata)
    if [(p, s.shape) for p, s in named_specs(new)] != [(p, s.shape) for p, s in named_specs(config)]:
        raise InputError(f"{path}: its configuration has other shapes than the model has: make the delta again")
    factors, ids, rows = _checked(path, metadata, arrays, new)
    return new, _add(base, factors, ids, rows)


def export(model: str, path: Path, folder: Path) -> None:
    """The model that a delta makes of `model`, as in `jaxdlm.load`, as a folder that it reads, in bfloat16."""
    base = load(model, dtype="float32")
    config, params = apply(path, base.params, base.config)
    mask = None if base.tokenizer is None or config.tokens.mask is None else base.tokenizer.literal(config.tokens.mask)
    own = packaged(model) if model in PACKAGED and not Path(model).exists() else Path(model).expanduser()
    config = replace(config, param_dtype="bfloat16")
    export_params(config, params, folder, own, names={} if mask is None else {"mask_token": mask})
    (folder / "recipe.json").write_text(json.dumps(record_of(path), indent=1) + "\n")


@jax.jit
def _add(base: PyTree, factors: dict[str, dict[str, Array]], ids: Array, rows: Array) -> PyTree:
    return lora.with_rows(merge(base, factors, 1.0), ids, rows)


def _config(path: Path, metadata: Mapping[str, Any]) -> ModelConfig:
    try:
        return ModelConfig.from_json(metadata["config"])
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: its configuration is damaged ({error}): make the delta again") from None


def _checked(
    path: Path, metadata: Mapping[str, Any], arrays: Mapping[str, np.ndarray], config: ModelConfig
) -> tuple[dict[str, dict[str, Array]], Array, Array]:
    """(factors in float32, ids, rows). Raises InputError that names the first array that does not fit."""
    stated = metadata.get("rank")
    rank = stated if isinstance(stated, int) and 0 < stated <= config.vocab_size else 0
    ids = arrays.get("embed/ids", np.zeros(0, np.int32))
    wanted: dict[str, tuple[tuple[int, ...], str]] = {
        "embed/ids": ((ids.size,), "int32"), "embed/rows": ((ids.size, config.hidden_size), "float32"),
    }  # fmt: skip
    pairs = {name.replace("/", "."): pair for name, pair in lora.specs(config, rank).items()}
    for name, (a, b) in pairs.items():
        for side, spec, inner in (("a", a, a.shape[1:-1]), ("b", b, b.shape[2:])):
            layers = spec.shape[0]
            wanted[f"{name}/{side}/codes"] = ((layers, int(np.prod(inner)), rank), "int8")
            wanted[f"{name}/{side}/scale"] = ((layers, 1, rank), "float32")
    actual = {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}
    wrong = sorted(name for name in wanted.keys() | actual.keys() if wanted.get(name) != actual.get(name))
    if wrong or not rank:
        raise InputError(
            f"{path}: {wrong[0] if wrong else 'rank'} does not fit the model's shapes: make the delta again"
        )
    unsound = [name for name, array in arrays.items() if array.dtype == np.float32 and not np.isfinite(array).all()]
    known = [token for token in set(ids.tolist()) if 0 <= token < config.vocab_size]
    if unsound or len(known) < ids.size:
        raise InputError(
            f"{path}: {unsound[0] if unsound else 'embed/ids'} holds what no model has: make the delta again"
        )
    factors = {
        name: {
            side: _restored(arrays, f"{name}/{side}", side).reshape(spec.shape)
            for side, spec in zip("ab", pair, strict=True)
        }
        for name, pair in pairs.items()
    }
    return factors, jnp.asarray(ids), jnp.asarray(arrays["embed/rows"])


def _restored(arrays: Mapping[str, np.ndarray], name: str, side: str) -> Array:
    codes, scale = (jnp.asarray(arrays[f"{name}/{part}"]) for part in ("codes", "scale"))
    rows, columns = codes.shape[-2:]
    tail = (rows, columns) if side == "a" else (columns, rows)
    leaf = QuantizedLeaf(codes, scale, None, tail, (AXES[side],), 8, "float32")
    return leaf.dequantize(jnp.float32)
