"""A row that takes the place of a finished one in the middle of a decode gets the tokens that it gets from the start.

Which are those that it gets alone: test_invariants and tests/conformance.
"""

import functools

import jax
import jax.numpy as jnp
import pytest

import jaxdlm
from jaxdlm import layout, output, policies, resolve
from jaxdlm.core import loop
from jaxdlm.core.rule import Decoding
from jaxdlm.stops import read_stops
from tests.caches.test_invariants import REUSING
from tests.caches.toys import GRID, same, toy
from tests.conformance.toys import MASK, policy

FOREVER = jnp.int32(2**30)
OLD = ([3, 9, 4, 1], [7, 2, 11, 5, 8, 13, 6], [30, 1, 21])
NEW = [17, 40, 2, 9, 33, 25, 18, 7, 3, 28]
# the first row has one block to write, so that it ends while the others are at work
CANVAS = [[MASK] * 4 + [9, 3, 8, 4, 1, 2, 3, 4], [], []]
CASES = [(cache, "same", "full", 0.0) for cache in ("none", *REUSING) if cache not in ("dual", "delayed")]
CASES += [("dual", "next", "full", 0.0), ("delayed", "next", "full", 0.0)]
CASES += [("block_exact", "same", "block_causal", 1.5), ("sub_block", "next", "block_causal", 0.0)]
CASES += [("prefix", "same", "full", "guided")]  # reads the text of the row that is there now
# what each of these has apart, a case above has, too
OTHERS = [("dual", "same", "full", 0.0), ("delayed", "same", "full", 0.0), ("dual", "same", "full", 1.5)]
OTHERS += [("block_exact", "same", "block_causal", 0.0)]
FURTHER = ("recap", "refresh", "interval")  # which keep what others keep, at other times
OTHERS += [case for case in CASES if case[0] in FURTHER]
CASES = [case for case in CASES if case[0] not in FURTHER]
CASES += [pytest.param(*case, marks=pytest.mark.exhaustive) for case in OTHERS]
OPTIONS = REUSING | {"sub_block": {"size": 2}}


@functools.cache
def programs():
    return jax.jit(loop.init, static_argnames="save"), jax.jit(loop.admit), jax.jit(loop.run)


@pytest.mark.slow
@pytest.mark.parametrize(("cache", "prediction", "attention", "guidance"), CASES)
def test_a_new_row_in_the_place_of_a_finished_one(cache, prediction, attention, guidance):
    lm, kept = toy(2, prediction, attention), policies.CACHES[cache](**OPTIONS.get(cache, {}))
    if guidance == "guided":
        guides = [jaxdlm.guides.repetition(1.5), jaxdlm.guides.banned([[17, 40], [9, 3], [8]], lm)]
        rule = jaxdlm.rules.guided(policy("low_confidence", 1.0), guides)
    else:
        rule = policy("low_confidence", 1.0, **({"cfg_scale": guidance} if guidance else {}))
    batch = layout.lay_out(lm, OLD, seed=3, ids=[0, 1, 2], canvas=CANVAS, **GRID)
    late = layout.lay_out(lm, [NEW, *OLD[1:]], seed=3, ids=[7, 1, 2], **GRID)
    assert late.geometry == batch.geometry
    model = resolve.blocked(lm.model, GRID["block"])
    decoding = Decoding(model, lm.params, rule, kept, batch.geometry)
    start, admit, run = programs()
    whole = run(start(late.rows, decoding, save="commit"), FOREVER, decoding)
    carry = run(start(batch.rows, decoding, save="commit"), jnp.int32(6), decoding)
    assert carry.rows.done.tolist() == [True, False, False]
    assert (carry.rows.tick[1:] > 0).all(), "they are inside a block"
    before = run._cache_size()
    carry = run(admit(carry, late.rows, carry.rows.done, decoding), FOREVER, decoding)
    assert run._cache_size() == before, "admitting a row compiled the loop again"
    papers = read_stops(lm, False)
    got, expected = (output.finish(lm, c.rows, c.trace, late, GRID["max_new"], papers) for c in (carry, whole))
    same(got, expected)
