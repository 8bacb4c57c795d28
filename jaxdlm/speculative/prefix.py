"""Prompts that begin with embeddings, such as an image's: rows of the first layer's input in columns whose token is -1."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdlm import struct
from jaxdlm.argument import shown
from jaxdlm.core.model import Embeds, LooksUp
from jaxdlm.errors import InputError
from jaxdlm.speculative.policy import Decoding, Rereads
from jaxdlm.speculative.state import Rows
from jaxdlm.speculative.visual import Visual
from jaxdlm.typing import Array, Float

NOTHING = -1  # the token of a column that has an embedding


@struct.dataclass
class OfColumns:
    """A table of embeddings that has, for token -1, each row's own of its column."""

    table: Any
    own: Float[Array, "B P D"]

    @property
    def dtype(self) -> Any:
        return self.table.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.table.shape)

    def rows(self, tokens: Array, dtype: Any) -> Array:
        known = jnp.maximum(tokens, 0)
        words = (
            self.table.rows(known, dtype)
            if isinstance(self.table, LooksUp)
            else jnp.take(self.table, known, axis=0, mode="clip")
        )
        missing = tokens.shape[1] - self.own.shape[1]
        own = jnp.pad(self.own, [(0, 0), (0, max(missing, 0)), (0, 0)])[:, : tokens.shape[1]]
        return jnp.where((tokens < 0)[..., None], own.astype(dtype), words)


def reading(decoding: Decoding, rows: Rows) -> Decoding:
    """The decoding as it reads the prompts of these rows."""
    if rows.prefix is None:
        return decoding
    params = dict(decoding.params, embed=OfColumns(decoding.params["embed"], rows.prefix))
    return dataclasses.replace(decoding, params=params)


def visual_of(rows: Rows) -> Visual | None:
    """The embeddings, and how many of them there are; None: there are none."""
    if rows.prefix is None:
        return None
    return Visual(rows.prefix, jnp.sum(rows.tokens < 0, axis=1, dtype=jnp.int32))


def words(rows: Rows, config: Any) -> Rows:
    """The rows as who drafts sees them: pads in the place of embeddings."""
    if rows.prefix is None:
        return rows
    return rows._replace(tokens=jnp.where(rows.tokens < 0, config.tokens.pad, rows.tokens), prefix=None)


def checked(lm: Any, embeddings: Any, count: int, policy: Any) -> list[np.ndarray] | None:
    """float32[P, D] of each of `count` prompts, [0, D] where it has none. Raises InputError for what the model, or the method,
    cannot read."""
    if embeddings is None:
        return None
    config, search = lm.config, policy.search
    if isinstance(search, Rereads):
        raise InputError(
            f"{search.rereads} reads prompts again as tokens: leave prefix_embeddings out, or use another method"
        )
    if not isinstance(lm.model, Embeds) or "embed" not in lm.params or config.embed_scale is not None:
        why = "it scales its embeddings" if config.embed_scale is not None else "it does not tell its embeddings"
        raise InputError(f"{lm.name} cannot read prefix_embeddings, since {why}: leave them out")
    try:
        listed = list(embeddings)
    except TypeError:
        listed = []
    if len(listed) != count:
        raise InputError(
            f"prefix_embeddings has {len(listed)} entries for {count} prompts: give one array per prompt, or None"
        )
    return [_one(each, index, config) for index, each in enumerate(listed)]


def _one(value: Any, index: int, config: Any) -> np.ndarray:
    where, size = f"prefix_embeddings[{index}]", config.hidden_size
    if value is None:
        return np.zeros((0, size), np.float32)
    try:
        array = np.asarray(value, np.float32)
    except (ValueError, TypeError):
        array = np.zeros(0, np.float32)
    if array.ndim != 2 or array.shape[1] != size:
        raise InputError(f"{where}={shown(value)} must be an array [P, {size}] of embeddings")
    if not np.isfinite(array).all():
        raise InputError(f"{where} holds numbers that are not finite: leave them out")
    return array


def behind(text: np.ndarray, prefix: np.ndarray, index: int, room: int, lm: Any) -> np.ndarray:
    """The tokens of a prompt behind its embeddings. Raises InputError where both are longer than the cache."""
    total, most = len(prefix) + len(text) + room, lm.config.max_position
    if total > most:
        raise InputError(
            f"prompt {index} has {len(prefix)} embeddings and {len(text)} tokens; with max_new={room} that is more than the "
            f"{most} positions of {lm.name}: send fewer embeddings, or lower max_new"
        )
    return np.concatenate([np.full(len(prefix), NOTHING, np.int32), text])


def stacked(prefix: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """float32[B, columns, D]: the embeddings of rows, zeros behind them."""
    return np.stack([np.pad(each, [(0, columns - len(each)), (0, 0)]) for each in prefix])
