"""Every guide there is, in both engines: drafts change no token, and rows do not depend on their neighbours."""

import numpy as np
import pytest

import jaxdlm
from jaxdlm import decode, registry
from jaxdlm.rules import guided
from tests.conformance.test_families import busy, decodes_alike
from tests.conformance.toys import untrained
from tests.marks import usual
from tests.speculative.test_loop import TARGET
from tests.speculative.toys import MAX_NEW, PROMPTS, expected

RUN = {"max_new": MAX_NEW, "seed": 5}
IN_ANY_ORDER = [name for name, known in registry.guides().items() if known.example(untrained("same")).any_order]


# one whose state is a place in a table, one that counts, and one without a state; new ones too
ALIKE = ("presence", "frequency", "grammar")
EACH = [name for name in registry.guides() if name not in ALIKE]


@pytest.mark.slow
@pytest.mark.parametrize("name", usual(registry.guides(), *EACH))
def test_a_draft_changes_no_token_and_rows_stay_apart(name):
    guide = registry.guides()[name].example(TARGET)
    alone = decode(TARGET, PROMPTS, jaxdlm.autoregressive(guide=guide), **RUN)
    assert (alone.tokens != expected(3)).any(), "its example changes nothing"
    policy, order = jaxdlm.lookup(k=3, ngram=2, guide=guide), [3, 0, 4, 1, 2]
    out = decode(TARGET, PROMPTS, policy, **RUN)
    np.testing.assert_array_equal(out.tokens, alone.tokens)
    moved = decode(TARGET, [PROMPTS[row] for row in order], policy, ids=order, **RUN)
    for field in ("tokens", "forwards", "commit_step", "accepted"):
        np.testing.assert_array_equal(getattr(moved, field), getattr(out, field)[order])


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_ANY_ORDER)
def test_diffusion_decoding_under_it(name):
    for temperature in (0.0, 1.0):
        guide = registry.guides()[name].example(untrained("same"))
        decodes_alike("llada", guided(busy("threshold", temperature), guide), "none", f"{name}, {temperature}")
