"""Models with uniform noise: the average over draws is that of single passes, keyed by row and question, with its error."""

import functools
import hashlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm.core.keys import column_integer, row_keys
from jaxdlm.core.model import Past
from tests.decisions.toys import net, shares, spelled

START, WIDTH, LABELS = [5, 9, 2, 30, 4, 17], 16, [3, 9, 40]
ASKED = spelled(*[[label] for label in LABELS])


@pytest.fixture(scope="module")
def lm():
    return net("uniform")


@functools.partial(jax.jit, static_argnums=0)
def passes(model, params, prompt, canvas):
    """Logits of a canvas behind a prompt."""
    position = jnp.arange(prompt.shape[1], dtype=jnp.int32)[None]
    past = Past(
        model.prefix(params, prompt, position, jnp.ones(prompt.shape, bool)).kv, position, jnp.ones(prompt.shape, bool)
    )
    behind = prompt.shape[1] + jnp.arange(canvas.shape[1], dtype=jnp.int32)[None]
    return model.head(params, model.canvas(params, canvas, behind, jnp.ones(canvas.shape, bool), past).hidden)[0]


def noise(lm, question, draw, number=0, seed=0):
    key = row_keys(np.array([seed], np.int32), np.array([number], np.uint32))[0]
    key = jax.random.fold_in(jax.random.fold_in(key, np.uint32(int(question.fingerprint[:8], 16))), np.uint32(draw))
    return np.asarray(column_integer(key, len(START) + jnp.arange(WIDTH, dtype=jnp.int32), lm.config.vocab_size))


def log_p(lm, canvas):
    found = np.asarray(passes(lm.model, lm.params, np.array([START], np.int32), canvas[None].astype(np.int32)))
    found = found.astype(np.float64)
    return found - np.logaddexp.reduce(found, axis=1)[:, None]


def single(lm, draw, number=0, seed=0):
    """Shares of the labels under one draw: noise, the end, pads."""
    canvas = np.full(WIDTH, lm.config.tokens.pad)
    canvas[0], canvas[1] = noise(lm, ASKED, draw, number, seed)[0], lm.config.tokens.eos[0]
    p = np.exp(log_p(lm, canvas)[0, LABELS])
    return p / p.sum()


@pytest.mark.slow
def test_a_slot_is_the_mean_over_draws_with_its_error(lm):
    (row,) = jd.decide(lm, [START], [ASKED], draws=5)
    each = np.array([single(lm, draw) for draw in range(5)])
    assert shares(row["q"]) == pytest.approx(each.mean(0), abs=1e-5)
    assert list(row["q"].stderr.values()) == pytest.approx(each.std(0, ddof=1) / np.sqrt(5), abs=1e-5)
    assert (row["q"].draws, row["q"].forwards, row["q"].tokens_read) == (5, 5, 5 * (len(START) + WIDTH))
    assert row["q"].agreement == np.mean(each.argmax(1) == each.mean(0).argmax())


def test_one_draw_has_no_error(lm):
    (row,) = jd.decide(lm, [START], [ASKED], draws=1)
    assert shares(row["q"]) == pytest.approx(single(lm, 0), abs=1e-5)
    assert all(np.isnan(value) for value in row["q"].stderr.values())
    assert "stderr" not in row.to_row()["diagnostics"]["q"], "nan is no JSON"


@pytest.mark.slow
def test_auto_draws_more_where_one_leaves_it_open():
    lm = net("uniform", logit_scale=6.0)
    random = np.random.default_rng(0)
    prompts = [random.integers(1, 45, 6).tolist() for _ in range(30)]
    ones = jd.decide(lm, prompts, [ASKED], draws=1)
    for one, auto in zip(ones, jd.decide(lm, prompts, [ASKED])):
        assert auto["q"].draws == (4 if one["q"].entropy > 0.1 else 1)
    assert {auto["q"].draws for auto in jd.decide(lm, prompts, [ASKED])} == {1, 4}


def test_noise_is_keyed_by_row_seed_and_question_alone(lm):
    other = spelled([3], [9], name="other")
    alone = jd.decide(lm, [START], [ASKED], draws=2, seed=7, ids=[5])[0]["q"]
    assert shares(alone) == pytest.approx(np.mean([single(lm, draw, 5, 7) for draw in range(2)], axis=0), abs=1e-5)
    beside = jd.decide(lm, [START[::-1], START], [other, ASKED], draws=2, seed=7, ids=[9, 5])[1]["q"]
    assert beside.logits == alone.logits and beside.stderr == alone.stderr
    for changed in ({"seed": 8, "ids": [5]}, {"seed": 7, "ids": [6]}):
        assert jd.decide(lm, [START], [ASKED], draws=2, **changed)[0]["q"].logits != alone.logits


def test_noise_by_content_is_that_of_any_row_that_is_asked_the_same(lm):
    settings = {"draws": 2, "noise": "content"}
    same, other, more = (each["q"].logits for each in jd.decide(lm, [START, START, START[::-1]], [ASKED], **settings))
    assert same == other != more
    assert same != jd.decide(lm, [START], [ASKED], seed=1, **settings)[0]["q"].logits
    with pytest.raises(jd.InputError, match="has no noise that would be drawn"):
        jd.decide(net("same"), [START], [ASKED], noise="content")


def test_errors_are_those_of_the_mean_over_seeds(lm):
    rows = jd.decide(lm, [START] * 96, [ASKED], draws=6, ids=range(96))
    p = np.array([shares(row["q"]) for row in rows])
    told = np.array([list(row["q"].stderr.values()) for row in rows])
    assert (told**2).mean(0) == pytest.approx(p.var(0, ddof=1), rel=0.4)


