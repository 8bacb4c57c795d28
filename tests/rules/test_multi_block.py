"""Several blocks at once: a loop written from the paper, and the limit of one block after the other."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, decode, policies
from jaxdlm.rules.multi_block import multi_block
from tests.conformance.toys import GRID, PROMPTS, model
from tests.rules.hand import row, scored

BLOCK, BLOCKS = 4, 3


def oracle(entropies, tau, add):
    """(columns written, blocks open) after each forward of a loop over blocks, entropies [T, W]."""
    open_blocks, left, seen = 1, np.ones(BLOCK * BLOCKS, bool), []
    for entropy in entropies:
        if not left.any():
            break
        last = left[(open_blocks - 1) * BLOCK : open_blocks * BLOCK]
        if open_blocks < BLOCKS and (~last).sum() >= np.float32(add) * BLOCK:
            open_blocks += 1
        columns = [i for i in range(open_blocks * BLOCK) if left[i]]
        chosen = {i for i in columns if entropy[i] <= tau} | {min(columns, key=lambda i: (entropy[i], i))}
        first = [i for i in columns if i // BLOCK == columns[0] // BLOCK]
        if not chosen & set(first):
            chosen.add(min(first, key=lambda i: (entropy[i], i)))
        left[list(chosen)] = False
        seen.append((sorted(chosen), open_blocks))
    return seen


@pytest.mark.parametrize(("tau", "add"), [(0.5, 0.1), (0.5, 0.5), (0.2, 1.0), (0.0, 0.0), (2.0, 0.25)])
def test_slow_oracle(tau, add):
    random = np.random.default_rng(0)
    for _ in range(4):
        entropies = random.uniform(0, 2, (BLOCK * BLOCKS, BLOCK * BLOCKS)).round(1)
        rule, left = multi_block(tau, add), np.ones(BLOCK * BLOCKS, bool)
        state, expected = rule.init(len(left), 5), oracle(np.float32(entropies), np.float32(tau), add)
        for entropy, (columns, blocks) in zip(entropies, expected, strict=False):
            done = ~left.reshape(BLOCKS, BLOCK).any(1)
            view = row(left, blocks=BLOCKS)._replace(block=jnp.int32(np.argmin(done)))
            commit, state = scored(rule, -entropy, view, state)
            assert list(np.flatnonzero(commit)) == columns
            assert int(state) == blocks
            left &= ~commit
        assert not left.any(), "every forward writes a column"


def test_no_block_opens_behind_the_end_of_the_text():
    left = np.arange(BLOCK * BLOCKS) > 0
    for token, blocks in ((6, 1), (1, 2)):
        view = row(left, blocks=BLOCKS, tokens=np.where(left, 7, token))
        _, state = scored(multi_block(0.5, 0.1), -np.ones(len(left)), view, jnp.int32(1))
        assert int(state) == blocks


def test_one_block_after_the_other_is_the_decoder_of_dparallel():
    heat = {"temperature": jnp.float32(0.0)}
    one = decode(model("same"), PROMPTS, policies.d3llm(jnp.float32(0.7), jnp.float32(1.0), **heat), **GRID)
    other = decode(model("same"), PROMPTS, policies.dparallel(jnp.float32(0.7), **heat), **GRID)
    for field in ("tokens", "forwards", "commit_step"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


@pytest.mark.parametrize("wrong", [{"tau": -1}, {"add": -0.1}, {"tau": "low"}])
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match="must be"):
        multi_block(**wrong)
