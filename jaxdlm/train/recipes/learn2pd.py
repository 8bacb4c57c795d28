"""The Learn2PD filter of a masked diffusion model (arXiv 2509.25188): trained on the model's own trajectories.

The label of a column is whether this forward's proposal equals the token that one-token-per-forward decoding ends with.
Trajectories come from the greedy oracle of the paper: every forward commits exactly the columns that are right.
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdlm import _decode, layout, resolve, struct
from jaxdlm.core import loop
from jaxdlm.core.carry import Geometry, Row, Rows, Update
from jaxdlm.core.model import Model
from jaxdlm.core.rule import Decoding, Stage, chain, need
from jaxdlm.models.params import fingerprint
from jaxdlm.rules.learn2pd import FilterWeights, answers_of
from jaxdlm.rules.sample import sample
from jaxdlm.train import prompts as sources
from jaxdlm.train.batches import filled
from jaxdlm.train.records import write_curve, write_record
from jaxdlm.typing import Array, Bool, Float32, Int32, Key, PyTree


class Records(NamedTuple):
    """One row per forward: what the filter sees of a block, and what it should say."""

    c: Float32[Array, "N K"]  # probability of the proposal, 0 where no column is
    right: Bool[Array, "N K"]
    exists: Bool[Array, "N K"]
    open: Bool[Array, "N K"]
    prompt: Int32[Array, "N"]


class Recorded(NamedTuple):
    """State of `Oracle`, per row; T forwards are recorded."""

    answer: Int32[Array, "C"]
    last: Int32[Array, "W"]
    c: Float32[Array, "T W"]
    right: Bool[Array, "T W"]
    exists: Bool[Array, "T W"]
    open: Bool[Array, "T W"]


@struct.dataclass
class Oracle(Stage):
    """Commits {i open : proposal_i = answer_i}; a block whose proposals repeat is filled from the answer.

    Records what it sees. The answer of each row is put into the state before the first forward.
    """

    canvas: int = struct.field(pytree_node=False)
    steps: int = struct.field(pytree_node=False)

    def init(self, window: int, vocab: int) -> Recorded:
        flags = jnp.zeros((self.steps, window), bool)
        c = jnp.zeros((self.steps, window), jnp.float32)
        return Recorded(jnp.zeros(self.canvas, jnp.int32), jnp.full(window, -1, jnp.int32), c, flags, flags, flags)

    def forwards(self, geometry: Geometry) -> int:
        return 2 * geometry.canvas  # a forward that commits nothing is followed by one that fills the block

    def apply(self, update: Update, state: Recorded, row: Row, key: Key[Array, ""]) -> tuple[Update, Recorded]:
        need(update, "token", "score", rule="oracle")
        assert update.token is not None and update.score is not None
        answer = jax.lax.dynamic_slice_in_dim(state.answer, row.column[0], row.column.shape[0])
        right = row.exists & (update.token == answer)
        stuck = (row.tick > 0) & jnp.all((update.token == state.last) | ~row.exists)
        seen = Recorded(
            answer=state.answer,
            last=update.token,
            c=_put(state.c, row.step, jnp.where(row.exists, jnp.exp(update.score), 0.0)),
            right=_put(state.right, row.step, right),
            exists=_put(state.exists, row.step, row.exists),
            open=_put(state.open, row.step, row.open),
        )
        token = jnp.where(stuck, answer, update.token)
        return update._replace(token=token, commit=row.open & (right | stuck)), seen


def _put(buffer: Array, step: Array, value: Array) -> Array:
    return buffer.at[step].set(value, mode="drop")


@partial(jax.jit, static_argnames=("model", "geometry", "steps"))
def _trajectories(
    rows: Rows, answer: Int32[Array, "B C"], model: Model, params: PyTree, geometry: Geometry, steps: int
) -> tuple[Recorded, Array]:
    policy, cache = chain(sample(), Oracle(geometry.canvas, steps)), resolve.resolve_cache("none")
    decoding = Decoding(model, params, policy, cache, geometry)
    carry = loop.init(rows, decoding, "none")
    first, recorded = carry.rows.policy
    carry = carry._replace(rows=carry.rows._replace(policy=(first, recorded._replace(answer=answer))))
    carry = loop.run(carry, 2 * geometry.canvas, decoding)
    return carry.rows.policy[1], carry.rows.step


def collect(lm: Any, texts: Sequence[Any], *, canvas: int, block: int, batch: int = 64, first: int = 0) -> Records:
    """Records of the prompts, a canvas of `canvas` columns each; columns past a shorter block are zero."""
    steps_kept, width = 2 * canvas, min(block, canvas)
    parts: list[Records] = []
    for start, count, chunk in filled(texts, batch):
        out = _decode.decode(lm, chunk, "low_confidence", max_new=canvas, block=width, save="none", stop=False)
        laid = layout.lay_out(lm, chunk, max_new=canvas, block=width, seed=0, ids=None)
        answer = np.zeros((batch, laid.geometry.canvas), np.int32)
        answer[:, :canvas] = out.tokens
        got, steps = jax.device_get(
            _trajectories(laid.rows, jnp.asarray(answer), lm.model, lm.params, laid.geometry, steps_kept)
        )
        taken = np.arange(steps_kept)[None, :] < steps[:count, None]
        index = np.broadcast_to(first + start + np.arange(count, dtype=np.int32)[:, None], taken.shape)
        fields = [getattr(got, name)[:count][taken] for name in ("c", "right", "exists", "open")]
        padded = [np.pad(field, ((0, 0), (0, block - width))) for field in fields]
        parts.append(Records(*[*padded, index[taken]]))
    return Records(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def split(records: Records, seed: int) -> dict[str, Records]:
    """80 / 10 / 10 by prompt: blocks of one prompt never stand on two sides (the released code splits records)."""
    numbers = np.unique(records.prompt)
    place = np.random.default_rng(seed).permutation(len(numbers)) / len(numbers)
    at = place[np.searchsorted(numbers, records.prompt)]
    sides = {"train": at < 0.8, "validation": (at >= 0.8) & (at < 0.9), "test": at >= 0.9}
    return {side: Records(*(field[mask] for field in records)) for side, mask in sides.items()}


def init_filter(block: int, seed: int) -> FilterWeights:
    """Uniform in ±1/sqrt(K), as torch.nn.Linear starts."""
    bound = 1 / math.sqrt(block)
    shapes = FilterWeights((block, block), (block,), (block, block), (block,))
    keys = jax.random.split(jax.random.key(seed), 4)
    draw = [jax.random.uniform(key, shape, jnp.float32, -bound, bound) for key, shape in zip(keys, shapes, strict=True)]
    return FilterWeights(*draw)


def loss(weights: FilterWeights, records: Records) -> Float32[Array, ""]:
    """Mean over all columns that exist, written ones included, of BCE(sigmoid(filter(c)), right)."""
    logit = answers_of(weights, records.c)
    each = optax.sigmoid_binary_cross_entropy(logit, records.right.astype(jnp.float32))
    return jnp.mean(each, where=records.exists)


def errors(weights: FilterWeights, records: Records, tau: float) -> dict[str, float]:
    """Over open columns: `wrong_yes`, share of commits that are wrong; `recall`, share of right columns committed."""
    yes = np.asarray(jax.nn.sigmoid(answers_of(weights, jnp.asarray(records.c))) > tau) & records.open
    right, commits = records.right & records.open, max(1, int(yes.sum()))
    return {
        "wrong_yes": round(float((yes & ~right).sum()) / commits, 5),
        "recall": round(float((yes & right).sum()) / max(1, int(right.sum())), 5),
    }


def fit(
    records: dict[str, Records], *, block: int, epochs: int, seed: int, every: int = 250
) -> tuple[FilterWeights, list[dict[str, Any]]]:
    """(weights, curve): AdamW(3e-3, weight decay 0.01) on all records at once; the point of least validation loss."""
    optimizer = optax.adamw(3e-3, weight_decay=1e-2)
    train, validation = (jax.tree.map(jnp.asarray, records[side]) for side in ("train", "validation"))

    @jax.jit
    def some(
        weights: FilterWeights, opt: Any, train: Records, validation: Records
    ) -> tuple[FilterWeights, Any, Array, Array]:
        def epoch(carry: Any, _: None) -> tuple[Any, Array]:
            weights, opt = carry
            value, grads = jax.value_and_grad(loss)(weights, train)
            with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
                updates, opt = optimizer.update(grads, opt, weights)
            return (optax.apply_updates(weights, updates), opt), value

        (weights, opt), values = jax.lax.scan(epoch, (weights, opt), None, length=every)
        return weights, opt, values[-1], loss(weights, validation)

    weights = init_filter(block, seed)
    opt, best = optimizer.init(weights), weights
    curve: list[dict[str, Any]] = []
    for count in range(every, epochs + 1, every):
        weights, opt, at_train, at_validation = some(weights, opt, train, validation)
        row = {"epoch": count, "loss": round(float(at_train), 6), "validation": round(float(at_validation), 6)}
        row |= errors(weights, records["validation"], 0.9)
        if not curve or row["validation"] < min(old["validation"] for old in curve):
            best = weights
        curve.append(row)
    return best, curve


def save(weights: FilterWeights, path: Path, lm: Any) -> None:
    """learn2pd.safetensors, float32; its metadata name the model by a fingerprint of its weights."""
    from safetensors.numpy import save_file

    arrays = {name: np.asarray(leaf, np.float32) for name, leaf in weights._asdict().items()}
    named = {"format": "jaxdlm", "method": "learn2pd", "model": str(lm.name), "fingerprint": fingerprint(lm.params)}
    save_file(arrays, str(path), metadata=named)


# (share of the prompts, canvas): short answers mostly; a canvas below the block, and one of several blocks
CANVASES = ((0.55, 32), (0.40, 16), (0.05, 128))


def run(
    lm: Any,
    folder: Path,
    *,
    texts: Sequence[Any] | None = None,
    rows: int = 2560,
    canvas: int = 256,
    block: int = 32,
    steps: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Collects, fits and writes folder/{learn2pd.safetensors, learn2pd.json, curve.jsonl}; returns the record.

    texts: prompts for one canvas of `canvas` columns; None: the benchmark's training split on `CANVASES`. steps: epochs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if texts is None:
        parts, first = [], 0
        for share, columns in CANVASES:
            chosen = [example.prompt for example in sources.benchmark(round(share * rows), seed, canvas=columns)]
            parts.append(collect(lm, chosen, canvas=columns, block=block, first=first))
            first += len(chosen)
        records = Records(*(np.concatenate(field) for field in zip(*parts, strict=True)))
    else:
        records = collect(lm, list(texts)[:rows], canvas=canvas, block=block)
    sides = split(records, seed)
    weights, curve = fit(sides, block=block, epochs=steps, seed=seed)
    save(weights, folder / "learn2pd.safetensors", lm)
    write_curve(folder / "curve.jsonl", curve)
    record = {
        "recipe": "learn2pd",
        "command": "python scripts/train.py --recipe learn2pd --output DIR",
        "model": lm.name,
        "fingerprint": fingerprint(lm.params),
        "block": block,
        "prompts": len(np.unique(records.prompt)),
        "records": {side: len(part.c) for side, part in sides.items()},
        "epochs": steps,
        "seed": seed,
        "parameters": int(sum(leaf.size for leaf in weights)),
        "validation": min(curve, key=lambda row: row["validation"]),
        "test": {str(tau): errors(weights, sides["test"], tau) for tau in (0.9, 0.96)},
    }
    write_record(folder / "learn2pd.json", record)
    return record
