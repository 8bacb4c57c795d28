"""Fast-dLLM v2 against a slow loop, one row at a time, that keeps its keys as the released generate does."""

import functools

import jax
import numpy as np
import pytest

from jaxdlm import InputError, decode, policies
from jaxdlm.caches.sub_block import sub_block
from jaxdlm.core.model import Past
from jaxdlm.resolve import blocked
from tests.caches.toys import same, toy
from tests.conformance.toys import END, MASK, PROMPTS
from tests.marks import exhaustive

BLOCK, SIZE, NEW, LENGTH = 8, 4, 14, 48
GRID = {"max_new": NEW, "block": BLOCK}
# a tail of 4, of 7, of 2 behind whole blocks; no tail (a whole block, and two); less than a block
ASKED = [*PROMPTS, list(range(9, 17)), list(range(20, 36)), [5, 6, 7]]


def method(tau: float, size: int = SIZE):
    return policies.RECIPES["fast_dllm_v2"](tau=np.float32(tau), sub_block=np.int32(size))


@functools.partial(jax.jit, static_argnums=0)
def _read(model, params, tokens, position, past):
    out = model.apply(params, tokens, position, position >= 0, past)
    return model.head(params, out.hidden), out.kv


class Network:
    """A block-causal network that reads some columns of one row and keeps their keys, where it is told to."""

    def __init__(self, lm):
        self.model, self.params = blocked(lm.model, BLOCK), lm.params
        _, kv = _read(self.model, self.params, *(np.zeros((1, LENGTH), np.int32),) * 2, None)
        self.kv, self.calls = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), kv), 0

    def read(self, tokens, first, stop, seen, keep):
        """Logits of columns first .. stop; the stored keys of the columns `seen` are attended to, besides their own."""
        self.calls += 1
        column = np.arange(LENGTH, dtype=np.int32)[None]
        past = Past(self.kv, column, np.isin(column, seen))
        logits, kv = _read(self.model, self.params, np.int32([tokens[first:stop]]), column[:, first:stop], past)
        if keep:
            self.kv = jax.tree.map(lambda x: np.array(x), self.kv)
            for old, new in zip(jax.tree.leaves(self.kv), jax.tree.leaves(kv), strict=True):
                old[:, :, first:stop] = new
        logits = np.array(logits[0], np.float64)
        logits[:, MASK] = -np.inf
        return logits


def probabilities(logits):
    wide = np.exp(logits - logits.max(-1, keepdims=True))
    return wide / wide.sum(-1, keepdims=True)


def released(lm, prompt, tau, dual):
    """(tokens, forwards that commit columns) of the answer: a new block begins with the token that the last row of the
    block before has for it."""
    net, tokens, begin = Network(lm), list(prompt), len(prompt)

    def store():
        first = len(tokens) - BLOCK
        last = net.read(tokens, first, len(tokens), range(first), keep=True)[-1]
        tokens.append(int(last.argmax()))

    def ended():
        if END not in tokens[begin:]:
            return False
        return MASK not in tokens[begin : begin + tokens[begin:].index(END)]

    whole = len(prompt) // BLOCK * BLOCK
    for lo in range(0, whole, BLOCK):
        last = net.read(tokens, lo, lo + BLOCK, range(lo), keep=True)[-1]
    net.calls = 0
    if whole == len(prompt):
        tokens.append(int(last.argmax()))
        net.calls = 1
    while not ended():
        lo = len(tokens) // BLOCK * BLOCK
        tokens += [MASK] * (lo + BLOCK - len(tokens))
        block_keys = False
        for part in range(lo, lo + BLOCK, SIZE):
            while MASK in tokens[part : part + SIZE] and not ended():
                if dual and block_keys and tokens[part] != MASK:
                    others = [c for c in range(lo + BLOCK) if not part <= c < part + SIZE]
                    rows = net.read(tokens, part, part + SIZE, others, keep=False)
                    shifted = np.concatenate([rows[:1], rows[:-1]])
                else:
                    rows = net.read(tokens, lo, lo + BLOCK, range(lo), keep=dual)
                    block_keys = True
                    shifted = np.concatenate([rows[:1], rows[:-1]])[part - lo : part - lo + SIZE]
                p = probabilities(shifted)
                masked = np.array(tokens[part : part + SIZE]) == MASK
                sure = np.where(masked, p.max(-1), -np.inf)
                for i in set(np.flatnonzero(sure > tau)) | {int(sure.argmax())}:
                    tokens[part + i] = int(p[i].argmax())
        if ended() or len(tokens) >= begin + NEW:
            break
        store()
    answer = tokens[begin:]
    if ended():
        stop = answer.index(END) + 1
        answer = answer[:stop] + [END] * max(NEW - stop, 0)
    return answer[:NEW], net.calls


@pytest.mark.slow
@pytest.mark.parametrize("cache", [exhaustive("none"), "block_exact", "sub_block"])
@pytest.mark.parametrize("tau", [1.0, 0.3])
def test_decodes_like_the_released_loop(cache, tau):
    lm = toy(2, "next", "block_causal")
    kept = sub_block(SIZE) if cache == "sub_block" else cache
    out = decode(lm, ASKED, method(tau), kept, **GRID)
    for row, prompt in enumerate(ASKED):
        tokens, forwards = released(lm, prompt, tau, dual=cache == "sub_block")
        assert out.tokens[row].tolist() == tokens, row
        assert out.forwards[row] == forwards, row


@pytest.mark.slow
def test_a_lossy_cache_is_lossy_and_neighbours_do_not_matter():
    lm, kept = toy(2, "next", "block_causal"), sub_block(SIZE)
    batch, exact = (decode(lm, ASKED, method(0.3), cache, **GRID) for cache in (kept, "block_exact"))
    assert not np.array_equal(batch.score, exact.score), "nothing was read from the store"
    alone = decode(lm, ASKED[1:2], method(0.3), kept, ids=[1], **GRID)
    for name in ("tokens", "forwards", "commit_step"):
        np.testing.assert_array_equal(getattr(alone, name)[0], getattr(batch, name)[1])


@pytest.mark.exhaustive
@pytest.mark.slow
def test_nothing_is_stale_in_one_layer():
    lm = toy(1, "next", "block_causal")
    same(decode(lm, ASKED, method(0.3), sub_block(SIZE), **GRID), decode(lm, ASKED, method(0.3), **GRID))


@pytest.mark.slow
def test_nothing_is_stale_in_a_block_that_is_one_sub_block():
    """Whatever the rule: one that goes on where nothing is open, on a model whose rows predict their own column."""
    lm = toy(2, "same", "block_causal")
    same(decode(lm, ASKED, "llada21", sub_block(BLOCK), **GRID), decode(lm, ASKED, "llada21", "block_exact", **GRID))


def test_bad_sizes():
    with pytest.raises(InputError, match="size"):
        sub_block(0)
    with pytest.raises(InputError, match="divisor"):
        decode(toy(2, "next", "block_causal"), [[5]], method(0.3), sub_block(3), **GRID)
    with pytest.raises(InputError, match="block_causal"):
        decode(toy(), [[5]], method(0.3), sub_block(), **GRID)
