"""Trees that one layer on the target's own hidden states grows by its confidence (EAGLE-2, EAGLE-3)."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import struct
from jaxdlm.core.model import KV
from jaxdlm.core.readout import mask_invalid
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.layers import after, combine, mlp, product, project, read, rms_norm
from jaxdlm.models.rope import rotation
from jaxdlm.registry import drafter
from jaxdlm.speculative import heads, verify
from jaxdlm.speculative import kv as store
from jaxdlm.speculative.drafters._borrowing import Borrowing
from jaxdlm.speculative.drafters._levels import EagleState, Level, Slots
from jaxdlm.speculative.heads import Trained, check_target, layer_config
from jaxdlm.speculative.state import Lent, Proposal, Rows, Seen, Verdict
from jaxdlm.speculative.tree import Grown
from jaxdlm.speculative.visual import Compressor, Gap, Visual
from jaxdlm.speculative.warp import DRAFT, stage_key
from jaxdlm.typing import Array, Bool, Float, Float32, Int32, Key, PyTree


@struct.dataclass
class Eagle(Borrowing):
    """What both have in common: pairs read, a tree grown, what the target shows kept. See `Eagle2` and `Eagle3`.

    A round costs `depth` forwards of the layer. The first reads the pairs that the last round has committed, with the target's
    features; each further one the `width` best nodes of the level before, with the layer's own output for the feature. Of all
    width + (depth - 1) · width² nodes the `nodes` likeliest are submitted: none is likelier than the one above it.
    """

    model: ClassVar[None] = None

    leaves: dict[str, Any]
    config: ModelConfig = struct.field(pytree_node=False)
    taps: tuple[int, ...] = struct.field(pytree_node=False)
    vocab: int = struct.field(pytree_node=False)
    made_for: str = struct.field(pytree_node=False, default="")
    width: int = struct.field(pytree_node=False, default=10)
    depth: int = struct.field(pytree_node=False, default=8)
    nodes: int = struct.field(pytree_node=False, default=59)
    lent: Lent | None = None
    compressor: Compressor | None = None

    recipe: ClassVar[str]

    @property
    def tree(self) -> Grown:
        return Grown(min(self.nodes, self.width + (self.depth - 1) * self.width**2), self.depth)

    @property
    def forwards(self) -> int:
        return self.depth

    @property
    def scratch(self) -> int:
        return self.width * (self.depth - 1)

    def check(self, lm: Any) -> None:
        check_target(lm, self, self.recipe, self.target_size)

    # --------------------------------------------------------------------------------------- what the two differ in

    @property
    def target_size(self) -> int:
        """Of the hidden states that it reads."""
        raise NotImplementedError

    def feature_of(self, taps: Float[Array, "B T C E"]) -> Float[Array, "B T D"]:
        """What the target shows, as a pair has it."""
        raise NotImplementedError

    def enter(self, feature: Float[Array, "B T D"], word: Float[Array, "B T E"]) -> tuple[Array, Array]:
        """(what the layer adds to, what its attention reads) of pairs."""
        raise NotImplementedError

    def shortened(
        self, x: Float[Array, "B T D"], feature: Float[Array, "B T D"], rows: Rows, visual: Visual,
        noise: Float32[Array, "B N"] | None,
    ) -> tuple[tuple[Array, Array], Gap]:  # fmt: skip
        """(pairs with fewer of an image, from column 0 on, what is left out)."""
        raise NotImplementedError

    def logits(self, hidden: Float[Array, "B T D"]) -> Float32[Array, "B T U"]:
        """Of the ids that it drafts."""
        raise NotImplementedError

    def ids(self, drafted: Int32[Array, "..."]) -> Int32[Array, "..."]:
        """The target's ids of these."""
        return drafted

    def theirs(self, logits: Float32[Array, "... V"]) -> Float32[Array, "... U"]:
        """The target's logits of the ids that it drafts."""
        return logits

    # ------------------------------------------------------------------------------------------------------ the layer

    def layer(
        self, feature: Float[Array, "B T D"], token: Int32[Array, "B T"], position: Int32[Array, "B T"],
        allow: Bool[Array, "B T S_T"], past: KV | None = None,
    ) -> tuple[Float[Array, "B T D"], KV]:  # fmt: skip
        """(its output for each pair: the feature that it expects next, the pairs' keys and values)."""
        lent = self.host
        word = lent.model.embed(lent.params, token).astype(feature.dtype)
        return self.over(*self.enter(feature, word), position, allow, past)

    def over(
        self, x: Float[Array, "B T D"], u: Float[Array, "B T E"], position: Int32[Array, "B T"],
        allow: Bool[Array, "B T S_T"], past: KV | None = None,
    ) -> tuple[Float[Array, "B T D"], KV]:  # fmt: skip
        """`layer` of pairs that have entered."""
        config = self.config
        turn = rotation(config.rope, config.head_dim, position)
        q, k, v = project(self.leaves, u, turn, config)
        keys, values = (k, v) if past is None else (after(past.k[0][0][0], k), after(past.v[0][0][0], v))
        x = x + combine(self.leaves, q, keys, values, allow, config)
        x = x + mlp(self.leaves, rms_norm(x, self.leaves["mlp_norm"], config), config)
        return x, KV(((k[None],),), ((v[None],),))

    def best(self, hidden: Float[Array, "B T D"]) -> tuple[Int32[Array, "B T K"], Float32[Array, "B T K"]]:
        """(the K likeliest tokens behind each, their log-probabilities)."""
        score, drafted = jax.lax.top_k(jax.nn.log_softmax(self.logits(hidden)), self.width)
        return self.ids(drafted.astype(jnp.int32)), score

    # ----------------------------------------------------------------------------------------------------- the rounds

    def init(self, rows: Rows, prompt: int) -> PyTree:
        """Nothing: what there is to know of the prompts comes from the target (`begin`)."""
        return ()

    def begin(self, state: PyTree, rows: Rows, seen: Seen) -> EagleState:
        """The pairs of the prompts read; the last of them is read again when it is drafted from."""
        assert seen.taps is not None
        feature, columns = self.feature_of(seen.taps), seen.taps.shape[1]
        following = jnp.minimum(jnp.arange(1, columns + 1, dtype=jnp.int32), rows.tokens.shape[1] - 1)
        _, kv, gap = self.read(feature, rows, rows.tokens[:, following], seen.visual)
        first = rows.length - 2
        last = jnp.take_along_axis(feature, jnp.maximum(first, 0)[:, None, None], axis=1)
        room = jnp.pad(last, [(0, 0), (0, self.depth), (0, 0)])
        return EagleState(store.room(kv, rows.tokens.shape[1] + self.scratch), room, first, gap)

    def read(
        self, feature: Float[Array, "B T D"], rows: Rows, following: Int32[Array, "B T"], visual: Visual | None,
        noise: Float32[Array, "B N"] | None = None,
    ) -> tuple[Float[Array, "B T D"], KV, Gap | None]:  # fmt: skip
        """(the layer's output for the pairs of prompts, their keys, what is left out of an image). following: of each column the
        next one's token. noise: on the gate, in training."""
        lent, (batch, columns) = self.host, feature.shape[:2]
        word = lent.model.embed(lent.params, following).astype(feature.dtype)
        position, _ = store.places(batch, columns)
        if visual is not None:
            own = jnp.pad(visual.embeddings[:, 1:], [(0, 0), (0, columns), (0, 0)])[:, :columns].astype(word.dtype)
            word = jnp.where((position + 1 < visual.count[:, None])[:, :, None], own, word)
        entered, gap = self.enter(feature, word), None
        allow = position[:, None, :] <= position[:, :, None]
        if visual is not None and self.compressor is not None:
            entered, gap = self.shortened(entered[0], feature, rows, visual, noise)
            allow = allow & (~gap.hides(position)[:, None, :] | jnp.eye(columns, dtype=bool)[None])
            position = gap.nearer(position)
        return *self.over(*entered, position, allow), gap

    def watch(self, state: EagleState, rows: Rows, proposal: Proposal, verdict: Verdict, seen: Seen) -> EagleState:
        """The features of the root and of the path; what lies behind the accepted ones is not read."""
        assert seen.taps is not None
        path = jnp.asarray(verify.read_row(proposal.tree))[1 + verdict.path]
        row = jnp.concatenate([jnp.zeros_like(path[:, :1]), path], axis=1)
        taps = jnp.take_along_axis(seen.taps, row[:, :, None, None], axis=1)
        return state._replace(feature=self.feature_of(taps), first=rows.length - 1)

    def observe(self, state: EagleState, rows: Rows, proposal: Proposal, verdict: Verdict) -> EagleState:
        return state

    def propose(self, state: EagleState, rows: Rows, key: Key[Array, "B"]) -> tuple[Proposal, EagleState]:
        hidden, kv = self.catch_up(state, rows)
        level, slots = self.start(hidden)

        def deeper(carry: tuple[KV, Level], number: Array) -> tuple[tuple[KV, Level], Slots]:
            kv, level = carry
            hidden, kv = self.extend(state._replace(kv=kv), level, rows, number)
            level, slots = self.grow(level, hidden, number)
            return (kv, level), slots

        (kv, _), more = jax.lax.scan(deeper, (kv, level), jnp.arange(1, self.depth, dtype=jnp.int32))
        flat = lambda own, rest: jnp.concatenate([own, jnp.moveaxis(rest, 0, 1).reshape(own.shape[0], -1)], axis=1)  # noqa: E731
        token, valid, parent = jax.vmap(self.chosen)(jax.tree.map(flat, slots, more))
        valid = valid & (rows.length >= 2)[:, None]  # of a single token there is no pair
        return Proposal(token, valid, None, self.tree, parent=parent), state._replace(kv=kv)

    def catch_up(self, state: EagleState, rows: Rows) -> tuple[Float[Array, "B 1 D"], KV]:
        """(the layer's output for the last pair, the keys with those of all pairs that the last round has committed)."""
        place = jnp.arange(state.feature.shape[1], dtype=jnp.int32)[None, :]
        count = jnp.clip(rows.length - 1 - state.first, 1, place.shape[1])[:, None]
        position = state.first[:, None] + place
        token = store.take(rows.tokens, position + 1)
        past = state.sees(state.first)
        own = (place[:, None, :] <= place[:, :, None]) & (place < count)[:, None, :]
        own = own | jnp.eye(place.shape[1], dtype=bool)[None]  # what is no pair sees itself alone
        before = jnp.broadcast_to(past[:, None, :], (*position.shape, past.shape[1]))
        allow = jnp.concatenate([before, jnp.broadcast_to(own, (*position.shape, place.shape[1]))], axis=2)
        hidden, fresh = self.layer(state.feature, token, state.place(jnp.maximum(position, 0)), allow, state.kv)
        kv = store.put(state.kv, fresh, position, place < count)
        return jnp.take_along_axis(hidden, count[:, :, None] - 1, axis=1), kv

    def extend(
        self, state: EagleState, level: Level, rows: Rows, number: Int32[Array, ""]
    ) -> tuple[Float[Array, "B K D"], KV]:
        """(the layer's output for the nodes of a level (1, 2, ...), the keys with theirs)."""
        (batch, width), base = level.token.shape, rows.tokens.shape[1]
        committed = state.sees(rows.length - 1)[:, :base]
        before = jnp.broadcast_to(committed[:, None, :], (batch, width, base))
        own = jnp.broadcast_to(jnp.eye(width, dtype=bool)[None], (batch, width, width))
        position = state.place(jnp.broadcast_to((rows.length - 2 + number)[:, None], level.token.shape))
        hidden, fresh = self.layer(
            level.feature, level.token, position, jnp.concatenate([before, level.sees, own], axis=2), state.kv
        )
        column = base + (number - 1) * width
        write = lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), column, 2)  # noqa: E731
        return hidden, jax.tree.map(write, state.kv, fresh)

    def start(self, hidden: Float[Array, "B 1 D"]) -> tuple[Level, Slots]:
        """The first level: the likeliest tokens behind the root."""
        token, score = (each[:, 0] for each in self.best(hidden))
        slot = jnp.broadcast_to(jnp.arange(self.width, dtype=jnp.int32)[None], token.shape)
        feature = jnp.repeat(hidden, self.width, axis=1)
        sees = jnp.zeros((*token.shape, self.scratch), bool)
        return Level(token, score, feature, slot, sees), Slots(token, score, jnp.full_like(slot, -1))

    def grow(self, level: Level, hidden: Float[Array, "B K D"], number: Int32[Array, ""]) -> tuple[Level, Slots]:
        """The next level, the K likeliest of all children, and all of these."""
        width = self.width
        token, score = self.best(hidden)
        total = (level.score[:, :, None] + score).reshape(token.shape[0], -1)
        value, place = jax.lax.top_k(total, width)
        up = place // width
        of = lambda leaf: jnp.take_along_axis(leaf, up.reshape(*up.shape, *(1,) * (leaf.ndim - 2)), axis=1)  # noqa: E731
        column = jnp.arange(self.scratch, dtype=jnp.int32)[None, None, :]
        sees = of(level.sees) | (column == ((number - 1) * width + up)[:, :, None])
        flat = token.reshape(token.shape[0], -1)
        slot = (width + (number - 1) * width**2 + place).astype(jnp.int32)
        following = Level(jnp.take_along_axis(flat, place, axis=1), value, of(hidden), slot, sees)
        return following, Slots(flat, total, jnp.repeat(level.slot, width, axis=1))

    def chosen(self, slots: Slots) -> tuple[Int32[Array, "N"], Bool[Array, "N"], Int32[Array, "N"]]:
        """(tokens, which are nodes, parents) of one row's likeliest slots, in their order: a tie goes to the earlier one, so
        that above each that is chosen all are."""
        _, place = jax.lax.top_k(slots.score, self.tree.size)
        place = jnp.sort(place)
        above = slots.parent[place]
        parent = jnp.argmax(place[None, :] == above[:, None], axis=1).astype(jnp.int32)
        return slots.token[place], slots.score[place] > -jnp.inf, jnp.where(above < 0, -1, parent)


