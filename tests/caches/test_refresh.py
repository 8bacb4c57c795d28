"""The vicinity cache between its two limits, the dual cache and no cache."""

import pytest

from jaxdlm import InputError, decode
from jaxdlm.caches.dual import dual
from jaxdlm.caches.refresh import refresh
from tests.caches.toys import GRID, NEXT, same, toy
from tests.conformance.toys import PROMPTS


@pytest.mark.exhaustive
@pytest.mark.slow
@NEXT
def test_without_surroundings_it_is_the_dual_cache(prediction):
    lm, near = toy(2, prediction), refresh(before=0, after=0, warmup=0)
    same(decode(lm, PROMPTS, "threshold", near, **GRID), decode(lm, PROMPTS, "threshold", dual(), **GRID))
    period = refresh(every=2, before=0, after=0, warmup=0)
    same(decode(lm, PROMPTS, "threshold", period, **GRID), decode(lm, PROMPTS, "threshold", dual(2), **GRID))


@pytest.mark.slow
def test_a_vicinity_of_everything_is_no_cache():
    lm, wide = toy(2), refresh(before=64, after=64, warmup=0)
    same(decode(lm, PROMPTS, "threshold", wide, **GRID), decode(lm, PROMPTS, "threshold", **GRID))


@pytest.mark.slow
def test_a_warm_up_as_long_as_the_run_is_no_cache():
    lm, cold = toy(2), refresh(before=0, after=0, warmup=12)
    same(decode(lm, PROMPTS, "threshold", cold, **GRID), decode(lm, PROMPTS, "threshold", **GRID))


@pytest.mark.parametrize(
    "wrong", [{"every": 0}, {"every": 1.5}, {"before": -1}, {"after": 2.0}, {"after": True}, {"warmup": -1}]
)
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))}=.*must be a whole number"):
        refresh(**wrong)
