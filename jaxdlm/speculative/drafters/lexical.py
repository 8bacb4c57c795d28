"""Units that the target, tuned for it, says at pads behind its text (LUD): as drafts, which it then reads as its own words."""

import dataclasses
import pathlib
import weakref
from typing import Any, ClassVar, NamedTuple, Self, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import struct
from jaxdlm.core.model import Model
from jaxdlm.errors import InputError
from jaxdlm.models.low_rank import Updates, merge
from jaxdlm.models.params import fingerprint, named_specs
from jaxdlm.registry import drafter
from jaxdlm.speculative.drafters.nothing import Nothing
from jaxdlm.speculative.prompted import Prompted, Weights
from jaxdlm.speculative.state import Proposal, Rows, Seen, Verdict
from jaxdlm.speculative.tree import Grown
from jaxdlm.trained import once
from jaxdlm.typing import Array, Bool, Float, Float32, Int32, Key, PyTree


def leading(
    logits: Float32[Array, "B K V"], token: Int32[Array, "B 1_K"], beta: Any, halt: Any, live: Bool[Array, "B K"]
) -> Int32[Array, "B"]:
    """How many of the tokens behind the first go with it: those before one of a probability below beta, or that repeats the one
    before it (`halt`). logits: of all but the first."""
    sure = jnp.max(jax.nn.softmax(logits, axis=2), axis=2) >= beta
    stays = sure & live & (~jnp.bool_(halt) | (token[:, 1:] != token[:, :-1]))
    return jnp.sum(jnp.cumprod(stays.astype(jnp.int32), axis=1), axis=1, dtype=jnp.int32)


class Tuned(NamedTuple):
    """What a tuned target has besides its own: the row of its pad, updates of its projections, how many pads it was tuned with,
    and whose it is: ids, and the fingerprint of the weights that were tuned."""

    pad: Float[Array, "1 D"]
    update: Updates
    k: int
    vocab: int
    made_for: str


@struct.dataclass
class Padded:
    """A target with a pad of its own behind its vocabulary. update: of its weights; {}: they have it."""

    model: ClassVar[None] = None

    pad: Float[Array, "1 D"]
    update: Any
    vocab: int = struct.field(pytree_node=False)
    made_for: str = struct.field(pytree_node=False, default="")

    def check(self, lm: Any) -> None:
        again = f"tune it with scripts/train.py --recipe lud --model {lm.name}"
        shapes = {name.replace("/", "."): spec.shape for name, spec in named_specs(lm.config)}
        fits = all(shapes.get(name) == _shape(pair) for name, pair in self.update.items())
        if self.vocab != lm.config.vocab_size or self.pad.shape[1] != lm.config.hidden_size or not fits:
            raise InputError(f"the weights were tuned for a target of other sizes than {lm.name}: {again}")
        if self.made_for and self.made_for != fingerprint(lm.params):
            raise InputError(f"the weights were tuned for another target than {lm.name}: {again}")

    def target(self, model: Model, params: PyTree) -> tuple[Model, PyTree]:
        return Prompted(model), Weights(params, self.pad)

    def tuned(self, lm: Any) -> tuple[Any, Self]:
        """(the target with its weights updated, the drafter on it)."""
        if not self.update:
            return lm, self
        update, target = _targets.get(lm, (None, None))
        if update is not self.update:
            target = dataclasses.replace(lm, params=_merged(lm.params, self.update))
            _targets[lm] = self.update, target
        return target, dataclasses.replace(cast(Any, self), update={})


_targets: weakref.WeakKeyDictionary[Any, tuple[Any, Any]] = weakref.WeakKeyDictionary()
_merged = jax.jit(lambda params, update: merge(params, update, 1.0))


@struct.dataclass
class Pads(Padded, Nothing):
    """On it no drafts."""


def _shape(pair: Any) -> tuple[int, ...]:
    """Of the projection that a pair updates; () where its sides do not meet."""
    a, b = pair["a"].shape, pair["b"].shape
    return (*a[:-1], *b[2:]) if a[0] == b[0] and a[-1] == b[1] else ()


class Guesses(NamedTuple):
    """A unit without its first token, which is committed: the tokens, and how many there are."""

    token: Int32[Array, "B K"]
    count: Int32[Array, "B"]


