"""The prefix cache's arguments; what it computes is in test_invariants and in the recorded runs of Fast-dLLM."""

import pytest

from jaxdlm import InputError
from jaxdlm.caches.prefix import prefix


@pytest.mark.parametrize("every", [0, 1.5, "2", float("nan")])
def test_bad_interval(every):
    with pytest.raises(InputError, match="refresh_every"):
        prefix(every)
