"""The loop: one `while`, resumable at any trip, nothing given ever changes, a finished row keeps every bit."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxdlm import InputError, _decode, decode, layout, resolve
from jaxdlm.core import loop
from jaxdlm.core.carry import Rows, Trace, Update
from jaxdlm.core.compiled import compiled
from jaxdlm.core.rule import Decoding
from tests.conformance.toys import (
    EDGES,
    END,
    GRID,
    LONGER,
    MASK,
    PAIRS,
    PROMPTS,
    covering,
    model,
    parameters,
    policy,
    temperatures,
)
from tests.rules.hand import row as hand_row

FOREVER = jnp.int32(2**30)
FIRST = ("threshold", "none")
SPLIT = (slice(0, 3), slice(3, 4))
start = jax.jit(loop.init, static_argnames="save")
advance = jax.jit(loop.run)


def prepare(recipe: str, cache: str, prompts=PROMPTS, temperature: float | None = 1.0, kind: str = "same"):
    lm = model(kind)
    batch = layout.lay_out(lm, prompts, seed=3, ids=None, stops=[[(END,)]] * len(prompts), **GRID)
    rule, kept = policy(recipe, temperature), resolve.resolve_cache(cache)
    return batch, Decoding(lm.model, lm.params, rule, kept, batch.geometry)


def plain(tree):
    """NumPy leaves; keys become their bits."""
    turn = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x  # noqa: E731
    return jax.device_get(jax.tree.map(turn, tree))


def equal(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, plain(a), plain(b))


def whiles(jaxpr) -> int:
    """`while` equations at any depth."""
    count = 0
    for equation in jaxpr.eqns:
        count += equation.primitive.name == "while"
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            count += whiles(inner) if hasattr(inner, "eqns") else 0
    return count


def test_neither_the_mask_nor_an_id_without_a_word_nor_a_score_that_is_none_is_written():
    """Whatever rule asks for it; what it leaves alone may be anything."""
    config = model("same").config
    known = dataclasses.replace(config, tokens=dataclasses.replace(config.tokens, tokenizer_size=40))
    backbone = dataclasses.replace(model("same").model, config=known)
    view = hand_row([True, True, True, False])

    def is_valid_update(token, score=(0, 0, 0, 0), commit=(True, True, False, True)):
        update = Update(None, token=jnp.int32(token), score=jnp.float32(score), commit=jnp.asarray(commit))
        return bool(loop.is_valid_update(update, view, backbone))

    assert is_valid_update([1, 39, MASK, MASK], [0, -jnp.inf, jnp.nan, jnp.nan])
    assert not is_valid_update([1, MASK, 1, 1])
    assert not is_valid_update([40, 1, 1, 1])
    assert not is_valid_update([1, 1, 1, 1], [0, jnp.nan, 0, 0])
    assert loop.is_valid_update(Update(None), view, backbone)


@pytest.mark.parametrize(("recipe", "cache"), [(recipe, cache) for _, recipe, cache in PAIRS])
def test_the_whole_decode_is_one_while(recipe, cache):
    batch, decoding = prepare(recipe, cache)
    assert whiles(_decode._run.trace(batch.rows, decoding, "commit").jaxpr.jaxpr) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "recipe", "cache"), covering(PAIRS))
def test_pieces_and_invariants(kind, recipe, cache):
    for temperature in temperatures(recipe):
        pieces_and_invariants(*prepare(recipe, cache, temperature=temperature, kind=kind))


def pieces_and_invariants(batch, decoding) -> None:
    carry = start(batch.rows, decoding, save="commit")
    whole = advance(carry, FOREVER, decoding)
    pieces = carry
    for until in (2, 5, FOREVER):
        pieces = advance(pieces, jnp.int32(until), decoding)
    equal(pieces, whole)

    bound, prefilled = int(decoding.policy.forwards(batch.geometry)), np.asarray(batch.rows.prefilled)
    single = carry
    while not bool(single.rows.done.all()):
        new = advance(single, single.loops + 1, decoding)
        old, now = plain(single.rows), plain(new.rows)
        np.testing.assert_array_equal(
            now.tokens[prefilled], plain(batch.rows).tokens[prefilled], "a given column changed"
        )
        for row in np.flatnonzero(old.done):
            jax.tree.map(lambda a, b, row=row: np.testing.assert_array_equal(a[row], b[row]), old, now)
        assert (now.forwards - old.forwards <= 1).all() and (now.step - old.step >= now.forwards - old.forwards).all()
        assert int(new.loops) <= 4 * bound, "the loop does not end"
        single = new
    equal(single, whole)
    rows = plain(whole.rows)
    assert not rows.pending.any() and rows.done.all()
    assert (rows.forwards <= rows.step).all() and (rows.step <= bound).all() and (rows.forwards >= 1).all()
    assert (rows.tokens[:, batch.geometry.prompt :] != MASK).all()


def outcome(rows, decoding):
    carry = loop.run(loop.init(rows, decoding, "commit"), FOREVER, decoding)
    steps = carry.trace.commit_step
    here = jnp.arange(steps.shape[1])[None] < carry.rows.stop[:, None]  # nothing is told of what the end cut away
    return carry.rows.tokens, carry.rows.forwards, jnp.where(here, steps, -1)


DEVICES = ("threshold", "dual")
OTHERS = [pytest.param(*pair, marks=pytest.mark.exhaustive) for pair in EDGES if pair != DEVICES]


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "cache"), [DEVICES, *OTHERS])
def test_pmap_and_shard_map_over_four_devices(recipe, cache):
    """One row per device; the devices run their own number of trips. Policies are replicated, whichever they are."""
    assert jax.device_count() >= 4
    prompts = [*LONGER, LONGER[1][:3]]
    batch, decoding = prepare(recipe, cache, prompts)
    split = jax.tree.map(lambda x: x.reshape(4, 1, *x.shape[1:]), batch.rows)
    mapped = jax.pmap(outcome, in_axes=(0, None))
    mesh, data = Mesh(np.array(jax.devices()[:4]), ("data",)), PartitionSpec("data")
    shard = functools.partial(jax.shard_map, mesh=mesh, in_specs=(data, PartitionSpec()), out_specs=data)
    sharded = jax.jit(shard(outcome, check_vma=False))

    for temperature in temperatures(recipe):
        rule = policy(recipe, temperature)
        moving = decoding.replace(policy=rule)
        # rows of two buckets, and one alone
        ways = [decode(model("same"), prompts[at], rule, cache, seed=3, ids=range(4)[at], **GRID) for at in SPLIT]
        whole = [np.concatenate([getattr(out, name) for out in ways]) for name in ("tokens", "forwards", "commit_step")]
        found = {
            "pmap": jax.tree.map(lambda x: x[:, 0], plain(mapped(split, moving))),
            "shard_map": plain(sharded(batch.rows, moving)),
        }
        for name, (tokens, *others) in found.items():
            for a, b in zip((tokens[:, batch.geometry.prompt :], *others), whole, strict=True):
                np.testing.assert_array_equal(a, b, f"{name}, temperature {temperature}")


class Blank(NamedTuple):
    """As much of a carry as `decode` looks at in the end."""

    rows: Rows
    trace: Trace


@compiled(static_argnames=("save",))
def stub(rows, decoding, save):
    """Takes what `_run` takes, and decodes nothing: a compiled program is found by its arguments, not by what it does."""
    shape = (rows.tokens.shape[0], decoding.geometry.canvas)
    return Blank(rows, Trace(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32), None))


def nothing_is_traced_again(recipe: str, cache: str, compiled: Callable[[], int], prompts) -> int:
    """Programs before and after."""
    lm, run = model("same"), {"cache": cache, **GRID}
    decode(lm, prompts, policy(recipe, 1.0), **run)
    before = compiled()
    decode(lm, [p[::-1] for p in prompts], policy(recipe, 0.7), seed=9, ids=[5, 6, 7][: len(prompts)], **run)
    numbers = {
        name: value
        for name, value in parameters(recipe).items()
        if type(value) is float and value and name not in ("cfg_scale", "temperature")
    }
    for name, value in numbers.items():
        try:
            changed = policy(recipe, 1.0, **{name: value * 0.5})
        except InputError as error:  # of another mode
            assert "means nothing" in str(error)
            continue
        decode(lm, prompts, changed, **run)
    assert compiled() == before, f"traced again for one of {sorted(numbers)}"
    return before


@pytest.mark.parametrize(("recipe", "cache"), [(recipe, cache) for _, recipe, cache in PAIRS])
def test_numbers_are_no_part_of_what_a_program_is_found_by(recipe, cache, monkeypatch):
    """New numbers, seeds, ids and prompts of the same bucket find the same program, another block does not."""
    assert stub.__wrapped__.__code__.co_varnames[:3] == _decode._run.__wrapped__.__code__.co_varnames[:3]
    monkeypatch.setattr(_decode, "_run", stub)
    before = nothing_is_traced_again(recipe, cache, stub._cache_size, PROMPTS)
    decode(model("same"), PROMPTS[:1], policy(recipe, 1.0), cache, max_new=8, block=8)
    assert stub._cache_size() == before + 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "cache"),
    [FIRST, *(pytest.param(*pair, marks=pytest.mark.exhaustive) for pair in EDGES if pair != FIRST)],
)
def test_nothing_is_traced_again(recipe, cache):
    """The loop itself, for one pair of those whose arguments are held above."""
    nothing_is_traced_again(recipe, cache, _decode._run._cache_size, PROMPTS)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_eager_steps_are_the_compiled_loop():
    """Operation by operation, without jit around the step, into the second block."""
    batch, decoding = prepare("threshold", "none", PROMPTS[:2])
    carry = start(batch.rows, decoding, save="commit")
    whole = advance(carry, GRID["block"] + 1, decoding)
    for _ in range(int(whole.loops)):
        carry = loop.step(carry, decoding)
    assert int(whole.loops) == GRID["block"] + 1 and bool((np.asarray(whole.rows.tokens) == MASK).any())
    for a, b in ((carry.rows.tokens, whole.rows.tokens), (carry.rows.forwards, whole.rows.forwards)):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(carry.trace.commit_step, whole.trace.commit_step)
