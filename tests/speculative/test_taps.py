"""What a drafter may ask of a target: outputs of chosen layers, of the prompt and of every verifying forward."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, decode, struct
from jaxdlm.layout import lay_out_rows
from jaxdlm.speculative import loop, taps, verify
from jaxdlm.speculative.drafters import Aded, Lookup
from jaxdlm.speculative.policy import Decoding, Speculation
from jaxdlm.speculative.warp import warp
from tests.marks import exhaustive
from tests.speculative.test_loop import TARGET
from tests.speculative.toys import MAX_NEW, PROMPTS, expected

RUN = {"max_new": MAX_NEW, "seed": 5}


@struct.dataclass
class Watching:
    """Drafts as `inner` does, and writes down what it is shown: taps and logits by column."""

    inner: Any
    taps: tuple[int, ...] = struct.field(pytree_node=False, default=(1, 0))

    tree = property(lambda self: self.inner.tree)
    forwards = property(lambda self: 0)
    model = property(lambda self: None)

    def init(self, rows, prompt):
        return self.inner.init(rows, prompt), (), ()

    def begin(self, state, rows, seen):
        assert seen.logits.shape[1] == 0
        columns = rows.tokens.shape[1]
        shape = (rows.tokens.shape[0], columns, seen.logits.shape[2])
        pad = [(0, 0), (0, columns - seen.taps.shape[1]), (0, 0), (0, 0)]
        return state[0], jnp.pad(seen.taps, pad), jnp.zeros(shape, jnp.float32)

    def propose(self, state, rows, key):
        proposal, inner = self.inner.propose(state[0], rows, key)
        return proposal, (inner, *state[1:])

    def observe(self, state, rows, proposal, verdict):
        return self.inner.observe(state[0], rows, proposal, verdict), *state[1:]

    def watch(self, state, rows, proposal, verdict, seen):
        read = jnp.asarray(verify.read_row(proposal.tree))[1 + verdict.path]
        row = jnp.concatenate([jnp.zeros_like(read[:, :1]), read], axis=1)  # of the root, then along the path
        place = jnp.arange(row.shape[1])[None, :]
        live = (place <= verdict.count[:, None]) & ~rows.done[:, None]
        column = jnp.where(live, rows.length[:, None] - 1 + place, rows.tokens.shape[1])
        batch = jnp.arange(row.shape[0])[:, None]
        put = lambda old, new: old.at[batch, column].set(new[batch, row], mode="drop")  # noqa: E731
        return state[0], put(state[1], seen.taps), put(state[2], seen.logits)


def policy(inner, **more) -> Speculation:
    return Speculation(Watching(inner, **more), warp(), verify.greedy)


@pytest.mark.slow
@pytest.mark.parametrize("inner", [exhaustive(Lookup(3, 2)), Aded(None, paths=3, search="best")], ids=["chain", "tree"])
def test_taps_are_the_layers_outputs_of_a_fresh_forward(inner):
    """In the order that was asked for, in every committed column, the last one left out, which was not read yet."""
    rows, prompt = lay_out_rows(TARGET, PROMPTS, max_new=MAX_NEW, seed=5, ids=None, raw=False)
    decoding = Decoding(TARGET.model, TARGET.params, policy(inner))
    sizes = {"prompt": prompt, "max_new": MAX_NEW, "save": "none"}
    carry = jax.jit(lambda: loop.run(loop.init(rows, decoding, **sizes), 5, decoding))()
    _, seen, logits = carry.drafter
    tokens = carry.rows.tokens
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    for place, layer in enumerate((1, 0)):
        fresh, _ = TARGET.model.part(TARGET.params, tokens, position, position >= 0, None, 0, layer + 1)
        for row in range(len(PROMPTS)):
            n = int(carry.rows.length[row]) - 1
            np.testing.assert_allclose(seen[row, :n, place], fresh[row, :n], rtol=1e-4, atol=1e-5)
    whole, _ = TARGET.model.part(TARGET.params, tokens, position, position >= 0, None, 0, 2)
    fresh = TARGET.model.exit(TARGET.params, whole)
    for row, prompt_tokens in enumerate(PROMPTS):
        some = slice(len(prompt_tokens) - 1, int(carry.rows.length[row]) - 1)
        np.testing.assert_allclose(logits[row, some], fresh[row, some], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_asking_changes_nothing_and_not_asking_computes_nothing():
    out = decode(TARGET, PROMPTS, policy(Lookup(3, 2)), **RUN)
    np.testing.assert_array_equal(out.tokens, expected(3))
    tokens = jnp.ones((1, 4), jnp.int32)
    args = (TARGET.params, tokens, jnp.arange(4, dtype=jnp.int32)[None], tokens > 0)
    without = jax.make_jaxpr(lambda: taps.apply(TARGET.model, *args)[0])()
    assert str(without) == str(jax.make_jaxpr(lambda: TARGET.model.apply(*args))())
    assert taps.apply(TARGET.model, *args)[1] is None


def test_targets_without_such_layers_are_refused():
    with pytest.raises(InputError, match=r"reads layers 1, 2 of its target, and toy has 2, from 0 on"):
        decode(TARGET, PROMPTS, policy(Lookup(3, 2), taps=(1, 2)), **RUN)
