"""Sub-blocks: which columns the host sees, by hand; whole decodes are in tests/caches/test_sub_block.py."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, chain, decode, policies
from jaxdlm.rules import sample, select_above
from jaxdlm.rules.sub_blocks import sub_blocks
from tests.caches.toys import same, toy
from tests.conformance.toys import PROMPTS
from tests.rules.hand import row

GREEDY = chain(sample(), select_above(0.9))
O, W = True, False


@pytest.mark.parametrize(
    ("open_", "tick", "lead", "expected"),
    [
        ([O, O, O, O, O, O, O, O], 0, False, [O, O, O, W, W, W, W, W]),
        ([O, O, O, O, O, O, O, O], 0, True, [O, W, W, W, W, W, W, W]),  # the block's first column goes alone
        ([O, O, O, O, O, O, O, O], 1, True, [O, O, O, W, W, W, W, W]),  # only in its first forward
        ([W, O, O, O, O, O, O, O], 0, True, [O, O, O, W, W, W, W, W]),  # and if it is open
        ([W, W, W, O, O, O, O, O], 3, True, [W, W, W, O, O, O, W, W]),
        ([W, W, W, W, W, W, W, O], 9, True, [W, W, W, W, W, W, O, O]),  # the last one is shorter
        ([W, W, O, O, W, W, W, W], 2, True, [O, O, O, W, W, W, W, W]),  # given columns on the right
    ],
)
def test_the_first_sub_block_with_an_open_column(open_, tick, lead, expected):
    now = sub_blocks(GREEDY, 3, lead=lead).current(row(open_, tick=tick))
    np.testing.assert_array_equal(now, expected)  # written columns among them count for nothing


@pytest.mark.slow
def test_one_sub_block_is_the_host_and_one_column_is_left_to_right():
    lm = toy(2, "same", "block_causal")
    run = {"max_new": 8, "block": 8}
    same(decode(lm, PROMPTS, sub_blocks(GREEDY, 8, lead=False), **run), decode(lm, PROMPTS, GREEDY, **run))
    out = decode(lm, PROMPTS, sub_blocks(GREEDY, jnp.int32(1), lead=False), **run)
    np.testing.assert_array_equal(out.commit_step, np.broadcast_to(np.arange(8), (3, 8)))


def test_bad_arguments():
    with pytest.raises(InputError, match="sub_block=0"):
        sub_blocks(GREEDY, 0)
    with pytest.raises(InputError, match="no rule"):
        sub_blocks("threshold")
    with pytest.raises(InputError, match="as its host"):
        sub_blocks(policies.RECIPES["freedave"]())
    with pytest.raises(InputError, match="whole canvas"):
        sub_blocks(policies.RECIPES["prophet"]())
    with pytest.raises(InputError, match="before it"):
        sub_blocks(select_above(0.9))
