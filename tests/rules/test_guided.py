"""Guides in diffusion decoding: banned sequences against an oracle that tries every token, and texts that hold none."""

import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import InputError, layout
from jaxdlm.core import loop
from jaxdlm.core.carry import Text, Update
from jaxdlm.core.guide import Guide
from jaxdlm.rules.guided import Agree, guided
from tests.conformance.toys import PROMPTS, model
from tests.guides import oracles
from tests.rules import hand

VOCAB, WINDOW, MASK = 5, 6, 7
LM = types.SimpleNamespace(config=types.SimpleNamespace(vocab_size=VOCAB), tokenizer=None, name="toy")
SEQUENCES = ([3], [1, 2, 1], [2, 4], [0, 0, 1, 2])
GUIDE = jd.guides.banned(list(map(list, SEQUENCES)), LM)
BEND = jax.jit(lambda guide, logits, row: guide.bend(logits, row))
AGREE = jax.jit(lambda guide, *wanted: guide.agree(*wanted))


def view(prompt, window, behind):
    """A window in a text; None: not known."""
    text = [*prompt, *window, *behind]
    known = np.array([token is not None for token in text])
    tokens = np.array([MASK if token is None else token for token in text], np.int32)
    place = slice(len(prompt), len(prompt) + len(window))
    row = hand.row(~known[place], tokens=tokens[place])
    return row._replace(
        position=np.arange(place.start, place.stop, dtype=np.int32),
        text=Text(tokens, known, np.int32(len(prompt))),
        ids=None,
    )


def complete(text, at) -> bool:
    """Whether a sequence that holds column `at` is complete."""
    spans = (
        (list(text[first : first + len(each)]), first, list(each)) for each in SEQUENCES for first in range(len(text))
    )
    return any(span == each and first <= at < first + len(each) for span, first, each in spans)


def some(rng):
    draw = lambda n, share: [int(rng.integers(0, VOCAB)) if rng.random() < share else None for _ in range(n)]  # noqa: E731
    return draw(4, 1.0), draw(WINDOW, 0.6), draw(4, 0.4)


def test_a_column_is_bent_by_what_is_known_on_both_its_sides():
    rng, zero, seen = np.random.default_rng(0), jnp.zeros((WINDOW, VOCAB)), 0
    for _ in range(60):
        prompt, window, behind = some(rng)
        out = np.asarray(BEND(GUIDE, zero, view(prompt, window, behind)))
        for column, token in itertools.product(range(WINDOW), range(VOCAB)):
            text = [*prompt, *window, *behind]
            text[4 + column] = token
            forbidden = complete(text, 4 + column)
            assert np.isneginf(out[column, token]) == forbidden, (text, column, token)
            seen += forbidden and token != 3
    assert seen > 100


def test_what_is_written_together_completes_nothing():
    """Of columns that may be written one by one: all where they may together, at least one in any case."""
    rng, withheld, edited = np.random.default_rng(1), 0, 0
    for _ in range(150):
        prompt, window, behind = some(rng)
        row = view(prompt, window, behind)
        allowed = np.asarray(BEND(GUIDE, jnp.zeros((WINDOW, VOCAB)), row)) == 0
        token = np.array([rng.choice(np.flatnonzero(each)) for each in allowed], np.int32)
        wanted = rng.random(WINDOW) < 0.6
        wanted[rng.integers(WINDOW)] = True
        score = rng.normal(size=WINDOW).astype(np.float32)
        through = np.asarray(AGREE(GUIDE, wanted, token, score, row))
        assert through.any() and not (through & ~wanted).any()
        written = lambda mine: [*prompt, *(int(token[i]) if mine[i] else window[i] for i in range(WINDOW)), *behind]  # noqa: E731
        assert not any(complete(written(through), 4 + column) for column in np.flatnonzero(through))
        clash = any(complete(written(wanted), 4 + column) for column in np.flatnonzero(wanted))
        assert clash or (through == wanted).all()
        withheld += clash
        edited += clash and any(window[column] is not None for column in np.flatnonzero(wanted))
    assert withheld > 20 and edited > 10


