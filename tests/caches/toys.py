"""Random models of one or two layers, and the comparison of two decodes."""

import dataclasses
import functools

import numpy as np
import pytest

from jaxdlm._load import LM
from jaxdlm.models import Backbone
from tests.conformance.toys import model
from tests.models.weights import loud_params

GRID = {"max_new": 12, "block": 4}
# The shift of `next` lies in the window that a cache returns, alike for all: a test runs under one kind of prediction, and
# under the other in the exhaustive run. test_invariants has every cache, under the two in turn.
EXHAUSTIVE = [pytest.param(kind, marks=pytest.mark.exhaustive) for kind in ("same", "next")]
SAME = pytest.mark.parametrize("prediction", ["same", EXHAUSTIVE[1]])
NEXT = pytest.mark.parametrize("prediction", [EXHAUSTIVE[0], "next"])


@functools.cache
def toy(layers: int = 2, prediction: str = "same", attention: str = "full") -> LM:
    config = dataclasses.replace(model(prediction).config, num_layers=layers, attention=attention, block_size=4)
    return LM(Backbone(config), loud_params(config, 3), None, "toy")


def same(a, b) -> None:
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_array_equal(a.forwards, b.forwards)
    np.testing.assert_array_equal(a.commit_step, b.commit_step)
