"""`stream` makes the forwards of `decode` one by one, and the terminal shows each as it comes."""

import io
import itertools

import numpy as np
import pytest
from rich.console import Console

import jaxdlm as jd
from jaxdlm import InputError, Status, viz
from tests.conformance.toys import GRID, MASK, PROMPTS, model


def equal(a, b):
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_array_equal(a.forwards, b.forwards)
    np.testing.assert_array_equal(a.commit_step, b.commit_step)
    assert a.status == b.status and a.text == b.text


@pytest.mark.slow
def test_each_output_is_the_canvas_after_a_forward_and_the_last_is_decodes():
    run = {"policy": "low_confidence", **GRID, "stop": False}
    whole, parts = (
        jd.decode(model("same"), PROMPTS, **run, save="steps"),
        list(jd.stream(model("same"), PROMPTS, **run)),
    )
    assert len(parts) == GRID["max_new"]
    for number, part in enumerate(parts):
        np.testing.assert_array_equal(part.tokens, whole.steps[:, number])
        assert (part.forwards == number + 1).all() and ((part.tokens == MASK) == (part.commit_step < 0)).all()
        assert (part.status[0] == Status.RUNNING) == (number < len(parts) - 1)
    equal(parts[-1], whole)
    few = list(jd.stream(model("same"), PROMPTS, **run, every=3))
    assert len(few) == 3
    equal(few[-1], whole)


@pytest.mark.slow
def test_autoregressive_text_grows_and_ends_as_decodes():
    lm = jd.load("tiny-ar")
    prompts = list(lm.tokenizer.examples[:2])
    run = {"policy": "speculative", "max_new": 24}
    whole, parts = jd.decode(lm, prompts, **run), list(jd.stream(lm, prompts, **run))
    assert len(parts) == whole.forwards.max() > 1
    assert all(b.text[0].startswith(a.text[0]) for a, b in itertools.pairwise(parts))
    equal(parts[-1], whole)


def test_every_must_be_a_whole_number():
    with pytest.raises(InputError, match="every=0"):
        next(jd.stream(model("same"), PROMPTS, every=0))


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_written_is_drawn_as_it_comes(terminal, monkeypatch):
    monkeypatch.setattr(viz, "PACE", 0.0)
    lm = jd.load("tiny")
    prompts = list(lm.tokenizer.examples[:2])
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, height=40)
    drawn = 0

    def counted():
        nonlocal drawn
        for out in jd.stream(lm, prompts, "low_confidence", max_new=16, block=16):
            drawn += 1
            yield out

    out = viz.follow(counted(), tokenizer=lm.tokenizer, prompts=prompts, console=console)
    shown = console.file.getvalue()
    assert drawn == out.forwards.max() > 3, "one drawing per forward"
    assert viz.HIDDEN in shown and shown.count("tokens per forward") == 2
    assert ("forward 3" in shown) == terminal
    equal(out, jd.decode(lm, prompts, "low_confidence", max_new=16, block=16))
