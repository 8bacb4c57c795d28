"""How long an answer will be, read off the hidden states of its prompt before anything is written (CPPD, arXiv 2307.12270)."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import argument
from jaxdlm.core.model import Model
from jaxdlm.errors import InputError
from jaxdlm.layout import bucket_of, encode, listed
from jaxdlm.models.params import fingerprint
from jaxdlm.trained import once, shipped
from jaxdlm.typing import Array, Float32, Int32, PyTree

KIND, BATCH, LEAST = "length_prior", 64, 8


class CountingHead(NamedTuple):
    """A two-layer perceptron over the mean and the last hidden state of a prompt, 2 D numbers; C lengths, the last: longer."""

    mean: Float32[Array, "2D"]  # of the numbers in training, and their spread
    spread: Float32[Array, "2D"]
    w1: Float32[Array, "2D H"]
    b1: Float32[Array, "H"]
    w2: Float32[Array, "H C"]
    b2: Float32[Array, "C"]


def length_logits(head: CountingHead, x: Float32[Array, "B 2D"]) -> Float32[Array, "B C"]:
    """W2 gelu(W1 (x - mean) / spread + b1) + b2: of each number of columns 1, 2, ..., its end of text counted."""
    x = (x - head.mean[None]) / head.spread[None]
    return jax.nn.gelu(x @ head.w1 + head.b1[None]) @ head.w2 + head.b2[None]


@functools.partial(jax.jit, static_argnames=("model",))
def _pooled(
    tokens: Int32[Array, "B P"], pads: Int32[Array, "B"], model: Model, params: PyTree
) -> Float32[Array, "B 2D"]:
    column = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :] - pads[:, None]
    own = column >= 0
    hidden = model.apply(params, tokens, jnp.maximum(column, 0), own).hidden.astype(jnp.float32)
    mean = jnp.sum(jnp.where(own[:, :, None], hidden, 0.0), axis=1) / jnp.sum(
        own, axis=1, keepdims=True, dtype=jnp.float32
    )
    return jnp.concatenate([mean, hidden[:, -1]], axis=1)


def features(lm: Any, texts: Sequence[np.ndarray]) -> Float32[np.ndarray, "N 2D"]:
    """Mean and last hidden state of each prompt: one forward over its columns, without a canvas; rows of one bucket together."""
    made = np.zeros((len(texts), 2 * lm.config.hidden_size), np.float32)
    groups: dict[int, list[int]] = {}
    for index, text in enumerate(texts):
        groups.setdefault(bucket_of(len(text)), []).append(index)
    for columns, members in groups.items():
        for first in range(0, len(members), BATCH):
            rows = members[first : first + BATCH]
            tokens = np.full((min(BATCH, 1 << (len(rows) - 1).bit_length()), columns), lm.config.tokens.pad, np.int32)
            pads = np.zeros(len(tokens), np.int32)
            for at, row in enumerate(rows):
                pads[at] = columns - len(texts[row])
                tokens[at, pads[at] :] = texts[row]
            made[rows] = np.asarray(_pooled(jnp.asarray(tokens), jnp.asarray(pads), lm.model, lm.params))[: len(rows)]
    return made


def canvas_of(columns: int) -> int:
    """A number of columns rounded up to 8, 12, 16, 24, 32, 48, ..., so that few programs serve all lengths."""
    power = max(LEAST, 1 << (int(columns) - 1).bit_length())
    return 3 * power // 4 if columns <= 3 * power // 4 and power > LEAST else power


def quantile_columns(logits: Float32[np.ndarray, "N C"], quantile: float) -> Int32[np.ndarray, "N"]:
    """The fewest columns that hold the answer with this probability; C where nothing below does."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    reached = np.cumsum(p, axis=1) / p.sum(1, keepdims=True) >= quantile - 1e-6
    return np.where(reached.any(1), reached.argmax(1) + 1, logits.shape[1]).astype(np.int32)


@once
def _read(path: pathlib.Path) -> tuple[CountingHead, str]:
    """(the head in a file, its model's fingerprint)."""
    from jaxdlm.checkpoint.safetensors import read_safetensors

    stored, notes = read_safetensors(path)
    if set(stored) != set(CountingHead._fields) or notes.get("method") != KIND:
        raise InputError(f"{path.name} is no counting head: train one with scripts/train.py --recipe {KIND}")
    return CountingHead(*(np.asarray(stored[leaf], np.float32) for leaf in CountingHead._fields)), notes.get(
        "fingerprint", ""
    )


def read_head(weights: Any, lm: Any) -> CountingHead:
    """The counting head in a file, or that of an embedded model. Raises InputError for what is none, or another model's."""
    if isinstance(weights, CountingHead):
        head, made_for = weights, ""
    else:
        head, made_for = _read(shipped(weights, KIND))
    if head.w1.shape[0] != 2 * lm.config.hidden_size or (made_for and made_for != fingerprint(lm.params)):
        raise InputError(
            f"this counting head was trained for another model than {lm.name}: train one with scripts/train.py --recipe {KIND}"
        )
    return head


def length_prior(
    lm: Any, prompts: Sequence[Any], weights: Any = None, quantile: Any = 0.99, most: int = 128, raw: bool = False
) -> list[int]:
    """Columns that each prompt's answer will need, for `decode(max_new=...)`: q-quantiles, rounded up to 8, 12, 16, 24, 32, ....

    A counting head reads the hidden states of the prompt, one forward without a canvas, and gives P(length). Rows of one number
    are decoded in one program, so that short answers never compute the columns of long ones. The head is right in
    distribution only: an answer that does not fit is cut at its canvas (Status.FINISHED instead of EOS).

    Args:
        lm: from `jaxdlm.load`.
        prompts: as in `decode`.
        weights: a file of scripts/train.py --recipe length_prior, or the name of an embedded model; default: lm's own.
        quantile: q, the share of answers that are to fit, above 0 and below 1.
        most: columns at most, max_new.
        raw: do not pass strings through the chat template.

    Raises:
        InputError: for prompts that `decode` refuses, numbers out of range, and a head of another model.

    Examples:
        >>> import jaxdlm as jd
        >>> lm = jd.load("tiny")
        >>> prompts = ["reverse : [ Alan , Kate , Omar ]", "copy : [ Alan , Kate , Omar , Gina , Noah , Dora ]"]
        >>> columns = jd.length_prior(lm, prompts)
        >>> jd.decode(lm, prompts, max_new=columns).text
        ['[ Omar , Kate , Alan ]', '[ Alan , Kate , Omar , Gina , Noah , Dora ]']
    """
    argument.model(lm)
    quantile = argument.real(above=0, high=1)(quantile, "quantile")
    most = argument.whole(1, argument.COLUMNS)(most, "most")
    head = read_head(lm.name if weights is None else weights, lm)
    texts = [encode(lm, prompt, index, 1, argument.flag(raw, "raw")) for index, prompt in enumerate(listed(prompts))]
    logits = np.asarray(length_logits(head, jnp.asarray(features(lm, texts))))
    return [min(most, canvas_of(int(columns))) for columns in quantile_columns(logits, quantile)]
