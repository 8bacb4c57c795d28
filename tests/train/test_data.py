"""Training batches: exact counts, block patterns, weights, and purity in (seed, step)."""

import numpy as np
import pytest

from jaxdlm.eval.tasks import vocab
from jaxdlm.train.data import Bucket, causal_batch, hide, masked_batch, prompt_ids

LISTS = {"copy": 0.5, "shuffle": 0.5}


def test_hidden_counts_are_stratified_and_exact():
    answer = np.zeros((16, 16), np.int32)
    hidden = hide(answer, np.random.default_rng(0), blocks=False)
    # one row in each sixteenth of U{1..16}
    assert sorted(hidden.sum(axis=1)) == list(range(1, 17))


def test_block_patterns_hide_everything_behind_the_block():
    hidden = hide(np.zeros((64, 64), np.int32), np.random.default_rng(1), blocks=True)[::2]
    for row in hidden:
        ends = [size * (b + 1) for size in (8, 16, 32) for b in range(64 // size)]
        assert any(
            row[end:].all() and not row[: end - size].any() for size in (8, 16, 32) for end in ends if end >= size
        )
        assert row.any()


@pytest.mark.parametrize("canvas", [16, 64])
def test_masked_batches(canvas):
    batch = masked_batch(Bucket(32, canvas, 20, 1.0, LISTS), seed=3, step=7)
    tokens, target, weight = batch["tokens"], batch["target"], batch["weight"]
    assert tokens.shape == (20, 32 + canvas) and target.shape == weight.shape == (20, canvas)
    hidden = tokens[:, 32:] == vocab.MASK
    assert ((weight > 0) == hidden).all()
    assert (tokens[:, 32:][~hidden] == target[~hidden]).all()
    np.testing.assert_allclose(weight.sum(axis=1), 1 / 20, rtol=1e-5)
    assert not (tokens[:, :32] == vocab.MASK).any()
    again = masked_batch(Bucket(32, canvas, 20, 1.0, LISTS), seed=3, step=7)
    assert all(np.array_equal(batch[name], again[name]) for name in batch)
    other = masked_batch(Bucket(32, canvas, 20, 1.0, LISTS), seed=3, step=8)
    assert not np.array_equal(other["target"], target)


def test_causal_batches_count_up_to_the_first_end_of_text():
    batch = causal_batch(Bucket(32, 16, 12, 1.0, LISTS), seed=0, step=0)
    for target, weight in zip(batch["target"], batch["weight"], strict=True):
        end = list(target).index(vocab.EOS)
        assert (weight[: end + 1] > 0).all() and not weight[end + 1 :].any()
    assert batch["weight"].sum() == pytest.approx(1, rel=1e-5)
    np.testing.assert_array_equal(batch["tokens"][:, 32:], batch["target"])


def test_prompts_are_filled_to_the_listed_lengths():
    for count, length in ((1, 32), (29, 32), (30, 48), (50, 64), (70, 73)):
        ids = prompt_ids(("copy",) * count)
        assert len(ids) == length
        assert ids[:2] == [vocab.BOS, vocab.USER] and ids[count + 2] == vocab.ASST
        assert set(ids[count + 3 :]) <= {vocab.PAD}
