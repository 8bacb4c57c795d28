"""Prompt tokens: the target's own text whatever they say, trees as planned, and guesses that are the target's at them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, decode
from jaxdlm import speculative as S
from jaxdlm.layout import lay_out_rows
from jaxdlm.models.params import fingerprint
from jaxdlm.speculative import loop, sparse_trees, verify
from jaxdlm.speculative.drafters.ppd import PromptTokens, read_prompts, untrained
from jaxdlm.speculative.policy import Decoding, Speculation
from jaxdlm.speculative.prompted import Prompted, Weights
from jaxdlm.speculative.warp import warp
from tests.speculative.test_loop import TARGET
from tests.speculative.toys import MAX_NEW, PROMPTS, VOCAB, expected, model

RUN = {"max_new": MAX_NEW, "seed": 5}
# read off the released trees for Vicuna-7B
VICUNA = (
    (0.48335, 0.14342, 0.07360, 0.04540, 0.03087, 0.02155, 0.01658, 0.01323, 0.00932, 0.00845),
    (0.2626, 0.1456, 0.0811, 0.0576, 0.0428, 0.0323, 0.0257, 0.0215, 0.0190, 0.0155),
    (0.1641, 0.1176, 0.0809, 0.0578, 0.0459, 0.0367, 0.0313, 0.0232, 0.0237, 0.0179),
)


def test_the_best_trees_of_released_sizes_accept_what_the_paper_counts():
    gains = [
        sparse_trees.expected(VICUNA, sparse_trees.best_paths(VICUNA, a, size))
        for a, size in ((1, 10), (2, 33), (3, 34))
    ]
    np.testing.assert_allclose(gains, [0.846, 1.343, 1.388], atol=2e-3)


def test_best_paths_are_those_of_all_paths_sorted():
    acc = ((0.5, 0.2, 0.1), (0.4, 0.3, 0.05), (0.35, 0.25, 0.15))
    every = [path for depth in (1, 2, 3) for path in itertools.product(range(3), repeat=depth)]
    worth = {path: float(np.prod([acc[d][k] for d, k in enumerate(path)])) for path in every}
    for count in (1, 5, 20):
        chosen = sparse_trees.best_paths(acc, 3, count)
        assert sum(worth[path] for path in chosen) == pytest.approx(sum(sorted(worth.values())[-count:]))
        assert all(path[:-1] in ((), *chosen[: chosen.index(path)]) for path in chosen), "parents first"


@pytest.mark.parametrize("budget", [2, 7, 30])
def test_planned_trees_keep_to_the_budget(budget):
    forest = sparse_trees.plan(VICUNA, budget)
    assert forest.trees[0] == sparse_trees.Sparse((), ())
    for tree in forest.trees[1:]:
        assert len(tree.paths) + sum(tree.prompts) <= budget and set(tree.prompts) <= {1, 2, 3}
        own = sparse_trees.endings(VICUNA, tree.paths)
        assert min(own) >= -1e-9 and sum(own) <= 1
    arrays = forest.arrays()
    for at, tree in enumerate(forest.trees):
        count = len(tree.paths) + sum(tree.prompts) + 3
        assert arrays["exists"][at].sum() == count
        assert (arrays["parent"][at, :count] < np.arange(count)).all()
        behind = arrays["behind"][at, : 1 + len(tree.paths)]
        assert (behind >= 0).sum(1).tolist() == [3, *tree.prompts]
        assert sorted(behind[behind >= 0].tolist()) == list(range(len(tree.paths), count))


def policy(temperature=0.0, drafter=None) -> Speculation:
    sampling = warp(jnp.float32(temperature), noise="shared")
    return Speculation(untrained(TARGET) if drafter is None else drafter, sampling, verify.greedy)


@jax.jit
def one_forward(tokens: jax.Array, rows: jax.Array) -> jax.Array:
    position = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    target, weights = Prompted(TARGET.model), Weights(TARGET.params, rows)
    return target.head(weights, target.apply(weights, tokens, position, position >= 0).hidden)[0]


def guesses(known: list[int], count: int, rows: jax.Array) -> list[np.ndarray]:
    """Logits of prompt tokens 1, 2, ... behind a text, from one forward over both without a cache."""
    tokens = np.zeros((1, 32), np.int32)
    tokens[0, : len(known) + count] = [*known, *range(VOCAB, VOCAB + count)]
    return list(np.asarray(one_forward(jnp.asarray(tokens), rows))[len(known) : len(known) + count])


@pytest.mark.slow
def test_guesses_are_the_targets_at_prompt_tokens_behind_the_committed_text():
    """After each of four rounds, of every row, for as many distances as the last accepted node has prompt tokens."""
    drafter = untrained(TARGET, budget=8)
    rows, prompt = lay_out_rows(TARGET, PROMPTS, max_new=MAX_NEW, seed=5, ids=None, raw=False)
    decoding = Decoding(TARGET.model, TARGET.params, policy(drafter=drafter))
    carry = jax.jit(lambda: loop.init(rows, decoding, prompt=prompt, max_new=MAX_NEW, save="none"))()
    once, counts = jax.jit(functools.partial(loop.step, decoding=decoding)), set()
    for _ in range(4):
        carry = once(carry)
        for row in np.flatnonzero(~np.asarray(carry.rows.done)):
            count = int(carry.drafter.count[row])
            known = np.asarray(carry.rows.tokens)[row, : int(carry.rows.length[row]) - 1].tolist()
            counts.add(count)
            for place, logits in enumerate(guesses(known, count, drafter.rows)):
                assert np.asarray(carry.drafter.token)[row, place].tolist() == np.argsort(-logits)[:3].tolist()
    assert counts <= {1, 2, 3} and 3 in counts


@pytest.mark.slow
def test_target_rows_are_as_without_prompt_tokens():
    """The text is the target's, greedy and sampled; the score of each token is what plain decoding says."""
    for temperature in (0.0, 1.0):
        plain = decode(TARGET, PROMPTS, S.autoregressive(jnp.float32(temperature)), **RUN)
        out = decode(TARGET, PROMPTS, policy(temperature), **RUN)
        np.testing.assert_array_equal(out.tokens, plain.tokens)
        np.testing.assert_allclose(out.score, plain.score, rtol=1e-4, atol=1e-4)
        assert (out.forwards <= plain.forwards).all()


