"""Rewards of whole answers, for policies that look ahead: `jd.transfer_q(reward=jd.rewards.likelihood(judge))`.

A reward maps (tokens [R, L], start [R], length [R]) to float32 [R]: row r is a prompt in columns below start[r] and an answer,
its end of text included, in those from there below length[r]; what follows means nothing. It runs inside the compiled
program, so it is a function of arrays, or a `jaxdlm.struct.dataclass` that is called, whose arrays are its weights.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.model import Model
from jaxdlm.core.readout import mask_invalid
from jaxdlm.errors import InputError
from jaxdlm.typing import Array, Bool, Float, Float32, Int32, PyTree
from jaxdlm.vocabulary import differ, vocabulary_hash


class Judge(NamedTuple):
    """A model that judges: its name and its vocabulary."""

    name: str
    size: int
    vocabulary: int

    def check(self, lm: Any) -> None:
        if differ(self.vocabulary, self.size, vocabulary_hash(lm), lm.config.vocab_size):
            raise InputError(
                f"reward {self.name} ({self.size} words) and target {lm.name} ({lm.config.vocab_size} words) have different "
                "vocabularies: use a reward model with the target's tokenizer"
            )


class Reward(Protocol):
    """See the module."""

    def __call__(
        self, tokens: Int32[Array, "R L"], start: Int32[Array, "R"], length: Int32[Array, "R"]
    ) -> Float32[Array, "R"]: ...


@struct.dataclass
class Function:
    """A reward without weights; another function is another program."""

    call: Callable[..., Array] = struct.field(pytree_node=False)

    def __call__(self, tokens: Array, start: Array, length: Array) -> Array:
        return self.call(tokens, start, length)


@struct.dataclass
class Likelihood:
    """See `likelihood`."""

    params: PyTree
    model: Model = struct.field(pytree_node=False)
    judge: Judge | None = struct.field(pytree_node=False, default=None)

    def __call__(
        self, tokens: Int32[Array, "R L"], start: Int32[Array, "R"], length: Int32[Array, "R"]
    ) -> Float32[Array, "R"]:
        hidden = read(self.model, self.params, tokens)

        def one(row: tuple[Array, Array, Array]) -> Array:  # the logits of one row at a time
            hidden, text, own = row
            logits = mask_invalid(self.model.head(self.params, hidden[None, :-1]), self.model)[0]
            chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), text[1:, None], axis=1)[:, 0]
            return jnp.sum(jnp.where(own[1:], chosen, 0.0))

        total = jax.lax.map(one, (hidden, tokens, answer_of(tokens, start, length)))
        return total / jnp.maximum(length - start, 1).astype(jnp.float32)


@struct.dataclass
class Head:
    """See `head`."""

    params: PyTree
    weights: Float[Array, "D"]
    bias: Any
    model: Model = struct.field(pytree_node=False)
    judge: Judge | None = struct.field(pytree_node=False, default=None)

    def __call__(
        self, tokens: Int32[Array, "R L"], start: Int32[Array, "R"], length: Int32[Array, "R"]
    ) -> Float32[Array, "R"]:
        hidden = read(self.model, self.params, tokens).astype(jnp.float32)
        last = jnp.take_along_axis(hidden, (length - 1)[:, None, None], axis=1)[:, 0]
        return jnp.dot(last, self.weights, precision=jax.lax.Precision.HIGHEST) + self.bias


def likelihood(lm: Any) -> Likelihood:
    """Mean log p of an answer's tokens under another autoregressive model: 1/n sum_i log p(y_i | x, y_<i), nats.

    lm: a loaded model with the target's tokenizer. Raises InputError for diffusion models.
    """
    lm = argument.model(lm)
    return Likelihood(lm.params, lm.model, _judge(lm))


def head(lm: Any, weights: Any, bias: Any = 0.0) -> Head:
    """A reward model: w . h + b of the last hidden row, as sequence classifiers with one label compute it.

    lm: the trunk, with the target's tokenizer. weights: [D], its `score` row. Raises InputError for diffusion models and for
    weights of another width.
    """
    lm = argument.model(lm)
    judge = _judge(lm)
    weights = jnp.asarray(weights, jnp.float32).reshape(-1)
    if weights.shape[0] != lm.config.hidden_size:
        raise InputError(
            f"reward head of {weights.shape[0]} weights: {lm.name} has hidden rows of {lm.config.hidden_size}"
        )
    return Head(lm.params, weights, bias, lm.model, judge)


def read_reward(reward: Any, name: str = "reward") -> Any:
    """The reward as a tree of arrays. Raises InputError for what cannot be called."""
    if not callable(reward):
        argument.refuse(reward, name, "a function of (tokens, start, length), or one of jaxdlm.rewards")
    return Function(reward) if jax.tree.leaves(reward) == [reward] else reward


def answer_of(tokens: Int32[Array, "R L"], start: Int32[Array, "R"], length: Int32[Array, "R"]) -> Bool[Array, "R L"]:
    """The columns of the answers."""
    column = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :]
    return (column >= start[:, None]) & (column < length[:, None])


def read(model: Model, params: PyTree, tokens: Int32[Array, "R L"]) -> Float[Array, "R L D"]:
    """Hidden rows of whole texts; what stands behind a text is not seen by it."""
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :], tokens.shape)
    return model.apply(params, tokens, position, jnp.ones(tokens.shape, bool)).hidden


def check(reward: Any, lm: Any) -> None:
    """Raises InputError for a model that judges other tokens than those of `lm`."""
    if isinstance(reward, Likelihood | Head) and reward.judge is not None:
        reward.judge.check(lm)


def _judge(lm: Any) -> Judge:
    if lm.config.attention != "causal":
        raise InputError(f"reward {lm.name} is a diffusion model: use an autoregressive one such as 'tiny-ar'")
    return Judge(lm.name, lm.config.vocab_size, vocabulary_hash(lm))
