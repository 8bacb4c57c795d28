"""The protocol of guides: several in one, and what an argument may be."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, struct
from jaxdlm.core.guide import Context, Guide, Several, class_of, fit, joined, read_guide


@struct.dataclass
class Falling(Guide):
    """Takes as much from every logit as there were tokens, times `by`."""

    by: float

    def init(self, context):
        return context.length

    def transform(self, logits, state):
        return logits - self.by * state.astype(logits.dtype)

    def advance(self, state, token):
        return state + 1


@struct.dataclass
class Doubling(Guide):
    def transform(self, logits, state):
        return 2 * logits


CONTEXT = Context(jnp.zeros(4, jnp.int32), jnp.int32(3), jnp.int32(5), (), 2)


def test_several_apply_one_after_the_other():
    guide = read_guide([Falling(1.0), Doubling(), Falling(10.0)])
    state = guide.advance(guide.init(CONTEXT), jnp.int32(0))
    np.testing.assert_array_equal(guide.transform(jnp.float32([5, 7]), state), np.float32([5, 7]) * 2 - 8 - 40)


def test_joined_leaves_one_alone():
    one, two = Falling(1.0), Doubling()
    assert joined(None, None) is None and joined(one, None) is one and joined(None, two) is two
    assert joined(one, two) == Several((one, two))


def test_tables_by_id_are_cut_or_filled():
    np.testing.assert_array_equal(fit(jnp.array([1, 2, 3]), 2, 9), [1, 2])
    np.testing.assert_array_equal(fit(jnp.array([1, 2, 3]), 5, 9), [1, 2, 3, 9, 9])
    assert [int(class_of(jnp.array([5, 6]), jnp.int32(token))) for token in (0, 1, 2, 99)] == [5, 6, 0, 0]


def test_what_is_no_guide_is_refused():
    assert read_guide(None) is None
    for wrong in ("repetition", 1.2, [], (), [None], [Falling(1.0), "x"], Falling, {}):
        with pytest.raises(InputError, match=r"guide=.*must be a guide such as jaxdlm\.guides\.repetition\(1\.2\)"):
            read_guide(wrong)
