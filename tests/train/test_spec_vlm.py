"""A head for images learns from what it will be asked: the first half of each prompt, read as an image by the gate's choice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm.core.model import KV
from jaxdlm.speculative.drafters.eagle import KINDS, blank, drafting
from jaxdlm.speculative.heads import read_trained, write_trained
from jaxdlm.speculative.state import Lent
from jaxdlm.speculative.visual import BRANCHES, LEAVES, Compressor
from jaxdlm.train.recipes import spec_vlm
from tests.speculative.test_loop import TARGET
from tests.speculative.test_visual import last_output
from tests.train.test_ppd import TEXTS

HEAD = blank(KINDS["eagle2"], TARGET, feed=16, visual=True)


def drafter(way: str):
    number = BRANCHES.index(way) if way in BRANCHES else len(BRANCHES)
    return drafting(KINDS["eagle2"], HEAD, compressor=Compressor(jnp.int32(number))).borrow(
        Lent(TARGET.model, TARGET.params, KV((), ()))
    )


@pytest.mark.slow
def test_a_step_asks_what_is_asked_at_decoding():
    """The head's outputs behind an image of two and one of three tokens: the loss is of them, over the answers."""
    one = jax.jit(lambda: spec_vlm.step_of(drafter("conv"), TEXTS, jax.random.key(0)))()
    for row, count in enumerate((2, 3)):
        tokens = np.asarray(TEXTS.tokens)[row].tolist()
        counted = np.flatnonzero(np.asarray(one.counts)[row]).tolist()
        assert counted == [p for p in range(14) if int(TEXTS.first[row]) <= p + 2 < int(TEXTS.stop[row])]
        for p in counted[::4]:
            hidden = last_output(tokens[: p + 2], count, "conv")
            logits = np.asarray(TARGET.model.head(TARGET.params, jnp.asarray(hidden, jnp.float32)), np.float64)
            logq = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
            theirs = np.asarray(TARGET.logits([tokens[: p + 2]]), np.float64)[0, -1]
            law = np.exp(theirs - theirs.max()) / np.exp(theirs - theirs.max()).sum()
            np.testing.assert_allclose(one.entropy[row, p], -(law * logq).sum(), rtol=2e-3)


@pytest.mark.exhaustive
def test_a_step_lowers_the_loss_and_every_way_learns():
    value = jax.jit(jax.value_and_grad(lambda leaves, key: spec_vlm.loss(leaves, TEXTS, key, drafter("gate"))))
    keys, leaves = jax.random.split(jax.random.key(0), 12), HEAD.leaves
    moved, first, last = set(), [], []
    for key in keys:
        before, gradient = value(leaves, key)
        moved |= {leaf for leaf in LEAVES if float(jnp.abs(gradient[leaf]).max()) > 0}
        stepped = jax.tree.map(lambda leaf, slope: leaf - 1e-2 * slope, leaves, gradient)
        first.append(float(before))
        last.append(float(value(stepped, key)[0]))
    assert sum(last) < sum(first) and moved == set(LEAVES)


def test_a_head_with_ways_to_read_images_comes_back_from_its_file(tmp_path):
    file = tmp_path / "spec_vlm.safetensors"
    write_trained(file, "eagle2", HEAD, np.float32)
    back = read_trained(file, "eagle2")
    assert back.leaves.keys() == HEAD.leaves.keys()
    for leaf, value in HEAD.leaves.items():
        np.testing.assert_array_equal(back.leaves[leaf], value)
