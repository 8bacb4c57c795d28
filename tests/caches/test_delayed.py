"""dKV-Cache: which columns a forward reads, and why one forward later than they were written."""

import jax
import numpy as np
import pytest

from jaxdlm import InputError, decode, layout, struct
from jaxdlm.caches.delayed import DelayedCache, delayed
from jaxdlm.core import loop
from jaxdlm.core.rule import Decoding
from tests.caches.toys import GRID, SAME, same, toy
from tests.conformance.toys import PROMPTS, policy

advance = jax.jit(loop.run)


@struct.dataclass
class Hasty(DelayedCache):
    """Keeps a column as soon as it is written: the keys of its mask."""

    def step(self, context, rows, start, state):
        return super().step(context, rows, start, state._replace(tokens=rows.tokens))


@pytest.mark.slow
def test_without_the_delay_even_one_layer_reads_stale_keys():
    lm = toy(1)
    hasty, exact = (decode(lm, PROMPTS, "low_confidence", cache, **GRID) for cache in (Hasty(16), "none"))
    assert not np.array_equal(hasty.score, exact.score)
    same(decode(lm, PROMPTS, "low_confidence", delayed(16), **GRID), exact)


@pytest.mark.slow
@SAME
def test_fewer_queries_once_few_columns_are_left(prediction):
    """64 columns: forwards of 64, 32 and 16; one row stops early and leaves the longest behind."""
    lm = toy(1, prediction)
    run = {"max_new": 64, "block": 32, "canvas": [[], [5] * 40], "policy": policy("factor")}
    same(decode(lm, PROMPTS[:2], cache=delayed(16), **run), decode(lm, PROMPTS[:2], **run))


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["same", "next"])
def test_the_columns_that_change_are_the_masks_of_one_forward_before(prediction):
    """Seen from outside: every other column keeps each bit of its keys."""
    lm = toy(2, prediction)
    batch = layout.lay_out(lm, PROMPTS[:2], seed=0, ids=None, **GRID)
    decoding = Decoding(lm.model, lm.params, policy("low_confidence"), delayed(100), batch.geometry)
    carry = loop.init(batch.rows, decoding, "none")
    masks, readings = [], []
    for _ in range(8):  # two blocks of four forwards
        masks.append(np.asarray(carry.rows.pending))
        new = advance(carry, carry.loops + 1, decoding)
        changed = np.zeros_like(masks[-1])
        for before, after in zip(jax.tree.leaves(carry.cache.kv), jax.tree.leaves(new.cache.kv), strict=True):
            changed |= (np.asarray(before) != np.asarray(after)).any((0, 3, 4))
        tick = int(carry.rows.tick[0])
        if tick > 1:
            reading = masks[-2]
            if prediction == "next":
                reading = reading | np.roll(reading, -1, 1)
            assert not (changed & ~reading).any(), "a column outside was written"
            readings.append(reading.sum(1))
        carry = new
    first, second, third, fourth = readings
    if prediction == "same":
        assert (first > second).all() and (second > third).all() and (third > fourth).all()
    else:  # a mask and its neighbour on the left are read: to write one of two masks side by side may save nothing
        assert (
            (first >= second).all() and (second >= third).all() and (third >= fourth).all() and (first > fourth).all()
        )


@pytest.mark.parametrize("every", [0, 1.5, "2"])
def test_bad_interval(every):
    with pytest.raises(InputError, match="every"):
        delayed(every)
