"""A trained filter judges which proposals are final, and the canvas ends with the text (arXiv 2509.25188)."""

import functools
import pathlib
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import Row, Update
from jaxdlm.core.compose import LOG_PROB, Traits
from jaxdlm.core.rule import Stage, need
from jaxdlm.errors import InputError
from jaxdlm.rules.rank import best_columns
from jaxdlm.trained import ASSETS
from jaxdlm.typing import Array, Bool, Float32, Key


class FilterWeights(NamedTuple):
    """A two-layer perceptron over the K columns of a block, 2 K^2 + 2 K numbers."""

    w1: Float32[Array, "K K"]  # [out, in], as torch.nn.Linear keeps it
    b1: Float32[Array, "K"]
    w2: Float32[Array, "K K"]
    b2: Float32[Array, "K"]


def answers_of(weights: FilterWeights, c: Float32[Array, "... K"]) -> Float32[Array, "... K"]:
    """W2 relu(W1 c + b1) + b2: the logit, per column, that its proposal is final."""
    hidden = jnp.einsum("hk,...k->...h", weights.w1, c)
    hidden = jax.nn.relu(hidden + weights.b1.reshape((1,) * (hidden.ndim - 1) + (-1,)))
    logit = jnp.einsum("kh,...h->...k", weights.w2, hidden)
    return logit + weights.b2.reshape((1,) * (logit.ndim - 1) + (-1,))


@functools.cache
def shipped_filter(name: str = "tiny") -> FilterWeights:
    """The filter that this package ships for an embedded model, made by `scripts/train.py --recipe learn2pd`.

    name: an embedded model, or the path of a learn2pd.safetensors file. Raises InputError where there is none.
    """
    from jaxdlm.checkpoint.safetensors import read_safetensors

    path = pathlib.Path(name) if name.endswith(".safetensors") else ASSETS / name / "learn2pd.safetensors"
    if not path.is_file():
        raise InputError(f"no filter is shipped for {name!r}: train one with scripts/train.py --recipe learn2pd")
    stored, _ = read_safetensors(path)
    if set(stored) != set(FilterWeights._fields):
        raise InputError(f"{path} holds {sorted(stored)}: a filter has {', '.join(FilterWeights._fields)}")
    return FilterWeights(*(stored[leaf] for leaf in FilterWeights._fields))  # NumPy: a cached tracer would leak


@struct.dataclass
class SelectByFilter(Stage):
    """See `select_by_filter`."""

    declares: ClassVar[Traits] = Traits(reads=("token", "score"), writes=("commit",), expects=LOG_PROB)

    weights: FilterWeights | None
    tau: Any
    made_for: str | None = struct.field(pytree_node=False, default=None)  # whose shipped filter stands in for `weights`

    @property
    def traits(self) -> Traits:
        return self.declares._replace(made_for=self.made_for)

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "score", rule="select_by_filter")
        weights = shipped_filter(self.made_for or "tiny") if self.weights is None else self.weights
        width, trained = row.open.shape[0], weights.b1.shape[0]
        if width > trained or (width < trained and row.blocks > 1):
            raise InputError(
                f"block={width}: this filter was trained for blocks of {trained}: decode with block={trained}"
            )
        c = jnp.where(row.exists, jnp.exp(update.score), 0.0)  # written columns too: training saw them
        c = jnp.pad(c, (0, trained - width))  # a canvas shorter than the block is a block that was cut
        yes = (jax.nn.sigmoid(answers_of(weights, c)) > self.tau)[:width]
        return update._replace(commit=row.open & (yes | best_columns(update.score, row.open, 1))), state