@drafter(lambda target, draft, sampling: untrained(Eagle2, target))
@struct.dataclass
class Eagle2(Eagle):
    """EAGLE-2's head (arXiv 2406.16858): x = W [e; f] + b, then a Llama layer, whose output is the next feature.

    e: the target's embedding of token p + 1. f: the target's last hidden state at p, after its final norm; the target's head
    reads the output. The layer's attention reads x itself, or norm(x) where the file has a norm (SpecVLM, 2509.11815).
    """

    recipe: ClassVar[str] = "eagle2"

    @property
    def target_size(self) -> int:
        return self.config.hidden_size

    def feature_of(self, taps: Float[Array, "B T C E"]) -> Float[Array, "B T D"]:
        lent = self.host
        return rms_norm(taps[:, :, 0], lent.params["final_norm"], lent.model.config)

    def enter(self, feature: Float[Array, "B T D"], word: Float[Array, "B T E"]) -> tuple[Array, Array]:
        both = jnp.concatenate([word, feature], axis=2)
        x = product("btd,de->bte", both, read(self.leaves["fc"], both.dtype))
        x = x + self.leaves["fc_bias"].astype(x.dtype)[None, None] if "fc_bias" in self.leaves else x
        return x, self.normal(x)

    def normal(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """What the layer's attention reads of x."""
        return rms_norm(x, self.leaves["attn_norm"], self.config) if "attn_norm" in self.leaves else x

    def shortened(
        self, x: Float[Array, "B T D"], feature: Float[Array, "B T D"], rows: Rows, visual: Visual,
        noise: Float32[Array, "B N"] | None,
    ) -> tuple[tuple[Array, Array], Gap]:  # fmt: skip
        assert self.compressor is not None
        column, count = jnp.arange(x.shape[1], dtype=jnp.int32)[None, :], visual.count
        asks = ((column >= count[:, None]) & (column < rows.length[:, None])).astype(jnp.float32)
        share = asks / jnp.maximum(jnp.sum(asks, axis=1, keepdims=True), 1)
        question = jnp.einsum("bt,btd->bd", share.astype(feature.dtype), feature)
        key = jax.vmap(lambda key: stage_key(key, jnp.int32(0), DRAFT))(rows.key)
        size = min(visual.embeddings.shape[1], x.shape[1])
        short = self.compressor.of(self.leaves, x[:, :size], count, key, question, noise)
        left = jnp.pad(short.x, [(0, 0), (0, x.shape[1] - short.x.shape[1]), (0, 0)])
        x = jnp.where((column < short.count[:, None])[:, :, None], left, x)
        return (x, self.normal(x)), Gap(short.count, count)

    def logits(self, hidden: Float[Array, "B T D"]) -> Float32[Array, "B T U"]:
        lent = self.host
        return mask_invalid(lent.model.head(lent.params, hidden), lent.model)


@drafter(lambda target, draft, sampling: untrained(Eagle3, target))
@struct.dataclass
class Eagle3(Eagle):
    """EAGLE-3's head (arXiv 2503.01840): g = W [h_i; h_j; h_k] of three of the target's layers; z = [norm e; norm g].

    The layer's attention reads z and adds to g; its output is the next g, and the norm of it goes to a head of its own, over
    the ids of `leaves["ids"]` alone.
    """

    recipe: ClassVar[str] = "eagle3"

    @property
    def target_size(self) -> int:
        return int(self.leaves["fc"].shape[0]) // len(self.taps)

    def feature_of(self, taps: Float[Array, "B T C E"]) -> Float[Array, "B T D"]:
        flat = taps.reshape(*taps.shape[:2], -1)
        return product("btd,de->bte", flat, read(self.leaves["fc"], flat.dtype))

    def enter(self, feature: Float[Array, "B T D"], word: Float[Array, "B T E"]) -> tuple[Array, Array]:
        parts = (("embed_norm", word), ("hidden_norm", feature))
        return feature, jnp.concatenate([rms_norm(x, self.leaves[name], self.config) for name, x in parts], axis=2)

    def logits(self, hidden: Float[Array, "B T D"]) -> Float32[Array, "B T U"]:
        normal = rms_norm(hidden, self.leaves["norm"], self.config)
        own = product("btd,dv->btv", normal, read(self.leaves["lm_head"], normal.dtype)).astype(jnp.float32)
        every = jnp.zeros((1, 1, self.host.model.config.vocab_size), jnp.float32)
        return own + self.theirs(mask_invalid(every, self.host.model))  # -inf where the target never says it

    def ids(self, drafted: Int32[Array, "..."]) -> Int32[Array, "..."]:
        return self.leaves["ids"][drafted]

    def theirs(self, logits: Float32[Array, "... V"]) -> Float32[Array, "... U"]:
        return logits[..., self.leaves["ids"]]


KINDS = {"eagle2": Eagle2, "eagle3": Eagle3}


def drafting(kind: type[Any], trained: Trained, **size: Any) -> Any:
    """The drafter of a trained head."""
    return kind(*trained[:5], **size)


def layers_of(kind: type[Any], count: int) -> tuple[int, ...]:
    """The layers that a head reads of a target of so many: the last; or one near the bottom, the middle, and near the top."""
    if kind is Eagle2:
        return (count - 1,)
    return tuple(sorted({min(1, count - 1), max(count // 2 - 1, 0), max(count - 4, 0)}))


def blank(
    kind: type[Any], target: Any, *, feed: int, words: np.ndarray | None = None, seed: int = 0, visual: bool = False
) -> Trained:
    """A head that knows nothing, for this target. words: ids that it drafts (EAGLE-3). visual: with ways to read images."""
    own = target.config
    config = layer_config(
        hidden=own.hidden_size, heads=own.num_heads, kv_heads=own.num_kv_heads, head_dim=own.head_dim, feed=feed,
        vocab=own.vocab_size,
    )  # fmt: skip
    taps = layers_of(kind, own.num_layers)
    return heads.blank(kind.recipe, config, target=own.hidden_size, taps=taps, words=words, seed=seed, visual=visual)


def untrained(kind: type[Any], target: Any, width: int = 3, depth: int = 3, nodes: int = 8) -> Any:
    """A drafter with a head that knows nothing."""
    words = np.flatnonzero(np.arange(target.config.vocab_size) % 3 != 1).astype(np.int32)  # a reduced vocabulary
    return drafting(kind, blank(kind, target, feed=16, words=words), width=width, depth=depth, nodes=nodes)
