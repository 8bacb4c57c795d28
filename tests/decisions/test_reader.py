"""Questions that are too close to call are read again in float32, and say so."""

import numpy as np
import pytest

import jaxdlm as jd
from tests.decisions.test_rows_alike import SIZES
from tests.decisions.toys import net, spelled

PROMPTS = [[3, 4, 5], [9, 8], [7, 7, 30, 2]]
ASKED = [spelled([3], [9], name="a"), spelled([7], [8], [11], name="b")]


def gap(decision):
    best = np.sort(decision.logits)[::-1]
    return best[0] - best[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ar", pytest.param("same", marks=pytest.mark.exhaustive)])
def test_close_answers_are_those_of_float32(kind):
    half = net(kind, "bfloat16", **SIZES)
    first = jd.decide(half, PROMPTS, ASKED, batch=4)
    below = sorted(gap(row[name]) for row in first for name in "ab")[3] * (1 + 1e-9)
    some = jd.decide(half, PROMPTS, ASKED, batch=4, reread=below)
    wide = jd.decide(jd.decisions.reader.Reader(half)._in_float32(), PROMPTS, ASKED, batch=4)
    marked = [(row, name) for row in range(3) for name in "ab" if some[row][name].reread]
    assert len(marked) == 4
    for row in range(3):
        for name in "ab":
            old, new, exact = (answers[row][name] for answers in (first, some, wide))
            assert new.logits == (exact if (row, name) in marked else old).logits
            assert new.forwards == (2 if (row, name) in marked else 1)
            assert ((row, name) in marked) == (gap(old) < below) and old.logits != exact.logits
    told = some.to_rows()[marked[0][0]]["diagnostics"][marked[0][1]]
    assert told["reread"] is True and first[0].reading != some[0].reading


@pytest.mark.slow
def test_a_reply_is_read_again_as_a_whole():
    half = net("same", "bfloat16", **SIZES)
    row = jd.decide(half, PROMPTS[:1], ASKED, joint=True, reread=1000.0)[0]
    exact = jd.decide(jd.decisions.reader.Reader(half)._in_float32(), PROMPTS[:1], ASKED, joint=True)[0]
    assert [row[name].logits for name in "ab"] == [exact[name].logits for name in "ab"]
    assert all(row[name].reread for name in "ab") and row.forwards == 2


@pytest.mark.parametrize("reread", [-1, "much", float("nan")])
def test_bounds_that_are_none(reread):
    with pytest.raises(jd.InputError, match="reread="):
        jd.decide(net("ar"), PROMPTS, ASKED, reread=reread)