def select_by_filter(weights: Any, tau: Any = 0.96) -> SelectByFilter:
    """Commits {i open : sigmoid(W2 relu(W1 c + b1) + b2)_i > tau} and the open column with the highest c_i.

    c_i is the probability of the proposal at every column of the block, written ones included, 0 past the row's canvas.
    Args:
        weights: FilterWeights, or four arrays in its order, for one block length K (32 in arXiv 2509.25188), or the
            name of an embedded model: the filter that is shipped for it. A filter belongs to its model.
        tau: 0.96 for LLaDA, 0.9 for Dream in arXiv 2509.25188. 1: one column per forward.
    Departures from released code: probabilities in float32, not in the model's type; the progress guarantee is one
    column per forward whatever the number of steps. Raises InputError for arrays of other shapes, tau outside [0, 1], or,
    when traced, a block longer than K, or a shorter one that is not the whole canvas.
    """
    tau = argument.probability(tau, "tau")
    if isinstance(weights, str):
        return SelectByFilter(None, tau, weights)
    if not isinstance(weights, list | tuple) or len(weights) != 4:
        argument.refuse(weights, "weights", "the name of a model, or four arrays, w1, b1, w2, b2")
    try:
        arrays = FilterWeights(*(jnp.asarray(x, jnp.float32) for x in weights))
    except (TypeError, ValueError) as error:
        raise InputError(f"weights holds what is no array ({' '.join(str(error).split())[:80]})") from None
    width = arrays.b1.shape[0] if arrays.b1.ndim == 1 else -1
    if [x.shape for x in arrays] != [(width, width), (width,), (width, width), (width,)]:
        raise InputError(f"weights has shapes {[x.shape for x in arrays]}: must be [K, K], [K], [K, K], [K]")
    return SelectByFilter(arrays, tau)


@struct.dataclass
class EndAtText(Stage):
    """See `end_at_text`."""

    declares: ClassVar[Traits] = Traits(reads=("token", "score", "commit", "cut"), writes=("cut",))

    aggressive: bool = struct.field(pytree_node=False, default=False)

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "score", "commit", rule="end_at_text")
        if not row.ids.eos:
            raise InputError("the model names no end-of-text token, so no text ends there: leave end_at_text out")
        ends = jnp.asarray(row.ids.eos, jnp.int32)
        new = jnp.asarray(update.commit, bool) & row.pending & row.exists
        proposed = jnp.isin(update.token, ends)
        if self.aggressive:
            ends_here, at = first(new & proposed)
            guess = row.open & proposed
            surest = jnp.argmax(best_columns(update.score, guess, 1)).astype(jnp.int32)
            ends_here, at = ends_here | guess.any(), jnp.where(ends_here, at, surest)
        else:
            left = row.exists & row.pending & ~new
            text = jnp.where(new, update.token, row.tokens)
            ended = row.exists & ~left & ~row.prefilled & jnp.isin(text, ends)
            ends_here, at = first(ended & (jnp.cumsum(left) == 0))
        width = row.tokens.shape[0]
        none = jnp.asarray(width + 1 if update.cut is None else update.cut, jnp.int32)  # past the window: no cut
        return update._replace(cut=jnp.where(ends_here, jnp.minimum(at + 1, none), none).astype(jnp.int32)), state


def first(mark: Bool[Array, "W"]) -> tuple[Bool[Array, ""], Array]:
    """Whether any column is marked, and the first one."""
    return mark.any(), jnp.argmax(mark).astype(jnp.int32)


def end_at_text(*, aggressive: bool = False) -> EndAtText:
    """Cuts the canvas behind column e, where the text ends; columns past it no longer exist, not even as keys.

    Chain it after a selection. e is, by default, the first end-of-text token written with no open column before it in
    the window. aggressive, as released with arXiv 2509.25188: the first end-of-text token that this forward writes,
    else the surest open column that merely proposes one; e itself stays open then. That can cut an answer short.
    Departures from released code: it searches the window (the row's block, as the released cached variants do), and
    a forced commit counts like one that the filter asks for. Raises InputError, when traced, for a model without an
    end-of-text token.
    """
    return EndAtText(argument.flag(aggressive, "aggressive"))