@pytest.mark.slow
def test_chain_averages_inside_each_context(lm):
    texts, end = [[3], [9, 8]], lm.config.tokens.eos[0]
    (row,) = jd.decide(lm, [START], [spelled(*texts)], read="text", draws=3)
    asked, total = spelled(*texts), []
    for text in texts:
        steps = 0.0
        for index, token in enumerate([*text, end]):
            found = []
            for draw in range(3):
                canvas = noise(lm, asked, draw).copy()
                canvas[:index] = text[:index]
                found.append(log_p(lm, canvas)[index, token])
            steps += np.log(np.mean(np.exp(found)))
        total.append(steps)
    assert row["q"].label_mass == pytest.approx(np.exp(total).sum(), rel=1e-4)
    assert np.diff(row["q"].logits) == pytest.approx(np.diff(total), abs=1e-4)


@pytest.mark.slow
def test_questions_of_one_reply_share_their_draws(lm):
    """Every label of a canvas is noise at once, and the mean over draws is taken label by label."""
    first, second = spelled([3], [9], name="a"), spelled([7], [8], [11], name="b")
    (row,) = jd.decide(lm, [START], [first, second], joint=True, draws=3)
    every = hashlib.sha256((first.fingerprint + second.fingerprint).encode()).hexdigest()
    means = {"a": [], "b": []}
    for draw in range(3):
        canvas = np.full(WIDTH, lm.config.tokens.pad)
        canvas[:2], canvas[2] = noise(lm, types.SimpleNamespace(fingerprint=every), draw)[:2], lm.config.tokens.eos[0]
        found = log_p(lm, canvas)
        for name, column, ids in (("a", 0, [3, 9]), ("b", 1, [7, 8, 11])):
            p = np.exp(found[column, ids])
            means[name].append(p / p.sum())
    for name, each in means.items():
        assert shares(row[name]) == pytest.approx(np.mean(each, axis=0), abs=1e-5)
        error = np.std(each, axis=0, ddof=1) / np.sqrt(3)
        assert list(row[name].stderr.values()) == pytest.approx(error, abs=1e-5)
    assert (row.forwards, row["b"].draws) == (3, 3)


def drawn(lm, question, draw, step):
    """The noise of a further forward of a draw."""
    key = row_keys(np.array([0], np.int32), np.array([0], np.uint32))[0]
    for fold in (int(question.fingerprint[:8], 16), draw, step):
        key = jax.random.fold_in(key, np.uint32(fold))
    return np.asarray(column_integer(key, len(START) + jnp.arange(WIDTH, dtype=jnp.int32), lm.config.vocab_size))


@pytest.mark.slow
def test_further_steps_draw_the_open_columns_anew_and_tell_the_model_what_it_made_of_them(lm):
    (row,) = jd.decide(lm, [START], [ASKED], draws=2, steps=3)
    prompt, position = jnp.array([START], jnp.int32), jnp.arange(len(START), dtype=jnp.int32)[None]
    past = Past(lm.model.prefix(lm.params, prompt, position, position >= 0).kv, position, position >= 0)
    behind, means = len(START) + jnp.arange(WIDTH, dtype=jnp.int32)[None], []
    for draw in range(2):
        canvas, p = np.full(WIDTH, lm.config.tokens.pad), None
        canvas[1] = lm.config.tokens.eos[0]
        for step in range(3):
            canvas[0] = (noise(lm, ASKED, draw) if step == 0 else drawn(lm, ASKED, draw, step))[0]
            given = None if p is None else np.zeros((1, WIDTH, lm.config.vocab_size), np.float32)
            if given is not None:
                given[0, 0] = p
            out = lm.model.canvas(lm.params, canvas[None].astype(np.int32), behind, behind >= 0, past, self_cond=given)
            p = np.asarray(jax.nn.softmax(lm.model.head(lm.params, out.hidden)[0, 0]))
        means.append(p[LABELS] / p[LABELS].sum())
    assert shares(row["q"]) == pytest.approx(np.mean(means, axis=0), abs=1e-5)
    assert (row.forwards, row.tokens_read) == (2, 2 * (len(START) + 3 * WIDTH))
    one = jd.decide(lm, [START], [ASKED], draws=2)[0]["q"]
    assert 0.5 * np.abs(shares(one) - shares(row["q"])).sum() > 1e-3


@pytest.mark.slow
def test_steps_of_a_chain_and_of_a_reply_are_their_own_in_a_batch(lm):
    """All open columns take part: those of a chain behind what is written, those of a reply's labels."""
    first, second = spelled([3], [9], name="a"), spelled([7], [8], [11], name="b")
    for settings in ({"read": "text"}, {"joint": True}):
        together = jd.decide(lm, [START, START[::-1]], [first, second], steps=2, draws=1, **settings)
        alone = jd.decide(lm, [START[::-1]], [first, second], steps=2, draws=1, ids=[1], **settings)[0]
        plain = jd.decide(lm, [START[::-1]], [first, second], draws=1, ids=[1], **settings)[0]
        for name in "ab":
            assert alone[name].logits == together[1][name].logits != plain[name].logits


def test_steps_need_noise(lm):
    with pytest.raises(jd.InputError, match="steps=2: net-same has no noise that steps would remove"):
        jd.decide(net("same"), [START], [ASKED], steps=2)
    with pytest.raises(jd.InputError, match="steps=0"):
        jd.decide(lm, [START], [ASKED], steps=0)


@pytest.mark.parametrize("draws", [0, -1, 2000, 1.5, True, "many"])
def test_draws_that_are_none(lm, draws):
    with pytest.raises(jd.InputError, match="draws="):
        jd.decide(lm, [START], [ASKED], draws=draws)