@pytest.mark.slow
def test_guesses_that_come_true_are_accepted():
    """Candidates swapped for the text itself: a round commits as many tokens as it has distances, and one."""
    text = np.full((len(PROMPTS), 64), 0, np.int32)
    for row, (prompt, answer) in enumerate(zip(PROMPTS, expected(3).tolist())):
        text[row, : len(prompt) + MAX_NEW] = [*prompt, *answer]
    known = jnp.asarray(text)

    class Knowing(PromptTokens):
        def propose(self, state, rows, key):
            column = rows.length[:, None] + jnp.arange(3, dtype=jnp.int32)[None]
            token = jnp.take_along_axis(known, column, axis=1)[:, :, None]
            return super().propose(state._replace(token=jnp.broadcast_to(token, state.token.shape)), rows, key)

    from jaxdlm import struct

    one = untrained(TARGET, budget=12)
    knowing = struct.dataclass(Knowing)(one.rows, one.forest, one.vocab, ranks=3)
    out = decode(TARGET, PROMPTS, policy(drafter=knowing), **RUN)
    np.testing.assert_array_equal(out.tokens, expected(3))
    assert out.forwards.sum() < 0.6 * (out.commit_step >= 0).sum()


def test_prompt_tokens_of_another_target_are_refused(tmp_path):
    from jaxdlm.checkpoint.safetensors import write_safetensors

    one = untrained(TARGET)
    for drafter, message in (
        (one.replace(made_for=fingerprint(model(8).params)), "trained for another target than toy"),
        (one.replace(rows=jnp.zeros((3, 7))), "have size 7, target toy 24"),
    ):
        with pytest.raises(InputError, match=message):
            decode(TARGET, PROMPTS, policy(drafter=drafter), **RUN)
    file = tmp_path / "ppd.safetensors"
    with pytest.raises(InputError, match="must be a file of scripts/train"):
        S.ppd(file)
    write_safetensors(file, {"prompts": np.zeros((2, 4), np.float32)}, {})
    with pytest.raises(InputError, match="holds no prompt tokens"):
        read_prompts(file)
    with pytest.raises(InputError, match="budget=61"):
        S.ppd(budget=61)
