"""One draft with exits: a token leaves at the first one that is sure enough (Sorted speculative decoding, 2407.01955)."""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.core.loop import mask_invalid
from jaxdlm.core.model import KV
from jaxdlm.errors import InputError
from jaxdlm.models.backbone import Backbone
from jaxdlm.models.params import fingerprint, map_specs
from jaxdlm.registry import drafter
from jaxdlm.speculative import kv as store
from jaxdlm.speculative.guiding import Nodes, States, nodes_of
from jaxdlm.speculative.state import Proposal, Rows, Verdict
from jaxdlm.speculative.tree import Tree, chains
from jaxdlm.speculative.warp import Warp, draft
from jaxdlm.trained import ASSETS
from jaxdlm.typing import Array, Float, Float32, Int32, Key, PyTree

FILE = "s2d.safetensors"


class ExitState(NamedTuple):
    """Per group of layers, by position: keys, the hidden states that the next group reads, and how many are valid.

    A token that left early has no keys in the deeper groups; its hidden state waits there until a later token goes that
    deep. `length` never grows from a group to the next.
    """

    kv: tuple[KV, ...]
    hidden: tuple[Float[Array, "B L D"], ...]  # of all groups but the last
    length: tuple[Int32[Array, "B"], ...]  # of all groups but the first, which has read everything


def _example(target: Any, draft: Any, sampling: Warp) -> "Exits":
    """Two exits, the first of which is rarely sure."""
    ends = (draft.config.num_layers - 1, draft.config.num_layers)
    return Exits(draft.params, sampling, (jnp.float32(0.3),), draft.model, ends, depth=3)


@drafter(_example)
@struct.dataclass
class Exits:
    """A chain of `depth` tokens from a model whose layers are cut at `exits`.

    Exit g fires where max softmax(head(norm(h_g))) > thresholds[g], at temperature 1; the last one always. The token is
    drawn from the distribution of its exit. Deeper groups run only when a row needs them, over everything that waits.
    """

    params: PyTree
    warp: Warp
    thresholds: tuple[Any, ...]
    model: Backbone = struct.field(pytree_node=False)
    exits: tuple[int, ...] = struct.field(pytree_node=False)
    depth: int = struct.field(pytree_node=False, default=4)

    @property
    def tree(self) -> Tree:
        return chains(1, self.depth)

    @property
    def forwards(self) -> int:
        return self.depth

    @property
    def parts(self) -> list[tuple[int, int]]:
        """(first, last) layer of each group."""
        return list(zip((0, *self.exits[:-1]), self.exits, strict=True))

    def init(self, rows: Rows, prompt: int) -> ExitState:
        """The whole draft reads the prompt."""
        batch, columns = rows.tokens.shape
        position = jnp.broadcast_to(jnp.arange(prompt, dtype=jnp.int32)[None, :], (batch, prompt))
        x: Array = rows.tokens[:, :prompt]
        caches, waiting = [], []
        for first, last in self.parts:
            x, kv = self.model.part(self.params, x, position, jnp.ones_like(position, bool), None, first, last)
            pad = [(0, 0), (0, 0), (0, columns - prompt), (0, 0), (0, 0)]
            caches.append(jax.tree.map(lambda leaf, pad=pad: jnp.pad(leaf, pad), kv))
            waiting.append(jnp.pad(x, [(0, 0), (0, columns - prompt), (0, 0)]))
        read = jnp.minimum(rows.length, prompt) - 1
        return ExitState(tuple(caches), tuple(waiting[:-1]), (read,) * (len(self.exits) - 1))

    def propose(self, state: ExitState, rows: Rows, key: Key[Array, "B"]) -> tuple[Proposal, ExitState]:
        # after a round that was accepted whole, two committed tokens are new to the draft
        last = rows.length[:, None] - 2 + jnp.arange(2, dtype=jnp.int32)[None, :]
        guide = nodes_of(self.warp.guide, rows.guide)
        logits, state = self.next_logits(state, rows, store.take(rows.tokens, last), last)
        token, logq, states = self.choose(logits, rows, key, jnp.int32(0), guide, guide.root())

        def deeper(carry: tuple[ExitState, Array, States], level: Array) -> tuple[Any, Any]:
            state, token, states = carry
            logits, state = self.next_logits(state, rows, token[:, None], (rows.length + level - 1)[:, None])
            token, logq, states = self.choose(logits, rows, key, level, guide, states)
            return (state, token, states), (token, logq)

        levels = jnp.arange(1, self.depth, dtype=jnp.int32)
        (state, *_), (tokens, logqs) = jax.lax.scan(deeper, (state, token, states), levels)
        nodes = jnp.concatenate([token[None], tokens]).T
        log_probs = None if logq is None else jnp.moveaxis(jnp.concatenate([logq[None], logqs]), 0, 1)
        return Proposal(nodes, jnp.ones(nodes.shape, bool), log_probs, self.tree), state

    def observe(self, state: ExitState, rows: Rows, proposal: Proposal, verdict: Verdict) -> ExitState:
        """The state cut to the committed tokens: keys and waiting states of rejected ones no longer count."""
        valid = rows.length + jnp.minimum(verdict.count, self.depth - 1)
        return state._replace(length=tuple(jnp.minimum(length, valid) for length in state.length))

    def next_logits(
        self, state: ExitState, rows: Rows, tokens: Int32[Array, "B T"], position: Int32[Array, "B T"]
    ) -> tuple[Float32[Array, "B V"], ExitState]:
        """The logits of each row behind `tokens`, of its own exit."""
        past = store.seen(state.kv[0], position[:, 0])
        x, kv = self.model.part(
            self.params, tokens, jnp.maximum(position, 0), position >= 0, past, *self.parts[0]
        )  # fmt: skip
        state = state._replace(kv=(store.put(state.kv[0], kv, position), *state.kv[1:]))
        if state.hidden:
            state = state._replace(hidden=(write(state.hidden[0], x, position), *state.hidden[1:]))
        at, here = position[:, -1], x[:, -1]
        logits = self.logits(here)
        need = ~rows.done
        for group, threshold in enumerate(self.thresholds, 1):
            need = need & ~(jnp.max(jax.nn.softmax(logits, axis=1), axis=1) > threshold)
            here, state = self.go_deeper(state, group, at, need, here)
            logits = jnp.where(need[:, None], self.logits(here), logits)
        return logits, state

    def choose(
        self,
        logits: Float32[Array, "B V"],
        rows: Rows,
        key: Key[Array, "B"],
        level: Int32[Array, ""],
        guide: Nodes,
        states: States,
    ) -> tuple[Int32[Array, "B"], Float32[Array, "B V"] | None, States]:
        """The next token, the distribution it was drawn from (None where nothing is drawn), the guide's states there."""
        logits = guide.bend(logits[:, None], states)[:, 0]
        if self.warp.greedy:
            token, logq = jnp.argmax(logits, axis=1).astype(jnp.int32), None
        else:
            logq = self.warp.log_prob(logits)
            token = draft(self.warp, logq, rows, rows.length + level, key, level)
            logq = None if self.warp.shared else logq
        return token, logq, guide.advance(states, token[:, None])

    def logits(self, x: Float[Array, "B D"]) -> Float32[Array, "B V"]:
        return mask_invalid(self.model.exit(self.params, x), self.model)

    def go_deeper(
        self, state: ExitState, group: int, at: Int32[Array, "B"], need: Array, here: Float[Array, "B D"]
    ) -> tuple[Float[Array, "B D"], ExitState]:
        """(hidden rows at `at`, state) with a group run up to there for the rows in need, in windows of waiting
        states."""
        width, columns = self.depth + 2, state.hidden[0].shape[1]

        def waits(carry: Any) -> Array:
            return jnp.any(need & (carry[1].length[group - 1] <= at))

        def window(carry: Any) -> Any:
            here, state = carry
            start = state.length[group - 1]
            position = start[:, None] + jnp.arange(width, dtype=jnp.int32)[None, :]
            valid = need[:, None] & (position <= at[:, None])
            index = jnp.clip(position, 0, columns - 1)[:, :, None]
            x = jnp.take_along_axis(state.hidden[group - 1], index, axis=1)
            past = store.seen(state.kv[group], start)
            x, kv = self.model.part(self.params, x, position, valid, past, *self.parts[group])
            column = jnp.where(valid, position, -1)
            caches = list(state.kv)
            caches[group] = store.put(state.kv[group], kv, column)
            hidden = list(state.hidden)
            if group < len(hidden):
                hidden[group] = write(hidden[group], x, column)
            end = jnp.clip(at - start, 0, width - 1)[:, None, None]
            reached = (need & (at >= start) & (at < start + width))[:, None]
            here = jnp.where(reached, jnp.take_along_axis(x, end, axis=1)[:, 0], here)
            length = list(state.length)
            length[group - 1] = jnp.where(need, jnp.minimum(start + width, at + 1), start)
            return here, ExitState(tuple(caches), tuple(hidden), tuple(length))

        return jax.lax.while_loop(waits, window, (here, state))


