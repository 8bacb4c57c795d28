"""`decode`: what it refuses and how it says so, infilling, short last blocks, recording, ends, and damaged weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, Output, Status, chain, decode, load, policies, viz
from jaxdlm._decode import _run
from jaxdlm._load import LM
from jaxdlm.core.rule import Chain, Stage
from jaxdlm.models.denoiser import table_denoiser
from jaxdlm.rules import sample, select_above, select_top_k, stop_at_eos
from tests.conformance.toys import END, GRID, MASK, PROMPTS, VOCAB, model

SHORT = PROMPTS[0]

BAD = [
    ({"prompts": []}, "at least one prompt"),
    ({"prompts": None}, "at least one prompt"),
    ({"prompts": "hello"}, "prompt 0 is text and .* no tokenizer"),
    ({"prompts": [[SHORT, [1]]]}, "prompt 0 is empty or nested"),
    ({"prompts": [SHORT, []]}, "prompt 1 is empty"),
    ({"prompts": [[SHORT]]}, "prompt 0 is empty or nested"),
    ({"prompts": ["hello"]}, "no tokenizer: pass token ids"),
    ({"prompts": [[1.5, 2.0]]}, "whole numbers"),
    ({"prompts": [SHORT, [3, VOCAB]]}, r"prompt 1 holds token id 48, outside the vocabulary 0\.\.47"),
    ({"prompts": [[-1]]}, "token id -1"),
    ({"prompts": [[3] * 121]}, "121 tokens.*128 positions.*shorten the prompt or lower max_new"),
    ({"max_new": 0}, "max_new=0: must be a whole number, at least 1"),
    ({"max_new": 4.0}, r"max_new=4\.0"),
    ({"block": 0}, "block=0: must be a whole number, at least 1"),
    ({"block": -4}, "block=-4"),
    ({"block": True}, "block=True"),
    ({"policy": "treshold"}, "unknown policy 'treshold'.*did you mean 'threshold'"),
    ({"policy": "zzz"}, "unknown policy 'zzz'; known: low_confidence"),
    ({"policy": 0.9}, "neither a name nor a rule"),
    ({"cache": "nune"}, "unknown cache 'nune'.*did you mean 'none'"),
    ({"cache": 3}, "neither a name nor a cache"),
    ({"save": "all"}, "save='all': must be one of none, commit, steps"),
    ({"ids": [1, 2]}, "ids has 2 entries for 1 prompts"),
    ({"ids": [0.5]}, r"ids\[0\]=0.5: must be a whole number from -2147483648 to 4294967295"),
    ({"ids": [2**32]}, r"ids\[0\]=4294967296: must be a whole number"),
    ({"seed": "7"}, "seed='7': must be a whole number"),
    ({"seed": None}, "seed=None"),
    ({"canvas": [[1], [2]]}, "canvas has 2 rows for 1 prompts"),
    ({"canvas": [[1] * 9]}, "at most max_new=8 ids"),
    ({"canvas": [[VOCAB]]}, "ids of the vocabulary"),
    ({"ids": 3}, "ids has no entries for 1 prompts"),
    ({"max_new": 10**20}, "max_new=100000000000000000000: must be a whole number"),
    ({"raw": "no"}, "raw='no': must be true or false"),
    ({"infill": 1}, "infill=1: must be true or false"),
    ({"canvas": [["a"]]}, "canvas row 0 must hold"),
    ({"canvas": [[1.5]]}, "canvas row 0 must hold"),
    ({"canvas": [[2**70]]}, "canvas row 0 must hold"),
    ({"prompts": [[6, MASK]], "infill": True, "max_new": 7}, "max_new=7 means nothing with infill=True"),
    ({"policy": "threshold,tau=1.8"}, "tau=1.8: must be a number from 0 to 1"),
    ({"policy": "threshold,tao=1"}, "policy 'threshold' takes no 'tao': it takes tau, temperature"),
    ({"cache": "refresh,every=0"}, "every=0: must be a whole number from 1 to 1073741824, or none"),
    ({"prompts": [[5, 6]], "infill": True}, "prompt 0: infill=True needs token ids that hold the mask id 47"),
    ({"prompts": [[MASK, 6]], "infill": True}, "after at least one known token"),
    ({"prompts": [[6, MASK]], "infill": True, "canvas": [[1]]}, "leave canvas out"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[str(change)[:60] for change, _ in BAD])
def test_bad_input_is_one_line_before_the_first_forward(change, message):
    before = _run._cache_size()
    with pytest.raises(InputError, match=message) as caught:
        decode(**{"lm": model("same"), "prompts": [SHORT], **GRID, **change})
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert _run._cache_size() == before


def test_a_chain_in_the_wrong_order_names_what_is_missing():
    with pytest.raises(InputError, match=r"put sample\(\.\.\.\) before it"):
        decode(model("same"), [SHORT], chain(select_above(0.9)), **GRID)


def test_a_model_without_a_mask_is_refused():
    lm = model("same")
    config = dataclasses.replace(lm.config, noise="none", tokens=dataclasses.replace(lm.config.tokens, mask=None))
    with pytest.raises(InputError, match="has no mask token"):
        decode(
            dataclasses.replace(lm, model=dataclasses.replace(lm.model, config=config)), [SHORT], "threshold", **GRID
        )


def with_leaf(lm: LM, name: str, change) -> LM:
    found = []

    def edit(path, leaf):
        if jax.tree_util.keystr(path, simple=True, separator="/") == name:
            found.append(path)
            return change(leaf)
        return leaf

    params = jax.tree_util.tree_map_with_path(edit, lm.params)
    assert found, name
    return dataclasses.replace(lm, params=params)


@pytest.mark.slow
def test_weights_that_are_not_finite_end_every_row_at_once():
    lm = with_leaf(model("same"), "final_norm", lambda leaf: leaf * jnp.nan)
    out = decode(lm, PROMPTS, "threshold", **GRID)
    assert out.status == [Status.NONFINITE] * 3
    np.testing.assert_array_equal(out.forwards, [1, 1, 1])
    assert (out.commit_step == -1).all()


def test_one_poisoned_embedding_harms_only_the_row_that_uses_it():
    sound, poison = model("same"), 45
    good = decode(sound, PROMPTS, "threshold", **GRID)
    assert not (good.tokens == poison).any()
    hurt = with_leaf(sound, "embed", lambda leaf: leaf.at[poison].set(jnp.nan))
    out = decode(hurt, [PROMPTS[0], [*PROMPTS[1][:-1], poison], PROMPTS[2]], "threshold", **GRID)
    assert out.status == [Status.FINISHED, Status.NONFINITE, Status.FINISHED]
    for row in (0, 2):
        np.testing.assert_array_equal(out.tokens[row], good.tokens[row])
        np.testing.assert_array_equal(out.commit_step[row], good.commit_step[row])


@pytest.mark.slow
def test_infilling_keeps_what_is_given_and_skips_full_blocks():
    canvas = [[5, 6, 7, 8, MASK, 9, MASK, MASK], [], [1, 2, 3, 4, 5, 6, 7, 8]]
    out = decode(model("same"), PROMPTS, "low_confidence", canvas=canvas, **GRID)
    np.testing.assert_array_equal(out.tokens[0, [0, 1, 2, 3, 5]], [5, 6, 7, 8, 9])
    np.testing.assert_array_equal(out.tokens[2], canvas[2])
    np.testing.assert_array_equal(out.forwards, [3, 8, 0])
    np.testing.assert_array_equal(out.commit_step[0] >= 0, [0, 0, 0, 0, 1, 0, 1, 1])
    assert out.status == [Status.FINISHED] * 3
    assert (out.tokens != MASK).all()


@pytest.mark.slow
def test_infilling_may_reach_the_last_position():
    """Columns are rounded up for rows of one program; what a row asks for is not."""
    lm = model("same")
    last = lm.config.max_position
    out = decode(lm, [[5] * (last - 20) + [MASK] * 20], "threshold", infill=True)
    assert out.tokens.shape == (1, 20) and (out.tokens != MASK).all()
    with pytest.raises(InputError, match="prompt 0 has 109 tokens; with max_new=20 that is more than the 128"):
        decode(lm, [[5] * (last - 19) + [MASK] * 20], "threshold", infill=True)


@pytest.mark.slow
def test_infilling_inside_the_prompt_equals_prompt_and_canvas():
    texts = [[3, 9, MASK, 1, MASK, 4, 2, MASK], [7, 2, 11, MASK, 5]]
    inside = decode(model("same"), texts, "low_confidence", block=8, infill=True)
    rest = decode(model("same"), [texts[0][:2]], "low_confidence", max_new=6, block=8, canvas=[texts[0][2:]])
    np.testing.assert_array_equal(inside.tokens[0], rest.tokens[0])
    np.testing.assert_array_equal(inside.tokens[0, [1, 3, 4]], [1, 4, 2])
    assert inside.tokens[1, 1] == 5
    np.testing.assert_array_equal(inside.forwards, [3, 1])


@pytest.mark.slow
def test_the_last_block_may_be_shorter_and_a_long_block_is_one_block():
    out = decode(model("same"), PROMPTS, "low_confidence", max_new=7, block=4, save="steps")
    assert out.tokens.shape == (3, 7)
    np.testing.assert_array_equal(out.forwards, [7, 7, 7])
    assert (out.commit_step[:, :4].max(1) == 3).all()
    assert (out.commit_step[:, 4:].min(1) == 4).all()
    one = decode(model("same"), PROMPTS, "low_confidence", max_new=7, block=99)
    assert one.tokens.shape == (3, 7)
    assert (one.tokens != MASK).all()


@pytest.mark.slow
def test_what_is_saved_agrees_with_itself():
    steps = decode(model("same"), PROMPTS, "threshold", save="steps", **GRID)
    plain = decode(model("same"), PROMPTS, "threshold", save="none", **GRID)
    assert plain.commit_step is None
    assert plain.score is None
    assert plain.steps is None
    np.testing.assert_array_equal(plain.tokens, steps.tokens)
    for row in range(3):
        for at in range(int(steps.forwards[row])):
            written = steps.commit_step[row] <= at
            np.testing.assert_array_equal(steps.steps[row, at] != MASK, written)
            np.testing.assert_array_equal(steps.steps[row, at][written], steps.tokens[row][written])
    assert (steps.score <= 0).all(), "log-probabilities"


@pytest.mark.slow
def test_scores_and_tokens_of_the_first_forward_are_the_models():
    lm, prompt = model("same"), SHORT
    out = decode(lm, [prompt], "low_confidence", **GRID)
    logits = np.array(lm.logits([[*prompt, *[MASK] * 8]]))[0, len(prompt) : len(prompt) + 4]
    logits[:, MASK] = -np.inf
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    first = int(np.flatnonzero(out.commit_step[0] == 0)[0])
    assert first == p.max(1).argmax()
    assert out.tokens[0, first] == p[first].argmax()
    np.testing.assert_allclose(np.exp(out.score[0, first]), p[first].max(), rtol=1e-4)


def ends_at(column: int, width: int = 12) -> LM:
    """A model that writes 5 up to `column` and the end of text there and behind it."""
    answer = np.where(np.arange(width) < column, 5, 6)[None]
    return LM(*table_denoiser(answer, vocab_size=10, mask=9, eos=6, start=2), None, "exact")


@pytest.mark.slow
@pytest.mark.parametrize(("column", "forwards"), [(0, 1), (3, 4), (5, 6), (11, 12), (12, 12)])
def test_stop_at_eos_ends_the_row_there(column, forwards):
    out = decode(
        ends_at(column), [[1, 1]], chain(sample(), select_top_k(), stop_at_eos()), max_new=12, block=4, stop=False
    )
    np.testing.assert_array_equal(out.tokens[0], np.where(np.arange(12) < column, 5, 6))
    assert out.forwards[0] == forwards
    assert out.status == [Status.EOS if column < 12 else Status.FINISHED]
    plain = decode(ends_at(column), [[1, 1]], chain(sample(), select_top_k()), max_new=12, block=4, stop=False)
    assert plain.forwards[0] == 12
    np.testing.assert_array_equal(plain.tokens, out.tokens)
    default = decode(ends_at(column), [[1, 1]], chain(sample(), select_top_k()), max_new=12, block=4)
    assert default.forwards[0] == forwards and default.status == out.status
    np.testing.assert_array_equal(default.tokens, out.tokens)


@pytest.mark.slow
def test_stop_at_eos_leaves_the_neighbours_alone():
    rule = chain(sample(1.0), select_above(0.9), stop_at_eos())
    run = {"policy": rule, **GRID, "seed": 2}
    prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[2]]
    batch = decode(model("same"), prompts, **run)
    for row in range(2):
        alone = decode(model("same"), [prompts[row]], ids=[row], **run)
        np.testing.assert_array_equal(alone.tokens[0], batch.tokens[row])
        assert alone.forwards[0] == batch.forwards[row]
    for row in range(3):
        assert (batch.status[row] == Status.EOS) == bool((batch.tokens[row] == END).any())


class Idle(Stage):
    """Never commits anything."""

    def apply(self, draft, state, row, key):
        return draft._replace(commit=jnp.zeros_like(row.open)), state


jax.tree_util.register_static(Idle)


@pytest.mark.slow
def test_a_rule_that_never_commits_runs_into_its_limit():
    out = decode(model("same"), PROMPTS, chain(sample(), Idle()), **GRID)
    assert out.status == [Status.STEP_LIMIT] * 3
    np.testing.assert_array_equal(out.forwards, [8, 8, 8])
    assert (out.tokens == MASK).all()


def test_a_recipe_equals_its_chain():
    assert policies.RECIPES["threshold"](0.8) == Chain((sample(), select_above(0.8)))
    named = decode(model("same"), PROMPTS, "threshold", **GRID)
    built = decode(model("same"), PROMPTS, chain(sample(), select_above(0.9)), **GRID)
    np.testing.assert_array_equal(named.tokens, built.tokens)


@pytest.mark.slow
def test_one_string_is_one_prompt_and_words_are_a_policy(capsys):
    lm = load("tiny")
    prompt, run = lm.tokenizer.examples[0], {"max_new": 16, "block": 16}
    out = decode(lm, prompt, "threshold,tau=0.8", **run)
    listed = decode(lm, [prompt], chain(sample(), select_above(0.8)), **run)
    np.testing.assert_array_equal(out.tokens, listed.tokens)
    np.testing.assert_array_equal(out.commit_step, listed.commit_step)
    assert out.text == listed.text and len(out.text) == 1
    viz.show(out)
    assert out.text[0] in capsys.readouterr().out


@pytest.mark.slow
def test_an_answer_goes_on_with_its_own_beginning_as_it_would_have():
    """Greedy, token by token: the rest is the rest of the whole answer, and the rows beside it are what they are."""
    lm = load("tiny-ar")
    asked = lm.tokenizer.examples[0]
    whole = decode(lm, [asked], policy="autoregressive", max_new=16).text[0]
    words = whole.split()
    begun = [{"role": "user", "content": asked}, {"role": "assistant", "content": " ".join(words[:4])}]
    out = decode(lm, [begun, asked], policy="autoregressive", max_new=16)
    assert out.text == [" ".join(words[4:]), whole]


def test_an_output_is_shown_in_one_line():
    """Not with its arrays, which would fill a notebook."""
    status = [Status.EOS, Status.EOS, Status.STEP_LIMIT]
    out = Output(["a"] * 3, np.zeros((3, 8), np.int32), np.array([5, 2, 8], np.int32), None, None, status)
    assert repr(out) == "<Output of 3 rows, 8 columns, 2 to 8 forwards each: 2 eos, 1 step limit>"


def test_a_notebook_shows_a_table():
    """Texts as they are, never as markup; long ones and many rows are cut."""
    texts = ["<b>1 & 2</b>", "x" * 999, *["y"] * 20]
    out = Output(texts, np.zeros((22, 8), np.int32), np.full(22, 5, np.int32), None, None, [Status.EOS] * 22)
    shown = out._repr_html_()
    assert "&lt;b&gt;1 &amp; 2&lt;/b&gt;" in shown and "<b>" not in shown
    assert "&lt;Output of 22 rows" in shown and "and 12 more rows" in shown
    assert shown.count("<tr>") == 11 and "x" * 400 + "…" in shown and "x" * 401 not in shown
    bare = dataclasses.replace(out, text=None)._repr_html_()
    assert "<th>tokens</th>" in bare and "0 0 0 0 0 0 0 0" in bare
