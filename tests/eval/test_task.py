"""Every task: its own answers pass, corrupted ones fail, text round-trips, splits are disjoint and reproducible."""

import itertools
import random

import pytest

from jaxdlm.errors import InputError
from jaxdlm.eval.task import SPLITS, TASKS, examples, make
from jaxdlm.eval.tasks import vocab
from jaxdlm.eval.tasks.base import split_of

EXACT = ("copy", "reverse", "sort", "replace_index", "insert_index", "remove_index", "rotate", "add")
RANDOM = ("shuffle", "gshuffle", "rotate_any", "replace_random", "insert_random", "remove_random")
FAST = [name for name in TASKS if name != "code"]  # code runs a process per check: fewer of those
COUNT = {"code": 6}


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_answers_pass_their_own_check_and_round_trip(name):
    task = TASKS[name]
    for example in make(name, COUNT.get(name, 150), "train", seed=1):
        ids = vocab.encode(vocab.words(example.answer))
        assert len(ids) < task.canvas
        assert vocab.decode(ids) == example.answer
        assert vocab.join(vocab.tokens_of(vocab.encode(vocab.words(example.prompt)))) == example.prompt
        score = task.check(example, [*ids, vocab.EOS, vocab.EOS])
        assert score.correct and score.strict and score.valid, example
        assert task.check(example, example.answer) == score


@pytest.mark.parametrize("name", EXACT)
def test_one_wrong_token_fails(name):
    rng = random.Random(0)
    for example in make(name, 60, "train", seed=2):
        ids = vocab.encode(vocab.words(example.answer))
        at = rng.randrange(len(ids))
        # an exact task has one right text: any other token anywhere is wrong in the strict form
        wrong = rng.choice([i for i in range(16, 300) if i != ids[at]])
        score = TASKS[name].check(example, [*ids[:at], wrong, *ids[at + 1 :], vocab.EOS])
        assert not score.strict
        assert not TASKS[name].check(example, [*ids[:-2], vocab.EOS]).strict


def legal_answers(name, items, new, g):
    n = len(items)
    if name == "shuffle":
        return set(itertools.permutations(items))
    if name == "gshuffle":
        groups = [itertools.permutations(items[i : i + g]) for i in range(0, n, g)]
        return {tuple(itertools.chain(*parts)) for parts in itertools.product(*groups)}
    edits = {
        "rotate_any": [items[r:] + items[:r] for r in range(n)],
        "replace_random": [[*items[:i], new, *items[i + 1 :]] for i in range(n)],
        "insert_random": [[*items[:i], new, *items[i:]] for i in range(n + 1)],
        "remove_random": [items[:i] + items[i + 1 :] for i in range(n)],
    }
    return set(map(tuple, edits[name]))


@pytest.mark.parametrize("name", RANDOM)
def test_random_operations_accept_exactly_their_outcomes(name):
    """Every sequence over the known items, of every length near n, judged by enumeration of the operation."""
    for example in make(name, 4, "train", seed=3, n=3):
        payload = example.payload
        items, new = [item[0] for item in payload["items"]], payload["new"] and payload["new"][0]
        legal = legal_answers(name, items, new, payload.get("g", 1))
        for length in (2, 3, 4):
            for answer in itertools.product(items + ([new] if new else []), repeat=length):
                score = TASKS[name].check(example, "[ " + " , ".join(answer) + " ]")
                assert score.correct == (answer in legal)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST)
def test_splits_are_disjoint_for_every_seed(name):
    family = TASKS[name].family
    rng = random.Random(4)
    seen = {}
    for _ in range(400 if name == "sudoku4" else 3000):
        draw = family.draw(rng)
        split = split_of(name, draw.key, family.test_share)
        assert seen.setdefault(str(draw.key), split) == split
    assert split in SPLITS
    shares = [list(seen.values()).count(part) / len(seen) for part in SPLITS]
    if len(seen) > 1500:
        assert shares[2] == pytest.approx(family.test_share, abs=0.02)
        assert shares[1] == pytest.approx(0.01, abs=0.01)
    for split in ("validation", "test"):
        keys = {example.id for example in make(name, 9, split, seed=0)}
        assert not keys & {example.id for example in make(name, 200 if name != "sudoku4" else 40, "train", seed=0)}


def test_equal_arguments_give_equal_examples_with_balanced_templates():
    first, second = make("shuffle", 30, "test", seed=5), make("shuffle", 30, "test", seed=5)
    assert first == second
    assert [sum(example.template == t for example in first) for t in range(3)] == [10, 10, 10]
    assert make("shuffle", 30, "test", seed=6) != first


def test_stray_masks_and_text_after_the_end_are_not_valid():
    example = make("copy", 1, "test")[0]
    ids = vocab.encode(vocab.words(example.answer))
    check = TASKS["copy"].check
    assert check(example, [*ids, vocab.EOS]).valid
    assert not check(example, [*ids, vocab.EOS, 30]).valid
    assert not check(example, [vocab.MASK, *ids[1:], vocab.EOS]).valid
    assert check(example, [*ids, vocab.EOS, vocab.MASK]).correct


def test_examples_are_held_out_and_varied():
    prompts = examples(12)
    assert len(set(prompts)) == 12
    held_out = {example.prompt for name in TASKS if name != "code" for example in make(name, 12, "test")}
    assert set(prompts) <= held_out


def test_unknown_names_are_named():
    with pytest.raises(InputError, match="task 'nope'"):
        make("nope", 1)
    with pytest.raises(InputError, match="split 'dev'"):
        make("copy", 1, "dev")
    with pytest.raises(InputError, match="'hello'"):
        vocab.encode(["hello"])
