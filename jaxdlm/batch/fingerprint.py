"""Fingerprints of all that decides the bytes of a job's output, as JSON that two runs can be compared by."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.models.params import path_name
from jaxdlm.typing import Array

SMALL = 16  # numbers that are shown one by one


@jax.jit
def _sum(leaf: Array) -> Array:
    """sum_i (2 i + 1) bits_i mod 2^32 over two odd multipliers: whole numbers, so no order or sharding changes it."""
    leaf = leaf.astype(jnp.int8) if leaf.dtype == jnp.int4 else leaf
    size = leaf.dtype.itemsize
    bits = jax.lax.bitcast_convert_type(leaf, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[size])
    word = bits.reshape(-1).astype(jnp.uint32)
    index = jax.lax.iota(jnp.uint32, word.shape[0])
    one = jnp.sum(word * (index * jnp.uint32(2) + jnp.uint32(1)), dtype=jnp.uint32)
    two = jnp.sum((word ^ (index * jnp.uint32(0x9E3779B1))) * jnp.uint32(0x85EBCA77), dtype=jnp.uint32)
    return jnp.stack([one, two])


def digest(value: Any) -> str:
    """Short SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def weights(params: Any) -> str:
    """Checksum of all weights, taken where they lie."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.tree.map(jnp.asarray, params))
    sums = [(path_name(path), list(leaf.shape), str(leaf.dtype), _sum(leaf)) for path, leaf in leaves]
    return digest([[*rest, np.asarray(value).tolist()] for *rest, value in sums])


def describe(tree: Any) -> dict[str, Any]:
    """A policy or cache: its numbers by path, and its structure."""
    numbers = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        small = np.size(leaf) <= SMALL
        numbers[jax.tree_util.keystr(path)] = np.asarray(leaf).tolist() if small else weights(leaf)
    structure = re.sub(r" at 0x[0-9a-f]+", "", str(jax.tree_util.tree_structure(tree)))
    return {"numbers": numbers, "structure": structure}


def model(lm: Any) -> dict[str, Any]:
    """Configuration, weights and tokenizer; neither name nor place."""
    tokenizer = lm.tokenizer
    words = None if tokenizer is None else digest([tokenizer.backend.to_str(), tokenizer.template, *tokenizer.eos])
    return {"config": lm.config.to_json(), "weights": weights(lm.params), "tokenizer": words}


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Lines `path: old -> new` for every leaf that differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif old != new:
        yield f"{path}: {_shown(old)} -> {_shown(new)}"


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