def write(buffer: Float[Array, "B L D"], x: Float[Array, "B T D"], column: Int32[Array, "B T"]) -> Array:
    """x at these columns of each row; negative ones nowhere."""
    column = jnp.where(column < 0, buffer.shape[1], column)
    return buffer.at[jnp.arange(column.shape[0])[:, None], column].set(x.astype(buffer.dtype), mode="drop")


def read_exits(path: pathlib.Path, draft: Any) -> tuple[PyTree, tuple[int, ...]]:
    """(weights, exits) of a draft that was trained with exits; refused for another draft than the one it was made of."""
    from jaxdlm.checkpoint.safetensors import read_safetensors

    if not path.is_file():
        raise InputError(f"{path} is no file: train a draft with exits with scripts/train.py --recipe s2d")
    stored, notes = read_safetensors(path)
    if notes.get("fingerprint") != fingerprint(draft.params):
        raise InputError(
            f"the exits in {path.name} were trained for another draft than {draft.name}: train them with "
            f"scripts/train.py --recipe s2d --model {draft.name}"
        )
    params = map_specs(lambda name, _: jnp.asarray(stored[name]).astype(draft.config.param_dtype), draft.config)
    return params, tuple(int(layer) for layer in notes["exits"].split(","))


def shipped_exits(draft: Any) -> tuple[PyTree, tuple[int, ...]]:
    """Those of an embedded draft."""
    path = ASSETS / str(draft.name) / FILE
    if not path.is_file():
        raise InputError(f"no exits are shipped for draft {draft.name!r}: pass weights=FILE, see docs/training.md")
    return read_exits(path, draft)
