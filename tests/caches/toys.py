"""Random models of one or two layers, and the comparison of two decodes."""

import dataclasses
import functools

import numpy as np

from jaxdlm._load import LM
from jaxdlm.models import Backbone
from tests.conformance.toys import model
from tests.models.weights import loud_params

GRID = {"max_new": 12, "block": 4}


@functools.cache
def toy(layers: int = 2, prediction: str = "same", attention: str = "full") -> LM:
    config = dataclasses.replace(model(prediction).config, num_layers=layers, attention=attention, block_size=4)
    return LM(Backbone(config), loud_params(config, 3), None, "toy")


def same(a, b) -> None:
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_array_equal(a.forwards, b.forwards)
    np.testing.assert_array_equal(a.commit_step, b.commit_step)
