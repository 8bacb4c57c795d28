"""A block of drafts in one pass of a few layers that read the target's hidden states as their context (DFlash)."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.core.model import KV
from jaxdlm.core.readout import mask_invalid
from jaxdlm.errors import InputError
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.layers import after, combine, mlp, product, project, read, rms_norm
from jaxdlm.models.rope import rotation
from jaxdlm.registry import drafter
from jaxdlm.speculative import heads
from jaxdlm.speculative import kv as store
from jaxdlm.speculative.columns import draft_columns
from jaxdlm.speculative.drafters._borrowing import Borrowing
from jaxdlm.speculative.heads import Trained, check_target, layer_config
from jaxdlm.speculative.pair import MOST
from jaxdlm.speculative.state import Lent, Proposal, Rows, Seen, Verdict
from jaxdlm.speculative.tree import Tree, chains
from jaxdlm.speculative.warp import Warp
from jaxdlm.typing import Array, Bool, Float, Float32, Int32, Key, PyTree

SHARED = ("fc", "hidden_norm", "norm", "mask")  # leaves that no layer has of its own


@drafter(lambda target, draft, sampling: untrained(target, sampling))
@struct.dataclass
class DFlash(Borrowing):
    """The last token and `width` - 1 masks through layers that see context keys and each other (arXiv 2602.06036).

    c_p = norm(W [h_i(p); h_j(p); ...]) of the target's layers `taps`; the keys and values of a column are made of c by every
    layer's own projections, and kept by position. The column of the last token has none yet: the target has not read it. Its
    embeddings and its head are the target's; row i of the block is the law of column n - 1 + i.
    """

    model: ClassVar[None] = None

    leaves: dict[str, Any]
    config: ModelConfig = struct.field(pytree_node=False)
    taps: tuple[int, ...] = struct.field(pytree_node=False)
    vocab: int = struct.field(pytree_node=False)
    made_for: str = struct.field(pytree_node=False)
    warp: Warp
    width: int = struct.field(pytree_node=False, default=8)
    mask: int | None = struct.field(pytree_node=False, default=None)
    lent: Lent | None = None

    @property
    def tree(self) -> Tree:
        return chains(1, self.width - 1)

    @property
    def forwards(self) -> int:
        return 1

    def check(self, lm: Any) -> None:
        check_target(lm, self, "dflash", int(self.leaves["fc"].shape[0]) // len(self.taps))
        if self.config.hidden_size != lm.config.hidden_size:
            raise InputError(
                f"the drafter's layers have size {self.config.hidden_size}, the embeddings of target {lm.name} "
                f"{lm.config.hidden_size}: train one with scripts/train.py --recipe dflash --model {lm.name}"
            )

    # ----------------------------------------------------------------------------------------------------- the network

    @property
    def layers(self) -> dict[str, Array]:
        """Leaves of every layer, [L, ...]."""
        return {name: leaf for name, leaf in self.leaves.items() if name not in SHARED}

    def context(self, taps: Float[Array, "B T C E"], position: Int32[Array, "B T"]) -> KV:
        """The keys and values of columns, of what the target shows of them."""
        flat, config = taps.reshape(*taps.shape[:2], -1), self.config
        c = rms_norm(
            product("btd,de->bte", flat, read(self.leaves["fc"], flat.dtype)), self.leaves["hidden_norm"], config
        )
        turn = rotation(config.rope, config.head_dim, position)

        def one(carry: None, leaves: dict[str, Array]) -> tuple[None, tuple[Array, Array]]:
            _, k, v = project(leaves, c, turn, config)
            return None, (k, v)

        _, (k, v) = jax.lax.scan(one, None, self.layers)
        return KV(((k,),), ((v,),))

    def words(self, tokens: Int32[Array, "B T"], masked: Bool[Array, "B T"]) -> Float[Array, "B T D"]:
        """What the block reads: embeddings, and the mask's where it is masked."""
        lent = self.host
        if self.mask is not None:
            return lent.model.embed(lent.params, jnp.where(masked, self.mask, tokens))
        word = lent.model.embed(lent.params, tokens)
        return jnp.where(masked[:, :, None], self.leaves["mask"].astype(word.dtype)[None, None], word)

    def block(
        self, x: Float[Array, "B T D"], position: Int32[Array, "B T"], allow: Bool[Array, "B T S_T"], past: KV
    ) -> Float32[Array, "B T V"]:
        """The target's logits of the layers' outputs."""
        config, lent = self.config, self.host
        turn = rotation(config.rope, config.head_dim, position)

        def one(x: Array, layer: tuple[dict[str, Array], Array, Array]) -> tuple[Array, None]:
            leaves, keys, values = layer
            q, k, v = project(leaves, rms_norm(x, leaves["attn_norm"], config), turn, config)
            x = x + combine(leaves, q, after(keys, k), after(values, v), allow, config)
            return x + mlp(leaves, rms_norm(x, leaves["mlp_norm"], config), config), None

        x, _ = jax.lax.scan(one, x, (self.layers, past.k[0][0], past.v[0][0]))
        hidden = rms_norm(x, self.leaves["norm"], config)
        return mask_invalid(lent.model.head(lent.params, hidden), lent.model)

    # ----------------------------------------------------------------------------------------------------- the rounds

    def init(self, rows: Rows, prompt: int) -> PyTree:
        """Nothing: what there is to know of the prompts comes from the target (`begin`)."""
        return ()

    def begin(self, state: PyTree, rows: Rows, seen: Seen) -> KV:
        assert seen.taps is not None
        position, _ = store.places(*seen.taps.shape[:2])
        return store.room(self.context(seen.taps, position), rows.tokens.shape[1])

    def propose(self, state: KV, rows: Rows, key: Key[Array, "B"]) -> tuple[Proposal, KV]:
        root = rows.length[:, None] - 1
        place = jnp.arange(self.width, dtype=jnp.int32)[None, :]
        position = root + place
        masked = jnp.broadcast_to(place > 0, position.shape)
        x = self.words(jnp.broadcast_to(store.take(rows.tokens, root), position.shape), masked)
        before = store.seen(state, rows.length - 1).valid
        whole = jnp.concatenate([before, jnp.ones(position.shape, bool)], axis=1)
        allow = jnp.broadcast_to(whole[:, None, :], (*position.shape, whole.shape[1]))
        logits = self.block(x, position, allow, state)[:, 1:]
        token, logq = draft_columns(self.warp, logits, rows, key)
        return Proposal(token, jnp.ones(token.shape, bool), logq, self.tree), state

    def observe(self, state: KV, rows: Rows, proposal: Proposal, verdict: Verdict) -> KV:
        return state

    def watch(self, state: KV, rows: Rows, proposal: Proposal, verdict: Verdict, seen: Seen) -> KV:
        """The context with the columns that the target has read; the refused ones stay hidden by the length."""
        assert seen.taps is not None
        column = rows.length[:, None] - 1 + jnp.arange(seen.taps.shape[1], dtype=jnp.int32)[None, :]
        return store.put(state, self.context(seen.taps, column), column)


