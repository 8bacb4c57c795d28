"""FreeDave writes its host's own tokens in no more forwards, whatever the host remembers or draws."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import chain, decode
from jaxdlm.rules import sample, stop_at_eos
from jaxdlm.rules.credit import add_credit
from jaxdlm.rules.local_leap import select_near_anchors
from jaxdlm.steppers.freedave import draft_and_verify
from tests.conformance.toys import model
from tests.marks import usual

ROWS = [[int(x) for x in np.random.default_rng(row).integers(1, 40, 2 + row % 7)] for row in range(24)]


@pytest.mark.slow
@pytest.mark.parametrize("cache", usual(["none", "dual"], "dual"))
def test_the_tokens_are_the_hosts_at_every_temperature(cache):
    """A chain with a memory (credit) that writes several columns, jumps and stops; 24 rows, greedy and drawn."""
    run = {"cache": cache, "max_new": 16, "block": 8}
    saved = 0
    for temperature in (0.0, 1.0):
        temperature = jnp.float32(temperature)  # an array: both run one program
        host = chain(add_credit(), sample(temperature), select_near_anchors(0.5, 0.3), stop_at_eos())
        alone, drafted = (decode(model("same"), ROWS, policy, **run) for policy in (host, draft_and_verify(host, 4)))
        np.testing.assert_array_equal(drafted.tokens, alone.tokens)
        assert drafted.status == alone.status
        assert (drafted.forwards <= alone.forwards).all()
        saved += int((alone.forwards - drafted.forwards).sum())
    assert saved > 0, "no draft ever came true"