@pytest.mark.slow
def test_a_penalty_reads_prompt_and_text_wherever_they_stand():
    ids = types.SimpleNamespace(eos=(4,))
    row = view([1, 4], [None, 2, None, 4, None, None], [0, None])._replace(ids=ids)
    logits = np.random.default_rng(2).normal(size=(WINDOW, VOCAB)).astype(np.float32)
    guide = jd.guides.repetition(1.7)
    out = guide.bend(jnp.asarray(logits), row)
    expected = [oracles.penalised(each, [1, 4, 2, 0], np.float32(1.7)) for each in logits]
    np.testing.assert_allclose(out, expected, rtol=1e-6)
    np.testing.assert_array_equal(Guide.bend(guide, jnp.asarray(logits), row), out)  # what any guide of its kind has
    bare = view([1], [None, 2, None, 4, None, None], [0, None])._replace(ids=ids)
    np.testing.assert_array_equal(
        guide.bend(jnp.asarray(logits), bare)[:, 4], logits[:, 4]
    )  # an end counts in prompts alone


@pytest.mark.slow
def test_nothing_ends_before_all_that_it_wanted_is_written():
    row = view([0], [None] * WINDOW, [])
    token = np.array([1, 2, 1, 0, 0, 2], np.int32)
    update = Update(
        np.zeros((WINDOW, VOCAB), np.float32), token=token, score=np.arange(WINDOW, 0, -1, dtype=np.float32),
        commit=np.ones(WINDOW, bool), halt=True,
    )  # fmt: skip
    out, _ = Agree(GUIDE).apply(update, (), row, jax.random.key(0))
    assert out.commit.tolist() == [False, False, False, True, True, True] and not out.halt
    out, _ = Agree(GUIDE).apply(update._replace(commit=np.arange(WINDOW) > 2), (), row, jax.random.key(0))
    assert out.commit.tolist() == [False, False, False, True, True, True] and out.halt


@functools.cache
def tiny():
    return jd.load("tiny")


@pytest.mark.slow
def test_no_text_holds_what_is_banned():
    """A list is given back turned around: two names that the answer brings side by side."""
    lm, prompt = tiny(), ["reverse : [ Alan , Omar , Kate , Ruth ]"]
    free = jd.decode(lm, prompt, jd.threshold(0.5), cache="dual", max_new=16, block=8)
    assert "Kate , Omar" in free.text[0]
    policy = guided(jd.threshold(0.5), jd.guides.banned(["Kate , Omar"], lm))
    bound = jd.decode(lm, prompt, policy, cache="dual", max_new=16, block=8)
    assert "Kate , Omar" not in bound.text[0] and bound.status[0] is free.status[0]
    assert bound.forwards[0] <= 16


@pytest.mark.slow
def test_the_text_of_a_row_is_known_in_any_window():
    lm = model("same")
    batch = layout.lay_out(lm, PROMPTS, max_new=8, block=4, seed=0, ids=None, canvas=[[47, 47, 5], [], []])
    rows, geometry = batch.rows, batch.geometry
    rows = rows._replace(
        tokens=rows.tokens.at[:, geometry.prompt].set(9), pending=rows.pending.at[:, geometry.prompt].set(False)
    )
    for number, prompt in enumerate(PROMPTS):
        row = jax.tree.map(lambda leaf, number=number: leaf[number], rows)
        text = loop.text_of(row, geometry)
        known = np.flatnonzero(text.known)
        assert text.prompt >= len(prompt)
        assert text.tokens[known].tolist() == [*prompt, 9, *([5] if number == 0 else [])]
        for columns, start in ((4, geometry.prompt + 4), (8, geometry.prompt)):
            seen = loop.window_of(row, start, columns, geometry, lm.model)
            np.testing.assert_array_equal(seen.tokens, text.tokens[seen.position])


BAD = [
    (lambda: guided(jd.autoregressive(), jd.guides.repetition()), r"takes guide= itself"),
    (lambda: guided("threshold", jd.guides.repetition()), "pass a policy of diffusion decoding"),
    (lambda: guided(jd.threshold(), None), r"guide=None reads a text from left to right"),
    (lambda: guided(jd.threshold(), [jd.guides.repetition(), Guide()]), "from left to right"),
    (lambda: guided(jd.threshold(), 3), "guide=3: must be a guide"),
    (lambda: guided(jd.llada22(), jd.guides.repetition()), "which no guide follows"),
    (lambda: guided(jd.entropy_bound(), jd.guides.repetition()), "which no guide follows"),
    (lambda: jd.decode(tiny(), ["copy : [ Alan ]"], guided(jd.threshold(), GUIDE)), "banned was made for 5 ids"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=range(len(BAD)))
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
