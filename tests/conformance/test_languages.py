"""A row's text belongs to its language under every policy and cache, on models of every family; alone as in a batch."""

import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import InputError, decode, policies
from jaxdlm.core.carry import Status
from jaxdlm.grammar import Grammar
from tests.caches import test_encoder as toy_canvas
from tests.conformance.test_families import FAMILIES, SMALL, busy
from tests.conformance.toys import ALIKE, END, MASK, RULES, VOCAB, meets, model, temperatures
from tests.marks import exhaustive, usual

GRID = {"max_new": 8, "block": 4, "seed": 5, "rows_per_program": 3}
PROMPTS = [[3, 9, 4, 1], [7, 2, 11, 5, 8, 13, 6], [12, 30, 21, 4, 4, 17]]
FAR = 2**30


def language(
    words: str, classes: dict[int, int], edges: dict[tuple[int, int], int], accepting: set[int], vocab: int = VOCAB
) -> Grammar:
    """A grammar by hand: class of each token, (state, class) -> state."""
    table, accepts = np.zeros((10, 5), np.int32), np.isin(np.arange(10), list(accepting))
    for (state, symbol), following in edges.items():
        table[state, symbol] = following
    distance = np.where(accepts, 0, FAR)
    for _ in range(10):
        distance = np.minimum(distance, np.where(table > 0, distance[table], FAR).min(1) + 1)
    own = np.array([classes.get(token, 0) for token in range(vocab)], np.int32)
    distance, undrafted = np.minimum(distance, FAR).astype(np.int32), np.full(10, -1, np.int32)
    return Grammar(words, "by hand", own, table, 1, accepts, distance, undrafted)


HALVES = {token: 1 + token % 2 for token in range(1, 40)} | {END: 3}
# an even number of tokens, odd ids and even ones in turn; at most three tokens of odd ids
TURNS = language("turns", HALVES, {(1, 2): 2, (2, 1): 3, (3, 2): 2, (3, 3): 4, (4, 3): 4}, {3, 4})
FEW = language(
    "few", HALVES, {(1, 2): 2, (2, 2): 3, (3, 2): 5, (2, 3): 4, (3, 3): 4, (5, 3): 4, (4, 3): 4}, {2, 3, 4, 5}
)
LANGUAGES = [TURNS, FEW, TURNS]
STEPPING = ("freedave", "best")  # with drafts of their own steps
MOVING = ("llada22", "daedal")  # text from column to column
ALLOWED = [recipe for recipe in RULES if recipe not in MOVING]


def cases() -> list[tuple[str, str, str]]:
    """Each recipe once, with the family and the cache that have had fewest turns."""
    turns: dict[str, int] = dict.fromkeys([*FAMILIES, *policies.CACHES], 0)
    chosen = []
    for recipe in ALLOWED:
        can = [(f, c) for f, kind in FAMILIES.items() for c in policies.CACHES if meets(recipe, c, kind)]
        family, cache = min(can, key=lambda pair: turns[pair[0]] + turns[pair[1]])
        turns[family], turns[cache] = turns[family] + 1, turns[cache] + 1
        chosen.append((recipe, family, cache))
    return chosen


def covering() -> list[tuple[str, str, str]]:
    """Of the cases those that bring a family first; and each one that steps on its own."""
    chosen: list[tuple[str, str, str]] = []
    for case in (case for case in cases() if case[0] not in ALIKE):
        if case[0] in STEPPING or all(case[1] != other[1] for other in chosen):
            chosen.append(case)
    return chosen


def run(recipe, family, cache, rows, temperature=None):
    cache = policies.CACHES[cache](**SMALL.get(cache, {}))
    prompts, languages = [PROMPTS[i] for i in rows], [LANGUAGES[i] for i in rows]
    return decode(
        model(FAMILIES[family]), prompts, busy(recipe, temperature), cache, ids=rows, grammar=languages, **GRID
    )


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "family", "cache"), usual(cases(), *covering()))
def test_every_text_belongs_and_is_the_rows_own(recipe, family, cache):
    for temperature in temperatures(recipe):
        batch = run(recipe, family, cache, [0, 1, 2], temperature)
        permuted, alone = (run(recipe, family, cache, rows, temperature) for rows in ([2, 0, 1], [1]))
        for row in range(3):
            assert LANGUAGES[row].accepts(batch.tokens[row]), batch.tokens[row]
            assert batch.status[row] in (Status.FINISHED, Status.EOS, Status.EXIT) and (batch.tokens[row] != MASK).all()
        for field in ("tokens", "forwards", "commit_step"):
            whole = getattr(batch, field)
            np.testing.assert_array_equal(getattr(permuted, field), whole[[2, 0, 1]])
            np.testing.assert_array_equal(getattr(alone, field)[0], whole[1])