def drafting(trained: Trained, sampling: Warp, width: int | None = None) -> DFlash:
    """The drafter of a trained file. Raises InputError for a block longer than it was trained for, and without a mask."""
    most, mask = trained.sizes["block_size"], trained.sizes.get("mask_token_id")
    if not 2 <= most <= MOST + 1:
        raise InputError(f"block_size={most}: a drafter's blocks have 2 to {MOST + 1} tokens")
    if "mask" not in trained.leaves and not 0 <= (-1 if mask is None else mask) < trained.vocab:
        raise InputError(
            f"mask_token_id={mask}: a drafter without mask_embedding names one of {trained.vocab} ids, add it to its metadata"
        )
    if width is not None and width > most:
        raise InputError(f"width={width}: this drafter was trained on blocks of {most}, use at most that")
    return DFlash(*trained[:5], sampling, most if width is None else width, None if "mask" in trained.leaves else mask)


def layers_of(draft: int, count: int) -> tuple[int, ...]:
    """The layers of a target of `count` that a drafter of `draft` layers reads (released: as many as it has)."""
    if draft == 1 or count < 5:
        return tuple(sorted({round((i + 1) * (count - 1) / (draft + 1)) for i in range(draft)}))
    return tuple(sorted({round(1 + i * (count - 4) / (draft - 1)) for i in range(draft)}))


def blank(target: Any, *, feed: int, layers: int, taps: int, width: int, seed: int = 0) -> Trained:
    """A drafter that knows nothing, for this target; its mask is an embedding of its own."""
    own = target.config
    config = layer_config(
        hidden=own.hidden_size, heads=own.num_heads, kv_heads=own.num_kv_heads, head_dim=own.head_dim, feed=feed,
        vocab=own.vocab_size, layers=layers, qk_norm=True,
    )  # fmt: skip
    reads = layers_of(taps, own.num_layers)
    return heads.blank("dflash", config, target=own.hidden_size, taps=reads, seed=seed, block_size=width)


def untrained(target: Any, sampling: Warp, width: int = 4) -> DFlash:
    """A drafter that knows nothing."""
    return drafting(blank(target, feed=16, layers=2, taps=2, width=width), sampling)
