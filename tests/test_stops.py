"""Rows end at the end of text, at strings and at ids: sooner than the papers' counts, with the same text."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import InputError, Status, policies
from jaxdlm.stops import Stops, ends_wanted, read_stops
from tests.conformance.toys import END, GRID, MASK, PROMPTS, model, policy
from tests.helpers import CHATML, byte_level
from tests.marks import exhaustive

CANVAS = GRID["max_new"]


@functools.cache
def tiny():
    return jd.load("tiny")


def ended(steps: np.ndarray, forwards: int, words: set[int]) -> tuple[int, int] | None:
    """(forwards, columns) after which a word stands with no mask before it, read off the canvas after each forward."""
    for count in range(forwards):
        row = steps[count]
        for column in range(len(row)):
            if row[column] == MASK:
                break
            if row[column] in words:
                return count + 1, column + 1
    return None


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        "threshold",
        "prophet",
        *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("low_confidence", "random")),
    ],
)
def test_a_row_ends_at_the_forward_that_settles_its_end_and_keeps_its_text(recipe):
    """Any id may end a row: the most frequent one of the run without stops does here, so that it happens."""
    lm, chosen = model("same"), policy(recipe)
    full = jd.decode(lm, PROMPTS, chosen, **GRID, stop=False, save="steps")
    ids, counts = np.unique(full.tokens[:, 1:], return_counts=True)
    word = int(ids[np.argmax(counts)])
    out = jd.decode(lm, PROMPTS, chosen, **GRID, stop=[word])
    hits = 0
    for row in range(len(PROMPTS)):
        found = ended(full.steps[row], full.forwards[row], {word, END})
        if found is None:
            np.testing.assert_array_equal(out.tokens[row], full.tokens[row])
            assert out.forwards[row] == full.forwards[row]
            continue
        hits += 1
        forwards, columns = found
        assert out.forwards[row] == forwards <= full.forwards[row] and out.status[row] == Status.EOS
        np.testing.assert_array_equal(out.tokens[row, :columns], full.tokens[row, :columns])
        assert (out.tokens[row, columns:] == END).all() and (out.commit_step[row, columns:] == -1).all()
    assert hits, "no row met its end, so nothing was tested"


@pytest.mark.slow
def test_text_that_can_still_change_does_not_end_a_row():
    """An editing policy may rewrite the whole block: its rows end with a block, never inside one."""
    lm, chosen = model("same"), policies.RECIPES["llada21"](tau_mask=0.1, tau_edit=0.05)
    full = jd.decode(lm, PROMPTS, chosen, **GRID, stop=False)
    word = int(full.tokens[0, 0])
    out = jd.decode(lm, PROMPTS, chosen, **GRID, stop=[word])
    assert out.tokens[0, 0] == word and out.status[0] == Status.EOS and (out.tokens[0, 1:] == END).all()
    assert 1 < out.forwards[0] < full.forwards[0]


@pytest.mark.slow
def test_freedave_ends_as_its_host_does():
    host = policies.RECIPES["low_confidence"]()
    lm = model("same")
    word = int(jd.decode(lm, PROMPTS, host, **GRID, stop=False).tokens[0, 3])
    slow, fast = (jd.decode(lm, PROMPTS, p, **GRID, stop=[word]) for p in (host, policies.RECIPES["freedave"](3, host)))
    np.testing.assert_array_equal(slow.tokens, fast.tokens)
    assert slow.status == fast.status and Status.EOS in slow.status


@pytest.mark.slow
def test_official_recipes_run_on_as_published():
    lm = model("same")
    for recipe in ("factor", "credit", "dparallel", "d3llm", "learn2pd", "prophet", "freedave"):
        assert ends_wanted(policy(recipe, official=True), True) is False and ends_wanted(policy(recipe), True) is True
    assert ends_wanted(jd.autoregressive(), True) is True, "no rule, and never official"
    for recipe in ("factor", "prophet"):
        chosen = policy(recipe, official=True)
        kept, papers = (jd.decode(lm, PROMPTS, chosen, **GRID, stop=stop) for stop in (True, False))
        np.testing.assert_array_equal(kept.forwards, papers.forwards)
        np.testing.assert_array_equal(kept.tokens, papers.tokens)
    word = int(papers.tokens[0, 0])
    assert jd.decode(lm, PROMPTS, chosen, **GRID, stop=[word]).status[0] == Status.EOS, (
        "asked for, it ends all the same"
    )


@pytest.mark.slow
def test_given_text_behind_an_end_keeps_a_row_going():
    lm, word = model("same"), 5
    canvas = [[MASK] * 3 + [word] + [MASK] * 4, [MASK] * 7 + [word], [word] + [MASK] * 7]
    out = jd.decode(lm, PROMPTS, "threshold", **GRID, canvas=canvas, stop=list(range(MASK)))
    assert out.status[1] == Status.FINISHED and out.tokens[1, 7] == word, "given in the last column: nothing ends there"
    assert out.status[0] == Status.EOS and out.tokens[0, 3] == word, "behind what was given, any id ends here"
    assert out.status[2] == Status.EOS and (out.tokens[2, 2:] == END).all()


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_default_end_costs_fewer_forwards_and_no_text():
    prompts = list(tiny().tokenizer.examples[:4])
    out, papers = (
        jd.decode(tiny(), prompts, "low_confidence", max_new=64, block=32, stop=stop) for stop in (True, False)
    )
    assert out.text == papers.text
    assert (papers.forwards == 64).all() and (out.forwards <= 32).all()
    assert out.status == [Status.EOS] * 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["threshold", "autoregressive", exhaustive("speculative")])
def test_strings_cut_the_text_and_end_the_row(name):
    lm = tiny() if name == "threshold" else jd.load("tiny-ar")
    prompts, run = list(lm.tokenizer.examples[:2]), {"policy": name, "max_new": 24}
    full = jd.decode(lm, prompts, **run)
    for stop in (",", [" ,", "]"], [lm.tokenizer.encode_prompt(",", raw=True)[-1]]):
        out = jd.decode(lm, prompts, stop=stop, **run)
        for row, text in enumerate(full.text):
            assert out.text[row].rstrip() == text.partition(",")[0].rstrip() != text
            assert out.forwards[row] <= full.forwards[row] and out.status[row] == Status.EOS
    if name == "autoregressive":
        assert (out.forwards < full.forwards).all()


@pytest.mark.slow
def test_autoregressive_rows_run_on_without_stops():
    lm = jd.load("tiny-ar")
    out = jd.decode(lm, list(lm.tokenizer.examples[:2]), "autoregressive", max_new=24, stop=False)
    assert (out.forwards == 24).all() and out.status == [Status.FINISHED] * 2


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_sequence_may_begin_in_an_earlier_round():
    """Two ids that the target writes one after the other end its row, however many a draft brings at once."""
    lm = jd.load("tiny-ar")
    prompts = list(lm.tokenizer.examples[:3])
    full = jd.decode(lm, prompts, "autoregressive", max_new=24)
    pair = tuple(map(int, full.tokens[0, 1:3]))
    stops = Stops((pair,), frozenset(lm.config.tokens.eos))
    plain, drafted = (
        jd.decode(lm, prompts, name, max_new=24, stop=stops) for name in ("autoregressive", "speculative")
    )
    assert plain.forwards[0] == 3 and plain.status[0] == Status.EOS
    np.testing.assert_array_equal(plain.tokens, drafted.tokens)


def test_control_tokens_are_stops_by_their_ids(tmp_path):
    """They never show in a text, so that cutting the text would find none of them."""
    from jaxdlm.text import Tokenizer

    literals = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer = Tokenizer.from_folder(byte_level(tmp_path / "t", literals, CHATML, eos_token="<|endoftext|>"))
    lm = jd.LM(model("same").model, None, tokenizer, "toy")
    end = tokenizer.backend.token_to_id(tokenizer.aliases["<|im_end|>"])
    stops = read_stops(lm, ["<|im_end|>", "\n\n"])
    assert (end,) in stops.sequences and end in stops.ids and stops.strings == ("\n\n",)
    words = tokenizer.encode("The dog.\n\nThe fox.")
    assert stops.text(tokenizer, words) == "The dog." and stops.ended(tokenizer, words)
    assert stops.text(tokenizer, [*tokenizer.encode("The dog"), end, *words]) == "The dog"
    assert not read_stops(lm, True).ended(tokenizer, words)


@pytest.mark.parametrize(
    ("stop", "message"),
    [("", "empty string"), ([""], "empty string"), ([99999], "99999"), ([-1], "-1"), ([1.5], "1.5"), ({"a": 1}, "stop="),
     (["a"] * 65, "at most 64"), (7.5, "7.5"), ([True], "True")],
)  # fmt: skip
def test_what_cannot_be_a_stop_is_refused(stop, message):
    with pytest.raises(InputError, match=message):
        jd.decode(tiny(), [tiny().tokenizer.examples[0]], stop=stop)


def test_a_string_needs_a_tokenizer():
    with pytest.raises(InputError, match="no tokenizer"):
        jd.decode(model("same"), PROMPTS, stop="x", **GRID)


@pytest.mark.slow
def test_other_stops_of_the_same_size_run_the_same_program():
    from jaxdlm._decode import _run

    run = {"policy": policies.RECIPES["threshold"](jnp.float32(0.9)), **GRID}
    jd.decode(model("same"), PROMPTS, stop=[3], **run)
    before = _run._cache_size()
    jd.decode(model("same"), PROMPTS, stop=[4], **run)
    assert _run._cache_size() == before