def test_every_cache_and_family_has_its_turn():
    assert {family for _, family, _ in covering()} == set(FAMILIES)
    serving = {c for r in ALLOWED for c in policies.CACHES for kind in FAMILIES.values() if meets(r, c, kind)}
    assert {cache for _, _, cache in cases()} == serving


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_language_of_everything_changes_nothing():
    """The tokens are those of a decode without one, drawn ones too."""
    every = language("all", dict.fromkeys([*range(VOCAB - 1), END], 1), {(1, 1): 1}, {1})
    free = {name: value for name, value in GRID.items() if name != "rows_per_program"}
    for policy in ("threshold,tau=0.05", "threshold,tau=0.05,temperature=1.0"):
        bound = decode(model("same"), PROMPTS, policy, grammar=every, **free)
        loose = decode(model("same"), PROMPTS, policy, **free)
        np.testing.assert_array_equal(bound.tokens, loose.tokens)
        np.testing.assert_array_equal(bound.commit_step, loose.commit_step)


def test_pinned_text_on_both_sides_is_part_of_the_text():
    """Turns begin with an odd id: what stands at the edges leaves that much less to choose."""
    canvas = [[5, MASK, 7, MASK, MASK, MASK, MASK, 8], [MASK, MASK, MASK, 4, MASK, MASK, END, END], [MASK] * 8]
    out = decode(model("same"), PROMPTS, "threshold,tau=0.05", canvas=canvas, grammar=TURNS, **GRID)
    for row, pinned in zip(out.tokens, canvas, strict=True):
        assert TURNS.accepts(row)
        assert all(now == before for now, before in zip(row.tolist(), pinned, strict=True) if before != MASK)


def test_a_row_whose_pinned_text_fits_nothing_ends_and_others_do_not():
    canvas = [[4, MASK, MASK, MASK, MASK, MASK, MASK, MASK], [MASK] * 8, [MASK] * 8]
    out = decode(model("same"), PROMPTS, "threshold,tau=0.05", canvas=canvas, grammar=TURNS, **GRID)
    assert out.status[0] is Status.INFEASIBLE and out.forwards[0] == 1
    assert all(TURNS.accepts(row) for row in out.tokens[1:])
    right = [[MASK] * 7 + [5], [MASK] * 8, [MASK] * 8]
    out = decode(model("same"), PROMPTS, "threshold,tau=0.05", canvas=right, grammar=TURNS, **GRID)
    assert out.status[0] is Status.INFEASIBLE and all(TURNS.accepts(row) for row in out.tokens[1:])


def test_what_cannot_be_is_refused():
    lm = model("same")
    with pytest.raises(InputError, match="prompt 0: grammar needs at least 2 tokens and max_new is 1: raise it"):
        decode(lm, PROMPTS, grammar=TURNS, max_new=1, block=1)
    with pytest.raises(InputError, match="grammar has 2 entries for 3 prompts"):
        decode(lm, PROMPTS, grammar=[TURNS, None], max_new=8)
    with pytest.raises(InputError, match=r"regex and json are given"):
        decode(lm, PROMPTS, regex="a", json=True, max_new=8)
    with pytest.raises(InputError, match="is no grammar"):
        decode(lm, PROMPTS, grammar="a+", max_new=8)
    for recipe in MOVING:
        with pytest.raises(InputError, match="moves text"):
            decode(lm, PROMPTS, recipe, grammar=TURNS, max_new=8)


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["none", exhaustive("encoder")])
def test_a_canvas_of_noise_settles_on_a_text(cache):
    """Two canvases of six columns: the first leaves what the second can end."""
    lm, odd = toy_canvas.lm(), 1 + np.arange(toy_canvas.VOCAB) % 2
    classes = {token: int(odd[token]) for token in range(2, toy_canvas.VOCAB)} | {toy_canvas.END: 3}
    seven = {(state, 1 + state % 2): state + 1 for state in range(1, 8)}
    grammar = language("seven", classes, seven | {(8, 3): 9, (9, 3): 9}, {8, 9}, toy_canvas.VOCAB)
    fixed = {"ids": (0, 1, 2), "max_new": 2 * toy_canvas.CANVAS, "grammar": grammar}
    policy = jd.entropy_bound(toy_canvas.GAMMA, toy_canvas.STEPS, kappa=toy_canvas.KAPPA)
    out = decode(lm, toy_canvas.PROMPTS[:2] + toy_canvas.PROMPTS[:1], policy, cache, **fixed)
    assert all(grammar.accepts(row) for row in out.tokens), out.tokens
    assert {str(status) for status in out.status} <= {"eos", "finished"}
