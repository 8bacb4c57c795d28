"""Insertions and deletions: a slow loop over lists from the released one, single forwards by hand, what never changes."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, chain, decode, policies
from jaxdlm.core.carry import Update
from jaxdlm.rules import sample
from jaxdlm.rules.edit import edit
from jaxdlm.rules.indel import indel
from tests.conformance.toys import LONGER, MASK, PROMPTS, VOCAB, model
from tests.marks import usual
from tests.rules.hand import IDS, call, row
from tests.rules.test_oracle_runs import _raw, log_softmax

LENGTH, BLOCK = 8, 4
CUT, SPLIT = 3, 4  # of the vocabulary of rows made by hand


def forward(rule, tokens, can, proposals, p=0.9, prefilled=None, state=None, tick=0):
    """The row after one forward: (tokens, what is a mask, hold, state). Columns propose their token with probability p."""
    view = row(can, tokens=tokens, prefilled=prefilled, tick=tick)
    p = np.broadcast_to(np.asarray(p, np.float64), len(tokens))
    raw = np.log(np.full((len(tokens), 8), 1e-3)) + np.arange(8)[None, ::-1] * 1e-3
    raw[np.arange(len(tokens)), proposals] = np.log(p)
    update = Update(raw.astype(np.float32), None, np.int32(proposals), np.log(np.float32(p)))
    update, state = call(rule, update, rule.init(len(tokens), 8) if state is None else state, view)
    commit, reopen = np.asarray(update.commit), np.asarray(update.reopen)
    pending = (np.asarray(can) & ~commit) | reopen
    text = np.where(np.asarray(view.prefilled), view.tokens, np.asarray(update.token))
    return np.where(pending, IDS.mask, text).tolist(), pending.tolist(), bool(update.hold), state


RULE = indel(0.5, 0.0, 3, delete=CUT, insert=SPLIT)


def test_a_deletion_moves_the_rest_left_and_an_insertion_right():
    tokens, can = [1, 2, 5, 1, 2], [False] * 5
    same = [1, 2, 5, 1, 2]
    assert forward(RULE, tokens, can, [1, CUT, 5, 1, 2])[0] == [1, 5, 1, 2, IDS.mask]
    assert forward(RULE, tokens, can, [1, SPLIT, 5, 1, 2])[0] == [1, IDS.mask, 2, 5, 1], "the last column is lost"
    assert forward(RULE, tokens, can, [SPLIT, 2, CUT, 1, 2])[0] == [IDS.mask, 1, 2, 1, 2]
    assert forward(RULE, tokens, can, [1, 2, 5, 1, SPLIT])[0] == [1, 2, 5, 1, IDS.mask]
    assert forward(RULE, tokens, can, [CUT] * 5)[0] == [IDS.mask] * 5
    assert forward(RULE, tokens, can, [SPLIT] * 5)[0] == [IDS.mask, 1, IDS.mask, 2, IDS.mask]
    assert forward(RULE, tokens, can, same)[:3] == (tokens, can, False), "nothing to do ends the block"


def test_given_columns_never_move():
    prefilled = [True, True, False, False]
    assert forward(RULE, [1, 2, 5, 1], [False] * 4, [CUT, CUT, CUT, 1], prefilled=prefilled)[0] == [1, 2, 1, IDS.mask]
    found = forward(RULE, [5, 2, 5, 1], [False] * 4, [CUT, 2, SPLIT, 1], prefilled=[False, True, False, False])[0]
    assert found == [0, 2, IDS.mask, 5], "a column before a given one is rewritten, with its best plain token"


def test_masks_that_came_in_must_be_written_beside_a_first_one():
    """One first mask and one that was inserted: two columns are written, although only one is sure."""
    _, pending, _, state = forward(
        RULE, [1, 7, 7, 7], [False, True, True, True], [SPLIT, 2, 2, 2], [0.9, 0.1, 0.2, 0.3]
    )
    assert pending == [True, False, True, True] and np.asarray(state.first).tolist() == [False, False, True, True]
    _, pending, hold, _ = forward(RULE, [7, 1, 7, 7], pending, [2, 1, 2, 2], [0.6, 0.9, 0.3, 0.2], state=state, tick=1)
    assert pending == [False, False, False, True] and hold


def test_the_last_forward_writes_every_mask_and_moves_nothing():
    state, tokens, pending, forwards = None, [1, 2, 7, 5], [False, False, True, False], 0
    while True:
        proposals = [CUT if forwards % 2 else 1, SPLIT if forwards % 2 else 2, SPLIT, CUT]
        tokens, pending, hold, state = forward(RULE, tokens, pending, proposals, state=state, tick=forwards)
        forwards += 1
        if not hold:
            break
    assert forwards <= 4 + 3 + 1 and not any(pending)
    assert not {CUT, SPLIT, IDS.mask} & set(tokens)


def others(rows, barred):
    left = rows.copy()
    left[list(barred)] = -np.inf
    return int(left.argmax())


def moved(old, new, first, free, cut, split):
    """The block after deletions and insertions, and which of its columns are masks of the first hour."""
    tokens, stand = [], []
    for before, after, mine in zip(old, new, first, strict=True):
        if after == cut:
            continue
        if after == split:
            tokens, stand = [*tokens, MASK, before], [*stand, False, mine]
        else:
            tokens, stand = [*tokens, after], [*stand, mine]
    tokens, stand = [*tokens, *[MASK] * free], [*stand, *[False] * free]
    return tokens[:free], stand[:free]


def oracle(lm, prompt, tau_mask, tau_edit, most, cut, split):
    """The released loop, block by block, lists and float64: (tokens, forwards, what happened)."""
    tokens, forwards, events = [*prompt, *[MASK] * LENGTH], 0, {"cut": 0, "split": 0, "again": 0, "final": 0}
    for start in range(len(prompt), len(tokens), BLOCK):
        first, post, count, seen, tried = [True] * BLOCK, 0, 0, set(), [set() for _ in range(BLOCK)]
        while True:
            padded = tokens + [0] * (32 - len(tokens))
            at = np.arange(32, dtype=np.int32)[None]
            raw = np.array(_raw(lm.model, lm.params, np.int32([padded]), at, at < len(tokens)))[0]
            raw[:, MASK] = -np.inf
            rows = log_softmax(raw)[start : start + BLOCK]
            old, forwards, count = tokens[start : start + BLOCK], forwards + 1, count + 1
            token, p = rows.argmax(1).tolist(), np.exp(rows.max(1))
            masks = [i for i in range(BLOCK) if old[i] == MASK]
            standing = [i for i in masks if first[i]]
            post += not standing
            final = (post >= most if most else not standing) or count > BLOCK + most
            sure, needed = [i for i in masks if p[i] > tau_mask], 1 + len(masks) - len(standing)
            write = sure if len(sure) >= needed else sorted(masks, key=lambda i: (-p[i], i))[:needed]
            write = masks if final or not standing else write
            if most == 0 and standing and set(standing) <= set(write):
                final, write = True, masks
            write = [*write, *(i for i in range(BLOCK) if i not in masks and p[i] > tau_edit and token[i] != old[i])]
            if not write:
                break
            if final:
                events["final"] += 1
                token = [others(r, {cut, split}) if i in write and t in (cut, split) else t
                         for i, (t, r) in enumerate(zip(token, rows))]  # fmt: skip
            elif tuple(old) in seen and (changes := [i for i in write if token[i] != old[i]]):
                events["again"] += 1
                least = min(changes, key=lambda i: (p[i], i))
                token[least] = others(rows[least], tried[least])
            seen.add(tuple(old))
            for i in write:
                tried[i].add(token[i])
            new = [token[i] if i in write else old[i] for i in range(BLOCK)]
            events["cut"] += new.count(cut)
            events["split"] += new.count(split)
            tokens[start : start + BLOCK], first = moved(old, new, first, BLOCK, cut, split)
            if final:
                break
    return tokens[len(prompt) :], forwards, events


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tau_mask", "tau_edit", "most"), usual([(0.2, 0.0, 6), (0.3, 0.1, 3), (0.2, 0.0, 0)], (0.3, 0.1, 3))
)
def test_decodes_like_the_released_loop(tau_mask, tau_edit, most):
    lm, total = model("same"), {}
    for cut, split in ((20, 11), (11, 20), (2, 33)):
        rule = indel(jnp.float32(tau_mask), jnp.float32(tau_edit), most, delete=jnp.int32(cut), insert=jnp.int32(split))
        out = decode(lm, LONGER, chain(sample(), rule), max_new=LENGTH, block=BLOCK)
        for at, prompt in enumerate(LONGER):
            tokens, forwards, events = oracle(lm, prompt, tau_mask, tau_edit, most, cut, split)
            assert out.tokens[at].tolist() == tokens
            assert out.forwards[at] == forwards
            assert not {cut, split, MASK} & set(tokens)
            total = {name: total.get(name, 0) + events[name] for name in events}
    assert total["final"] and (most == 0 or min(total.values()) > 0), "the case would show nothing"


@pytest.mark.slow
def test_a_model_without_the_two_words_decodes_as_with_edits():
    lm = model("same")
    runs = [
        decode(lm, PROMPTS, chain(sample(), rule), max_new=LENGTH, block=BLOCK)
        for rule in (indel(0.2, 0.6, 40, delete=VOCAB, insert=VOCAB), edit(0.2, 0.6, 40))
    ]
    np.testing.assert_array_equal(runs[0].tokens, runs[1].tokens)
    np.testing.assert_array_equal(runs[0].forwards, runs[1].forwards)


@pytest.mark.parametrize("wrong", [{"tau_mask": -1}, {"tau_edit": -1}, {"max_post_steps": -1}, {"delete": -1}])
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        policies.RECIPES["llada22"](**wrong)
