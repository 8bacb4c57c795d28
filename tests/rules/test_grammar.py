"""Steering, planning and constraining a step, against the law over every text of the language."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2, kstest

import jaxdlm as jd
from jaxdlm import InputError, chain
from jaxdlm.core.carry import Row, Status, Text, Update
from jaxdlm.core.compose import walk_rules
from jaxdlm.models.config import TokenIds
from jaxdlm.rules.grammar import Constrain, Steer, constrain, constrained, plan, steer
from jaxdlm.rules.insert import Preceded
from tests.core.test_automaton import V, W, belongs, case, one

IDS = TokenIds(mask=V, pad=0, eos=(V - 1,))
SEEDS = [seed for seed in range(40) if len(case(seed)[-1]) > 3]
MANY = [0, pytest.param(500, marks=pytest.mark.exhaustive)]  # cases beyond those


def seeds(more: int):
    """Random problems of more than three texts: the first ones, or so many others."""
    others = (seed for seed in itertools.count(40) if len(case(seed)[-1]) > 3)
    return list(itertools.islice(others, more)) or SEEDS


def row(tokens, fixed, automaton) -> Row:
    """The window as one block; what is not fixed is open."""
    column, full = jnp.arange(W, dtype=jnp.int32), jnp.ones(W, bool)
    tokens = jnp.where(jnp.asarray(fixed), jnp.asarray(tokens), V)
    return Row(
        tokens=tokens.astype(jnp.int32), open=~jnp.asarray(fixed), pending=~jnp.asarray(fixed), active=full,
        prefilled=~full, column=column, position=column + 3, exists=full, step=jnp.int32(0), tick=jnp.int32(0),
        block=jnp.int32(0), blocks=1, ids=IDS, text=Text(tokens, jnp.asarray(fixed), jnp.int32(0)), grammar=automaton,
    )  # fmt: skip


def marginals(law, z):
    expected = np.zeros((W, V))
    for text, weight in law.items():
        expected[np.arange(W), list(text)] += np.exp(weight - z)
    return expected


@jax.jit
def steered(logp, tokens, fixed, automaton, temperature):
    rule = steer(temperature)
    return rule.apply(Update(logp), (), row(tokens, fixed, automaton), jax.random.key(0))[0].logits


@pytest.mark.parametrize("more", MANY)
def test_steered_logits_are_the_columns_laws(more):
    for seed in seeds(more):
        made, logp, tokens, fixed, law = case(seed)
        logits = np.asarray(steered(logp, tokens, fixed, one(made), jnp.float32(1.0)))
        expected = marginals(law, np.logaddexp.reduce(list(law.values())))
        found = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
        np.testing.assert_allclose(found[~fixed], expected[~fixed], atol=3e-5)
        np.testing.assert_array_equal(logits[fixed], logp[fixed])


def test_a_sampler_of_any_temperature_draws_from_its_own_law():
    """softmax(l' / T) is the column's law under softmax(l / T)."""
    made, logp, tokens, fixed, law = case(SEEDS[1])
    for temperature in (0.5, 2.0):
        logits = np.asarray(steered(logp, tokens, fixed, one(made), jnp.float32(temperature)), np.float64) / temperature
        shaped = logp / temperature
        shaped = shaped - np.logaddexp.reduce(shaped, axis=1, keepdims=True)
        weights = {text: sum(shaped[i, text[i]] for i in range(W) if not fixed[i]) for text in law}
        expected = marginals(weights, np.logaddexp.reduce(list(weights.values())))
        found = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
        np.testing.assert_allclose(found[~fixed], expected[~fixed], atol=3e-5)


@jax.jit
def planned(logp, tokens, fixed, automaton, keys, temperature):
    rule = plan(temperature)
    draw = lambda key: rule.apply(Update(logp), (), row(tokens, fixed, automaton), key)[0]  # noqa: E731
    updates = jax.vmap(draw)(keys)
    return updates.token, updates.score


@pytest.mark.slow
@pytest.mark.parametrize("more", MANY)
def test_a_plan_is_an_exact_draw(more):
    """Pearson's statistic over the texts; no text outside the language is ever drawn. Of many, it is large by chance as
    often as its law says."""
    count, surprises = 20_000, []
    keys = jax.random.split(jax.random.key(7), count)
    for seed in seeds(more) if more else SEEDS[:6]:
        made, logp, tokens, fixed, law = case(seed)
        texts, scores = map(np.asarray, planned(logp, tokens, fixed, one(made), keys, jnp.float32(1.0)))
        z = np.logaddexp.reduce(list(law.values()))
        expected = {text: count * np.exp(weight - z) for text, weight in law.items()}
        seen: dict = {}
        for text in texts.tolist():
            seen[tuple(text)] = seen.get(tuple(text), 0) + 1
        assert set(seen) <= set(law), "a text outside the language was drawn"
        cells = [(seen.get(text, 0), mean) for text, mean in expected.items() if mean >= 5]
        rare = sum(mean for mean in expected.values() if mean < 5)
        if rare >= 5:
            cells.append((count - sum(n for n, _ in cells), rare))
        chi = sum((n - mean) ** 2 / mean for n, mean in cells)
        degrees = max(len(cells) - 1, 1)
        assert chi < degrees + 5 * np.sqrt(2 * degrees) + 5, (seed, chi, degrees)
        surprises += [chi2.sf(chi, degrees)] if len(cells) > 1 else []
        share = marginals(law, z)
        column = np.arange(W)[~fixed]
        np.testing.assert_allclose(np.exp(scores[0])[column], share[column, texts[0][column]], atol=5e-5)
    assert len(surprises) < 100 or kstest(surprises, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("more", MANY)
def test_the_plan_of_temperature_zero_is_the_likeliest_text(more):
    rule = plan(0.0)
    apply = jax.jit(lambda logp, *args: rule.apply(Update(logp), (), row(*args), jax.random.key(0))[0].token)
    for seed in seeds(more):
        made, logp, tokens, fixed, law = case(seed)
        text = np.where(fixed, tokens, apply(logp, tokens, fixed, one(made)))
        np.testing.assert_allclose(law[tuple(text.tolist())], max(law.values()), atol=2e-5)


@jax.jit
def let_through(logp, tokens, fixed, automaton, wish, commit, halt):
    update = Update(logp, token=wish, commit=commit, halt=halt)
    after = constrain().apply(update, (), row(tokens, fixed, automaton), jax.random.key(0))[0]
    return after.token, after.commit, after.halt, after.status


def fits(law, text, columns) -> bool:
    return any(all(other[i] == text[i] for i in columns) for other in law)


@pytest.mark.parametrize("more", MANY)
def test_as_much_is_committed_as_fits_one_text(more):
    """And never nothing: the surest column is repaired where none fits. Where a step ends the row, all is."""
    for seed in seeds(more):
        made, logp, tokens, fixed, law = case(seed)
        rng = np.random.default_rng(seed)
        for _ in range(5):
            wish, asked = rng.integers(0, V, W).astype(np.int32), (rng.random(W) < 0.6) & ~fixed
            token, commit, halt, status = map(
                np.asarray, let_through(logp, tokens, fixed, one(made), wish, asked, False)
            )
            best = max(sum(text[i] == wish[i] for i in range(W) if asked[i]) for text in law)
            assert commit.sum() == (max(best, 1) if asked.any() else 0) and not (commit & ~asked).any()
            assert (token[commit] == wish[commit]).all() or best == 0
            assert fits(law, np.where(commit, token, tokens), np.flatnonzero(commit | fixed))
            assert not halt and status == int(Status.FINISHED)
            token, commit, halt, _ = map(np.asarray, let_through(logp, tokens, fixed, one(made), wish, asked, True))
            np.testing.assert_array_equal(commit, asked)
            assert fits(law, np.where(commit, token, tokens), np.flatnonzero(commit | fixed)) and halt


def test_a_row_without_a_text_ends_and_writes_nothing():
    seed = next(seed for seed in range(500) if not case(seed)[-1])
    made, logp, tokens, fixed, _ = case(seed)
    wish = np.zeros(W, np.int32)
    _, commit, halt, status = let_through(logp, tokens, fixed, one(made), wish, ~fixed, False)
    assert not np.asarray(commit).any() and halt and status == int(Status.INFEASIBLE)


@pytest.mark.parametrize("name", ["threshold", "prophet", "ccd", "credit", "freedave", "llada2", "sdar", "d3llm"])
def test_a_policy_is_steered_once_and_constrained_once(name):
    parts = list(walk_rules(constrained(getattr(jd, name)())))
    assert sum(isinstance(part, Preceded) and isinstance(part.first, Steer) for part in parts) == 1
    assert sum(isinstance(part, Constrain) for part in parts) == 1
    again = constrained(constrained(getattr(jd, name)()))
    assert sum(isinstance(part, Constrain) for part in walk_rules(again)) == 1


def test_a_chain_that_steers_itself_is_constrained_all_the_same():
    """The laws of the columns are not that of the text."""
    own = chain(steer(1.0), jd.rules.sample(1.0), jd.rules.select_above(0.9))
    parts = [type(part).__name__ for part in constrained(own).rules]
    assert parts == ["Steer", "Sample", "SelectAbove", "Constrain"]


def test_policies_that_move_text_are_refused():
    with pytest.raises(InputError, match="moves text"):
        constrained(jd.llada22())


def test_without_a_grammar_the_rules_say_what_is_missing():
    with pytest.raises(InputError, match=r"constrain needs a grammar: decode\(\.\.\., regex="):
        policy = chain(jd.rules.sample(), jd.rules.select_above(0.9), constrain())
        jd.decode(jd.load("tiny"), ["reverse : [ Alan ]"], policy, max_new=8)


def test_every_text_belongs():
    """Guards the guard: the oracle and the automaton agree on what the language is."""
    made, _, _, fixed, law = case(SEEDS[0])
    assert all(belongs(made, text) for text in law) and len(law) < V ** (~fixed).sum()
