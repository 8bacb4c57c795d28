"""Deltas: a round trip within the rounding of 8 bits, one size, and files that do not fit."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxdlm.errors import InputError
from jaxdlm.models.low_rank import merge
from jaxdlm.models.params import init_params
from jaxdlm.train import delta, lora
from tests.train.recipes.test_block import block, config_of

CONFIG = config_of(64, 2, 1)
NEW = block.block_config(CONFIG, 4, 3)
RANK = 3


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """(file, base, factors, rows): every factor is filled."""
    base = init_params(CONFIG, jax.random.key(0), init="loud")
    factors = lora.init(CONFIG, RANK, jax.random.key(1))
    leaves, tree = jax.tree.flatten(factors)
    rng = np.random.default_rng(0)
    factors = jax.tree.unflatten(tree, [rng.normal(0, 0.3, leaf.shape).astype(np.float32) for leaf in leaves])
    rows = rng.normal(0, 1, (1, CONFIG.hidden_size)).astype(np.float32)
    path = tmp_path_factory.mktemp("delta") / "delta.safetensors"
    delta.save(path, base, NEW, factors, (3,), rows, {"recipe": "test"})
    return path, base, factors, rows


@pytest.mark.slow
def test_a_round_trip_gives_the_model_to_8_bits(parts):
    path, base, factors, rows = parts
    config, params = delta.apply(path, base, CONFIG)
    assert config == NEW and delta.record_of(path) == {"recipe": "test"}
    wanted = lora.with_rows(merge(base, factors, 1.0), (3,), rows)
    moved = 0
    for (where, start), end, want in zip(
        jax.tree_util.tree_leaves_with_path(base), jax.tree.leaves(params), jax.tree.leaves(wanted), strict=True
    ):
        change, due = np.asarray(end) - np.asarray(start), np.asarray(want) - np.asarray(start)
        assert np.abs(change - due).max() <= 0.03 * np.abs(due).max(), where
        moved += bool(np.abs(due).max() > 0)
    assert moved == 8, "seven projections and the embedding"
    np.testing.assert_array_equal(np.asarray(params["embed"][3]), rows[0])
    np.testing.assert_array_equal(np.asarray(params["embed"][4:]), np.asarray(base["embed"][4:]))


def test_an_update_below_the_rounding_of_16_bits_is_not_lost(parts):
    """Of weights near 1 in bfloat16 neighbours lie 2^-7 apart: a change by a tenth of it moves a tenth of the weights."""
    _, base, factors, rows = parts
    near = jax.tree.map(
        lambda leaf: jnp.asarray(1.5 + 0.1 * np.random.default_rng(0).random(leaf.shape, np.float32)), base
    )
    small = {name: jax.tree.map(lambda leaf: np.zeros_like(leaf), pair) for name, pair in factors.items()}
    up = "segments.0.0.up"
    small[up] = {"a": np.ones_like(factors[up]["a"]), "b": np.full_like(factors[up]["b"], 2**-7 / 10 / RANK)}
    params = {"base": near, "lora": small, "rows": rows}
    moved = lora.tuned(params, dtype="bfloat16")
    still = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), near)
    change = np.asarray(moved["segments"][0][0]["up"], np.float32) - np.asarray(
        still["segments"][0][0]["up"], np.float32
    )
    assert change.mean() == pytest.approx(2**-7 / 10, rel=0.2)
    assert lora.tuned(params, rows=(3,), dtype="bfloat16")["embed"].dtype == "bfloat16"


def test_the_file_is_as_large_as_was_counted_and_no_larger_than_the_limit(parts):
    path, *_ = parts
    arrays = load_file(path)
    assert delta.size(CONFIG, RANK) == sum(array.nbytes for array in arrays.values())
    assert 0 < path.stat().st_size - delta.size(CONFIG, RANK) < 2**14, "the header"
    most = delta.size(CONFIG, 5)
    delta.check_size(CONFIG, 5, most)
    with pytest.raises(InputError, match=r"rank 6 has .* fits is 5"):
        delta.check_size(CONFIG, 6, most)
    with pytest.raises(InputError, match="no rank fits"):
        delta.check_size(CONFIG, 6, 10)


def test_what_ships_of_smollm2_fits():
    """30 layers, width 576: rank 64 is the recipe's."""
    shape = {"num_layers": 30, "hidden_size": 576, "num_heads": 9, "num_kv_heads": 3, "head_dim": 64}
    smollm2 = type(CONFIG)(**{**CONFIG.__dict__, **shape, "intermediate_size": 1536, "vocab_size": 49152})
    delta.check_size(smollm2, block.Settings().rank)
    with pytest.raises(InputError, match="fits is 65"):
        delta.check_size(smollm2, 66)


def changed(path, target, name=None, array=None, **metadata):
    from safetensors import safe_open

    with safe_open(str(path), framework="np") as file:
        head = {delta.FORMAT: json.dumps(json.loads(file.metadata()[delta.FORMAT]) | metadata)}
    arrays = load_file(path)
    if name is not None:
        arrays.pop(name)
        arrays |= {} if array is None else {name: array}
    save_file(arrays, str(target), metadata=head)
    return target


def test_files_that_do_not_fit_are_refused_by_name(parts, tmp_path):
    path, base, _, _ = parts
    other = init_params(CONFIG, jax.random.key(9), init="loud")
    with pytest.raises(InputError, match="other weights"):
        delta.apply(path, other, CONFIG)
    codes = "segments.0.0.wq/a/codes"
    cases = [
        ({"name": codes}, codes),
        ({"name": codes, "array": np.zeros((2, 32, 4), np.int8)}, codes),
        ({"name": "segments.0.0.up/b/scale", "array": np.full((2, 1, RANK), np.nan, np.float32)}, "up/b/scale"),
        ({"name": "embed/ids", "array": np.array([64], np.int32)}, "embed/ids"),
        ({"name": "embed/ids", "array": np.array([-1], np.int32)}, "embed/ids"),
        ({"rank": "many"}, "does not fit"),
        ({"config": {"family": "llama"}}, "configuration is damaged"),
        ({"config": [1]}, "configuration is damaged"),
        ({"config": NEW.to_json() | {"vocab_size": 65}}, "other shapes"),
        ({"version": 2}, "no delta"),
    ]
    for case, message in cases:
        with pytest.raises(InputError, match=message):
            delta.apply(changed(path, tmp_path / "bad.safetensors", **case), base, CONFIG)
    save_file(load_file(path), str(tmp_path / "bad.safetensors"))
    with pytest.raises(InputError, match="no delta"):
        delta.apply(tmp_path / "bad.safetensors", base, CONFIG)
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-50])
    (tmp_path / "text.safetensors").write_text("hello")
    for name in ("cut", "text", "missing"):
        with pytest.raises(InputError, match="cannot be read"):
            delta.apply(tmp_path / f"{name}.safetensors", base, CONFIG)
