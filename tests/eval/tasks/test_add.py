"""Addition: sums and carry runs against column arithmetic."""

import random

from jaxdlm.eval.task import make
from jaxdlm.eval.tasks.add import carry_run, draw


def test_answers_are_sums_and_reversed_ones_start_low():
    for reversed_ in (False, True):
        for example in make("add", 40, "train", reversed=reversed_):
            a, b = _operands(example.prompt)
            want = str(a + b)
            assert example.answer == (want[::-1] if reversed_ else want)


def _operands(prompt):
    words = prompt.split()
    at = words.index("+")
    return int(words[at - 1]), int(words[at + 1])


def test_carry_runs():
    assert carry_run(12, 34) == 0 and carry_run(19, 1) == 1 and carry_run(95, 6) == 2 and carry_run(909, 101) == 1
    rng = random.Random(0)
    for c in range(4):
        assert draw(rng, d=3, c=c).knobs["c"] == c
