"""Heads learn from what they will be asked: laws of their own drafts behind the text, as at decoding."""

import jax
import numpy as np
import pytest

from jaxdlm.core.model import KV
from jaxdlm.speculative.drafters.eagle import KINDS, untrained
from jaxdlm.speculative.state import Lent
from jaxdlm.train.recipes import eagle
from tests.speculative.drafters.test_eagle import chain_law
from tests.speculative.test_loop import TARGET
from tests.speculative.toys import VOCAB, next_logits
from tests.train.test_ppd import TEXTS

AHEAD = 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_step_reads_its_own_output_of_the_step_before(kind):
    """Step s at column p: the text up to p - s with the target's features, then s pairs with the head's."""
    drafter = untrained(KINDS[kind], TARGET).borrow(Lent(TARGET.model, TARGET.params, KV((), ())))
    steps = jax.jit(lambda: eagle.steps_of(drafter, TEXTS, AHEAD))()
    tokens = np.asarray(TEXTS.tokens)[0].tolist()
    for step, made in enumerate(steps):
        counted = np.flatnonzero(np.asarray(made.counts)[0])
        assert counted.tolist() == [p for p in range(12) if p >= step and 4 <= p + 2 < 14]
        for p in counted[::4]:
            logq = chain_law(drafter, tokens[: p - step + 2], tokens[p - step + 2 : p + 2])
            theirs = next_logits(TARGET, tokens[: p + 2]).astype(np.float64)
            theirs = np.where(logq > -np.inf, theirs, -np.inf)  # of the ids that it drafts
            law = np.exp(theirs - theirs.max()) / np.exp(theirs - theirs.max()).sum()
            entropy = -(law * np.where(law > 0, logq, 0)).sum()
            np.testing.assert_allclose(made.entropy[0, p], entropy, rtol=1e-3)


@pytest.mark.exhaustive
def test_a_step_lowers_the_loss():
    drafter = untrained(KINDS["eagle3"], TARGET).borrow(Lent(TARGET.model, TARGET.params, KV((), ())))
    learns = {leaf: value for leaf, value in drafter.leaves.items() if leaf != "ids"}
    value = jax.jit(jax.value_and_grad(lambda leaves: eagle.loss(leaves, TEXTS, jax.random.key(0), drafter, 2)))
    before, gradient = value(learns)
    after, _ = value(jax.tree.map(lambda leaf, slope: leaf - 3e-2 * slope, learns, gradient))
    assert after < before


def test_ids_that_are_drafted_are_the_commonest_of_the_answers():
    answers = np.concatenate([np.asarray(TEXTS.tokens)[0, 4:14], np.asarray(TEXTS.tokens)[1, 7:12]])
    ids, often = np.unique(answers, return_counts=True)
    top = ids[np.argsort(-often, kind="stable")][:4]
    assert eagle.frequent(TEXTS, 4, VOCAB).tolist() == sorted(top.tolist())
    assert len(set(eagle.frequent(TEXTS, 20, VOCAB).tolist())) == 20