@drafter(lambda target, draft, sampling: untrained(target))
@struct.dataclass
class Lexical(Padded):
    """A unit is drafted, and behind it `k` pads say the next one, which counts where all of the first stays (arXiv 2405.15208).

    One forward reads the unit and the pads, so that a draft costs no other. What the target would not have said is cut, and the
    text is its own.
    """

    taps: ClassVar[tuple[int, ...]] = ()

    beta: Any = 0.9
    halt: Any = True
    k: int = struct.field(pytree_node=False, default=3)

    @property
    def tree(self) -> Grown:
        return Grown(2 * self.k, 2 * self.k)

    @property
    def forwards(self) -> int:
        return 0

    def init(self, rows: Rows, prompt: int) -> Guesses:
        """No unit yet: the first round has pads alone."""
        batch = rows.done.shape[0]
        return Guesses(jnp.zeros((batch, self.k), jnp.int32), jnp.zeros(batch, jnp.int32))

    def begin(self, state: Guesses, rows: Rows, seen: Seen) -> Guesses:
        return state

    def propose(self, state: Guesses, rows: Rows, key: Key[Array, "B"]) -> tuple[Proposal, Guesses]:
        pads, place = jnp.full_like(state.token, self.vocab), jnp.arange(self.k, dtype=jnp.int32)[None, :]
        above = jnp.where(place == 0, state.count[:, None] - 1, self.k + place - 1)
        parent = jnp.concatenate([jnp.broadcast_to(place - 1, pads.shape), above], axis=1)
        valid = jnp.concatenate([place < state.count[:, None], jnp.ones_like(pads, bool)], axis=1)
        token = jnp.concatenate([state.token, pads], axis=1)
        return Proposal(token, valid, None, self.tree, parent=parent), state

    def observe(self, state: Guesses, rows: Rows, proposal: Proposal, verdict: Verdict) -> Guesses:
        return state

    def watch(self, state: Guesses, rows: Rows, proposal: Proposal, verdict: Verdict, seen: Seen) -> Guesses:
        """What the pads say, where they stand behind the text as it is now."""
        logits = seen.logits[:, 1 + self.k :]
        token = jnp.concatenate([verdict.bonus[:, None], jnp.argmax(logits, axis=2).astype(jnp.int32)], axis=1)
        more = leading(logits, token, self.beta, self.halt, jnp.ones(logits.shape[:2], bool))
        return Guesses(token[:, 1:], jnp.where(verdict.count == state.count, more, 0))


def untrained(target: Any, k: int = 3) -> Lexical:
    """A target that was not tuned, whose pad is the word of some id and whose every guess counts."""
    pad = jnp.asarray(target.params["embed"])[jnp.arange(2, 3)]
    return Lexical(pad, {}, target.config.vocab_size, beta=jnp.float32(0), k=k)


@once
def read_tuned(path: pathlib.Path) -> Tuned:
    """What a file of scripts/train.py --recipe lud holds. Raises InputError for what is no such file."""
    from jaxdlm.checkpoint.safetensors import read_safetensors

    stored, notes = read_safetensors(path)
    pad, sizes = stored.get("pad", np.zeros(0)), [notes.get(name, "") for name in ("pads", "vocab_size")]
    pairs = {name.rpartition(".")[0] for name in stored if name != "pad"}
    sides = {f"{name}.{side}" for name in pairs for side in "ab"}
    whole = (
        notes.get("method") == "lud" and pad.shape[:1] == (1,) and pad.ndim == 2 and stored.keys() == sides | {"pad"}
    )
    sound = all(np.isfinite(np.asarray(array, np.float32)).all() for array in stored.values())
    if (
        not whole
        or not sound
        or not all(size.isdigit() for size in sizes)
        or any(stored[each].ndim < 3 for each in sides)
    ):
        raise InputError(f"{path.name} holds no tuned target: make one with scripts/train.py --recipe lud")
    arrays = {name: jnp.asarray(array, jnp.float32) for name, array in stored.items()}
    update = {name: {side: arrays[f"{name}.{side}"] for side in "ab"} for name in sorted(pairs)}
    return Tuned(arrays["pad"], update, int(sizes[0]), int(sizes[1]), notes.get("fingerprint", ""))
