"""`decode(choices=...)` without a policy: the likeliest choice by the law `chain`, for masked and autoregressive models."""

import dataclasses
import itertools

import numpy as np
import pytest
from scipy.stats import chisquare

import jaxdlm as jd
from jaxdlm import InputError, _decode
from jaxdlm.decisions import choosing, trie
from jaxdlm.decisions.laws import Canvas, Limits
from jaxdlm.decisions.read import drive
from jaxdlm.decisions.render import Slot
from jaxdlm.stops import read_stops
from tests.decisions.toys import END, PROMPT, exact, net

NAMES = ("Kate", "Omar", "Fay")
ORDERS = ["[ {} , {} , {} ]".format(*order) for order in itertools.permutations(NAMES)]

LIKELIEST = choosing.Draws(0.0, [[()], [()]])
MORE = (("same", 100), ("ar", 0), ("ar", 100))


def searched(lm, choices, prompt, width, few):
    """(what is found, log P of every choice)."""
    ends = lm.config.tokens.eos
    canvas = Canvas(lm, Slot(np.array(prompt, np.int32), tuple(choices), (), ends), Limits(width=width), "here")
    before, trie.FEW = trie.FEW, few
    try:
        (found,), raw = drive(
            lm, [trie.likeliest(canvas, canvas.trie(), wave=2), trie.expand(canvas, canvas.trie())], 16
        )
    finally:
        trie.FEW = before
    return found, raw.logp


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "few"), [("same", 0), *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in MORE)]
)
def test_it_is_the_arg_max_of_all(kind, few):
    lm, random, saved = net(kind), np.random.default_rng(few), 0
    for _ in range(5):
        choices = [tuple(x) for x in {tuple(random.integers(1, 5, random.integers(1, 4)).tolist()) for _ in range(8)}]
        found, logp = searched(lm, choices, random.integers(1, 45, 5).tolist(), 5 if kind == "same" else None, few)
        assert found.best[:-1] == choices[logp.argmax()] and not found.broken
        assert found.logp[found.best] == pytest.approx(logp.max(), abs=2e-5)
        saved += sum(map(len, choices)) - found.reads
    assert few or saved > 0, "not every context is read"


@pytest.mark.slow
def test_the_likeliest_first_token_need_not_lead_to_it():
    """One answer with 0.4, three that begin alike with 0.2 each: step by step these win."""
    lm = exact([[4, 6, 6, 6], [5, 1, 6, 6], [5, 2, 6, 6], [5, 3, 6, 6]], [0.4, 0.2, 0.2, 0.2])
    found, _ = searched(lm, [(5, 1), (5, 2), (4,)], PROMPT, 4, 0)
    assert found.best[:1] == (4,) and np.exp(found.logp[(5,)]) == pytest.approx(0.6) and END == 6


def test_draws_have_the_law_whichever_contexts_are_read():
    """By enumeration of the choices; one after the other, each with few contexts, and many answers of one prompt."""
    lm = exact([[4, 6, 6, 6], [5, 1, 6, 6], [5, 2, 6, 6], [5, 3, 6, 6]], [0.4, 0.2, 0.3, 0.1])
    choices, heat = [(5, 1), (5, 2), (4,)], 1.5
    canvas = Canvas(
        lm, Slot(np.array(PROMPT, np.int32), tuple(choices), (), lm.config.tokens.eos), Limits(width=4), "here"
    )
    options = canvas.trie()
    noises = [trie.Noise({leaf: choosing.gumbel((draw, *canvas.spelled(leaf))) for leaf in options.leaves}, heat)
              for draw in range(2000)]  # fmt: skip
    (drawn,) = drive(lm, [trie.likeliest(canvas, options, noises)], 16)
    counts = [sum(each.best == leaf for each in drawn) for leaf in options.leaves]
    law = np.array([0.2, 0.3, 0.4]) ** (1 / heat)
    assert chisquare(counts, 2000 * law / law.sum()).pvalue > 1e-3
    before, trie.FEW = trie.FEW, 0
    try:
        alone = drive(lm, [trie.likeliest(canvas, options, [noise], wave=1) for noise in noises[:40]], 16)
    finally:
        trie.FEW = before
    assert [one.best for (one,) in alone] == [one.best for one in drawn[:40]]
    assert min(one.reads for (one,) in alone) < drawn[0].reads


