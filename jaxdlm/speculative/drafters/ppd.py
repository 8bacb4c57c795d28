"""Drafts that the target makes itself, where trained prompt tokens stand in for what is not written yet (PPD)."""

import pathlib
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import struct
from jaxdlm.core.model import Model
from jaxdlm.errors import InputError
from jaxdlm.models.params import fingerprint
from jaxdlm.registry import drafter
from jaxdlm.speculative.prompted import Prompted, Weights
from jaxdlm.speculative.sparse_trees import Accuracy, Forest, plan
from jaxdlm.speculative.state import Proposal, Rows, Seen, Verdict
from jaxdlm.speculative.tree import Grown
from jaxdlm.trained import once
from jaxdlm.typing import Array, Float, Int32, Key, PyTree

FILE = "ppd.safetensors"
RANKS = 10  # candidates per distance


class Guesses(NamedTuple):
    """The best tokens at each distance, and for how many distances there are any."""

    token: Int32[Array, "B M R"]
    count: Int32[Array, "B"]


@drafter(lambda target, draft, sampling: untrained(target))
@struct.dataclass
class PromptTokens:
    """Trees of guesses, each with prompt tokens behind it that make the next guesses (arXiv 2405.18628).

    Prompt tokens are nodes like any other, with ids behind the vocabulary: they see the text above them, nothing but further
    prompt tokens stands below them, and as no target says them, none is ever accepted. Where the text ends after a round, the
    logits of the prompt tokens there are the guesses of the next one: the j-th speaks of j tokens further on.
    """

    model: ClassVar[None] = None
    taps: ClassVar[tuple[int, ...]] = ()

    rows: Float[Array, "M D"]
    forest: Forest = struct.field(pytree_node=False)
    vocab: int = struct.field(pytree_node=False)
    made_for: str = struct.field(pytree_node=False, default="")
    ranks: int = struct.field(pytree_node=False, default=RANKS)

    @property
    def tree(self) -> Grown:
        return Grown(self.forest.size, self.forest.depth)

    @property
    def forwards(self) -> int:
        return 0

    def check(self, lm: Any) -> None:
        size = lm.config.hidden_size
        if self.rows.shape[1] != size:
            raise InputError(
                f"the prompt tokens have size {self.rows.shape[1]}, target {lm.name} {size}: train them for it"
            )
        if self.made_for and self.made_for != fingerprint(lm.params):
            raise InputError(
                f"the prompt tokens were trained for another target than {lm.name}: train them with scripts/train.py "
                f"--recipe ppd --model {lm.name}"
            )

    def target(self, model: Model, params: PyTree) -> tuple[Model, PyTree]:
        return Prompted(model), Weights(params, self.rows)

    def init(self, rows: Rows, prompt: int) -> Guesses:
        """No guesses yet: the first round has the root's prompt tokens alone."""
        batch, most = rows.done.shape[0], self.forest.distances
        return Guesses(jnp.zeros((batch, most, self.ranks), jnp.int32), jnp.zeros(batch, jnp.int32))

    def begin(self, state: Guesses, rows: Rows, seen: Seen) -> Guesses:
        return state

    def propose(self, state: Guesses, rows: Rows, key: Key[Array, "B"]) -> tuple[Proposal, Guesses]:
        arrays = {
            name: jnp.asarray(array)[state.count] for name, array in self.forest.arrays().items() if name != "behind"
        }
        flat = state.token.reshape(state.token.shape[0], -1)
        guess = jnp.take_along_axis(flat, arrays["distance"] * self.ranks + arrays["rank"], axis=1)
        token = jnp.where(arrays["prompt"] >= 0, self.vocab + arrays["prompt"], guess)
        return Proposal(token, arrays["exists"] > 0, None, self.tree, parent=arrays["parent"]), state

    def observe(self, state: Guesses, rows: Rows, proposal: Proposal, verdict: Verdict) -> Guesses:
        return state

    def watch(self, state: Guesses, rows: Rows, proposal: Proposal, verdict: Verdict, seen: Seen) -> Guesses:
        """The guesses of the prompt tokens behind the last node that was accepted."""
        last = jnp.take_along_axis(verdict.path, jnp.maximum(verdict.count - 1, 0)[:, None], axis=1)[:, 0]
        end = jnp.where(verdict.count > 0, 1 + last, 0)
        behind = jnp.asarray(self.forest.arrays()["behind"])[state.count, end]
        logits = jnp.take_along_axis(seen.logits, 1 + jnp.maximum(behind, 0)[:, :, None], axis=1)
        _, token = jax.lax.top_k(logits, self.ranks)
        return Guesses(token.astype(jnp.int32), jnp.sum(behind >= 0, axis=1, dtype=jnp.int32))


def untrained(target: Any, budget: int = 12) -> PromptTokens:
    """Prompt tokens that know nothing: the words of some ids."""
    config = target.config
    rows = jnp.asarray(target.params["embed"])[jnp.arange(2, 5)]
    even = tuple(tuple(0.5 / (1 + rank) / (1 + distance) for rank in range(3)) for distance in range(3))
    return PromptTokens(rows, plan(even, budget), config.vocab_size, ranks=3)


@once
def read_prompts(path: pathlib.Path) -> tuple[Float[Array, "M D"], Accuracy, int, str]:
    """(rows, how often guesses come true, the target's ids, its fingerprint) of a file of scripts/train.py --recipe ppd."""
    from jaxdlm.checkpoint.safetensors import read_safetensors

    stored, notes = read_safetensors(path)
    rows, accuracy = (stored.get(name, np.zeros(0, np.float32)) for name in ("prompts", "accuracy"))
    whole = rows.ndim == accuracy.ndim == 2 and len(rows) == len(accuracy) and rows.size and accuracy.size
    if not whole or not notes.get("vocab_size", "").isdigit() or not np.isfinite(accuracy).all():
        raise InputError(f"{path.name} holds no prompt tokens: train some with scripts/train.py --recipe ppd")
    table = tuple(tuple(max(float(chance), 1e-6) for chance in each) for each in accuracy)
    return jnp.asarray(rows, jnp.float32), table, int(notes["vocab_size"]), notes.get("fingerprint", "")
