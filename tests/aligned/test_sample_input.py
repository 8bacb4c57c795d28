"""What `asap` refuses, and what one prompt cannot do to another."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import jaxdlm as jd
from jaxdlm.aligned import sample
from jaxdlm.core.carry import Status
from tests.aligned.test_sample import (
    END,
    LM,
    MAX_NEW,
    PROMPT,
    compiled,
    drawn,
    grammar,
)
from tests.guides.oracles import Language


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 0}, "samples=0: must be a whole number, at least 1"),
        ({"mode": "asab"}, r"mode='asab': must be one of asap, reject, gcd \(did you mean 'asap'\?\)"),
        ({"temperature": 0}, "temperature=0: must be a number from"),
        ({"temperature": float("nan")}, "temperature=nan: must be a number from"),
        ({"batch": 0}, "batch=0: must be a whole number from 1 to"),
        ({"attempts": 9}, "attempts=9 means nothing with mode='asap', which rejects nothing: leave it out"),
        ({"attempts": 0, "mode": "reject"}, "attempts=0: must be a whole number, at least 1"),
        ({"max_new": 2}, "grammar needs at least 3 tokens and max_new is 2: raise it"),
        ({"grammar": "[01]+"}, r"grammar='\[01\]\+' is no grammar"),
        ({"prompts": [[9]]}, "prompt 0 holds token id 9, outside the vocabulary"),
        ({"prompts": []}, "prompts must be a string or a list with at least one prompt"),
        ({"prompts": ["text"]}, "prompt 0 is text and toy has no tokenizer"),
        ({"raw": 1}, "raw=1: must be true or false"),
        ({"seed": 0.5}, "seed=0.5: must be a whole number"),
        ({"ids": [1, 2]}, "ids has 2 entries for 1 prompts"),
        ({"trie": 5}, "trie=5: must be a path"),
    ],
)
def test_bad_input(arguments, message):
    usual = {"prompts": [PROMPT], "grammar": grammar(), "samples": 1, "max_new": MAX_NEW}
    with pytest.raises(jd.InputError, match=message):
        jd.asap(LM, **usual | arguments)


def test_a_batch_that_the_device_has_no_room_for(monkeypatch):
    def full(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(sample, "draw", full)
    with pytest.raises(
        jd.InputError, match="1 prompts with batch=40 need more memory than the device has: lower batch"
    ):
        drawn(40, batch=40)


def test_diffusion_models_are_refused():
    lm = jd.load("tiny")
    with pytest.raises(jd.InputError, match="tiny is a diffusion model"):
        jd.asap(lm, "reverse : [ Alan ]", jd.grammar.choices(["[ Alan ]"], lm), max_new=16)


@pytest.mark.slow
def test_logits_that_are_not_finite_end_their_prompt_alone():
    leaves = dict(LM.params)
    leaves["embed"] = leaves["embed"].at[7].set(jnp.nan)
    zeros = compiled("0*", Language({(1, token): 1 for token in (2, 4)}, {1}, 8, END))
    out = jd.asap(dataclasses.replace(LM, params=leaves), [[7, 2], PROMPT], zeros, 6, max_new=MAX_NEW, batch=3)
    assert out.status == [Status.NONFINITE, Status.FINISHED]
    assert [len(each) for each in out.tokens] == [0, 6] and out.tokens[0].shape == (0, MAX_NEW)
    assert out.mass[0] == 1 and len(out.tries[0]) == 0 and out.drawn.tolist() == [3, 6]
    assert "0+6 samples" in repr(out) and "nonfinite, finished" in repr(out)


@pytest.mark.slow
def test_names_in_a_list():
    """tiny-ar reverses; told to end in other names it begins as it likes, and soon finds the likelier of the answers."""
    lm = jd.load("tiny-ar")
    names = jd.grammar.regex(r"\[ (Alan|Kate)( , (Omar|Kate))* \]", lm)
    prompt, settings = "reverse : [ Kate , Alan ]", {"samples": 16, "max_new": 16, "batch": 4}
    out = jd.asap(lm, prompt, names, **settings)
    assert "[ Alan , Kate ]" in out.texts[0] and out.logp[0][8:].mean() > out.logp[0][:4].mean() + 2
    assert all(names.accepts(row) for row in out.tokens[0])
    with pytest.raises(jd.InputError, match="drawn with another prompt"):
        jd.asap(lm, "reverse : [ Omar , Alan ]", names, trie=out.tries, **settings)