@pytest.mark.slow
def test_choose_draws_one_of_decodes_choices_by_the_row():
    lm, texts, prompts = (
        jd.load("tiny-ar"),
        ORDERS[:3],
        ["reverse : [ Kate , Omar , Fay ]", "copy : [ Omar , Kate , Fay ]"],
    )
    run = {"max_new": 16, "seed": 3, "rows_per_program": 4}
    out = jd.decode(lm, prompts, jd.choose(9.0), choices=texts, n=6, **run)
    assert len(out.text) == 12 and len(set(out.text[:6])) > 1 and set(out.text) <= set(texts)
    assert out.score[0].sum() < 0
    moved = jd.decode(lm, prompts[::-1], jd.choose(9.0), choices=texts[::-1], n=6, ids=[1, 0], **run)
    assert moved.text == [*out.text[6:], *out.text[:6]]
    assert jd.decode(lm, prompts, jd.choose(9.0), choices=texts, **run).text == out.text[::6]
    assert (
        jd.decode(lm, prompts[:1], jd.choose(0), choices=texts, **run).text
        == jd.decode(lm, prompts[:1], choices=texts, **run).text
    )
    for arguments, words in [
        ({}, "choose draws one of decode"), ({"choices": [texts, None], "n": 2}, "n=2: rows without choices"),
        ({"choices": texts, "top_logprobs": 2}, "top_logprobs"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=words):
            jd.decode(lm, prompts, jd.choose(), **arguments)
    with pytest.raises(InputError, match="temperature=-1"):
        jd.choose(-1)
    with pytest.raises(InputError, match="n=2 means nothing beside choices of which the likeliest is wanted"):
        jd.decode(lm, prompts, choices=texts, n=2)


@pytest.mark.slow
def test_logits_that_are_not_finite_and_choices_that_no_text_can_be():
    lm = net("same")
    broken = dataclasses.replace(lm, params=lm.params | {"embed": lm.params["embed"].at[40].set(np.nan)})
    choices = [np.array([40, 5]), np.array([3, 5])]
    rows = choosing.Chosen(broken, choices, [["a"]] * 2, [0, 1], 3, 4, 2, "commit", read_stops(broken, True), LIKELIEST)
    slot = Slot(choices[0], ((3,), (9,)), (), lm.config.tokens.eos)
    canvas = Canvas(broken, slot, Limits(width=4), "here")
    ((found,),) = drive(broken, [trie.likeliest(canvas, canvas.trie())], 16)
    assert found.broken
    answers = [choosing._answer(canvas, found), choosing._answer(canvas, found._replace(broken=False, best=None))]
    out = choosing._output(rows, answers)
    assert [str(status) for status in out.status] == ["nonfinite", "infeasible"] and (out.tokens == 46).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny-ar", pytest.param("tiny", marks=pytest.mark.exhaustive)])
def test_decode_answers_with_it(name):
    lm, few = jd.load(name), ORDERS[:3]
    prompts = ["reverse : [ Kate , Omar , Fay ]", "copy : [ Omar , Kate , Fay ]"]
    out = jd.decode(lm, prompts, choices=few, max_new=16, rows_per_program=4)
    told = jd.decide(lm, prompts, [jd.Choice("a", few)], read="text", batch=4)
    assert out.text == [row["a"].value for row in told]
    assert [str(status) for status in out.status] == ["eos"] * 2 and out.tokens.shape == (2, 16)
    mass = [np.log(row["a"].probabilities[row["a"].value]) + np.log(row["a"].label_mass) for row in told]
    assert out.score.sum(1) == pytest.approx(mass, abs=1e-4) and (out.commit_step.max(1) == out.forwards - 1).all()
    *_, last = jd.stream(lm, prompts, choices=few, max_new=16, rows_per_program=4)
    assert (last.tokens == out.tokens).all() and (out.logprobs is None) == (name == "tiny")


def test_blocks_of_a_model_are_its_own():
    settings = {
        "max_new": 8,
        "raw": True,
        "form": None,
        "batch": None,
        "save": "none",
        "stops": None,
        "draws": LIKELIEST,
    }
    with pytest.raises(
        jd.InputError, match="block=8: choices without a policy are read in the blocks of net-sdar, 4 columns"
    ):
        choosing.laid_out(net("sdar"), [[3]], ["a"], block=8, **settings)


def test_choices_of_the_same_tokens(monkeypatch):
    """Of a tokenizer that makes letters small, as some do."""
    lm = jd.load("tiny")
    monkeypatch.setattr(choosing, "spelled", lambda lm, text, where: [ord(letter) for letter in text.lower()])
    rows = choosing.Chosen(
        lm, [np.array([3])], [["a", "b", "A"]], [4], 8, 8, 4, "commit", read_stops(lm, True), LIKELIEST
    )
    with pytest.raises(jd.InputError, match="prompt 4: 'a' and 'A' are spelled by the same tokens: leave one out"):
        rows.checked()


def test_rows_without_choices_are_decoded():
    """And a policy that is named writes under the choices' grammar, as does a model of uniform noise, which has no exact law."""
    lm, prompts = jd.load("tiny"), ["copy : [ Kate ]"] * 3
    mixed = _decode.prepare(lm, prompts, choices=[None, ["[ Kate ]", "[ Omar ]"], None], max_new=16, ids=[5, 6, 7])
    assert [type(part) for part in mixed.parts] == [choosing.Chosen, _decode.Diffusion]
    assert [rows.tolist() for rows in mixed.rows] == [[1], [0, 2]] and mixed.parts[0].names == [1]
    (part,) = _decode.prepare(lm, prompts, "threshold", choices=["[ Kate ]", "[ Omar ]"], max_new=16).parts
    assert isinstance(part, _decode.Diffusion) and part.batch.rows.grammar is not None
    assert choosing.can(net("ar")) and choosing.can(net("sdar")) and not choosing.can(net("uniform"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new": 4}, "choices needs at least 7 tokens and max_new is 4"),
        ({"choices": ["[ Kate ]", ORDERS[0]], "max_new": 4}, r"prompt 0: the choice '\[ Kate , .*' has 7 tokens and max_new is"),
        ({"cache": "prefix"}, "cache='prefix' means nothing beside choices without a policy, which are read"),
        ({"n": 2}, "n=2 means nothing beside choices of which the likeliest is wanted"),
        ({"save": "steps"}, "save='steps' means nothing beside choices without a policy"),
        ({"choices": ["[ Kate ]", "[ Kate ]"]}, "are both"),
        ({"choices": []}, "choices is empty"),
        ({"choices": [ORDERS, ORDERS]}, "choices has 2 entries for 1 prompts"),
    ],
)  # fmt: skip
def test_what_cannot_be_chosen(settings, message):
    with pytest.raises(jd.InputError, match=message):
        jd.decode(jd.load("tiny"), ["copy : [ Kate ]"], **{"choices": ORDERS, "max_new": 16} | settings)
