"""Distilled decoding in the loop: a student turns noise into all further tokens in one forward (arXiv 2412.17153).

`Trajectories` is the teacher's side: the model writes its text from noise, token by token, by the flow of `flow`. `Distilled` is
the student's: it reads the text and the noise of what is not written, and says at each noise the token that it becomes.
"""

import json
import pathlib
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import struct
from jaxdlm.core.model import KV
from jaxdlm.core.readout import mask_invalid, proposable
from jaxdlm.errors import InputError
from jaxdlm.models.backbone import Backbone
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.params import fingerprint, map_specs, path_name
from jaxdlm.quant import QuantizedLeaf, input_axes, quantize
from jaxdlm.speculative import flow, guiding, loop
from jaxdlm.speculative import kv as store
from jaxdlm.speculative.ahead import OneAnswer, committed, grown, guided
from jaxdlm.speculative.policy import Decoding
from jaxdlm.speculative.prompted import Prompted, Weights
from jaxdlm.speculative.state import Carry, Proposal, Rows, Verdict
from jaxdlm.speculative.tree import chains
from jaxdlm.speculative.warp import position_noise
from jaxdlm.trained import once
from jaxdlm.typing import Array, Bool, Float32, Int32, PyTree

FILE, KIND = "distilled.safetensors", "distilled"


@struct.dataclass
class Student:
    """A causal model that reads noise besides tokens. noise: R^C to its embeddings, bias: what marks noise as such.

    length: positions behind a prompt that it knows. temperature: of the teacher that it learned from. made_for: the
    teacher's fingerprint, "": not known.
    """

    params: PyTree
    noise: Float32[Array, "C D"]
    bias: Float32[Array, "D"]
    model: Backbone = struct.field(pytree_node=False)
    length: int = struct.field(pytree_node=False)
    temperature: float = struct.field(pytree_node=False, default=1.0)
    made_for: str = struct.field(pytree_node=False, default="")

    @property
    def size(self) -> int:
        return self.noise.shape[0]

    def logits(
        self, tokens: Int32[Array, "B L"], start: Int32[Array, "B"], written: Int32[Array, "B"], noise: Float32[Array, "B T C"]
    ) -> Float32[Array, "B T V"]:  # fmt: skip
        """What becomes of each of T positions behind `start`, read at that position: there is no shift.

        tokens: of them count those of the prompt and of the first `written` positions; the others are read as their noise.
        """
        batch, count = noise.shape[:2]
        place = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :] - start[:, None]
        unknown = (place >= written[:, None]) & (place < count)
        own = count * jnp.arange(batch, dtype=jnp.int32)[:, None] + place
        tokens = jnp.where(unknown, self.model.config.vocab_size + own, tokens)
        rows = (noise @ self.noise + self.bias[None, None]).reshape(batch * count, -1)
        position, valid = store.places(*tokens.shape)
        prompted, weights = Prompted(self.model), Weights(self.params, rows)
        hidden = prompted.apply(weights, tokens, position, valid).hidden
        at = jnp.minimum(start[:, None] + jnp.arange(count, dtype=jnp.int32)[None, :], tokens.shape[1] - 1)
        return mask_invalid(prompted.head(weights, jnp.take_along_axis(hidden, at[:, :, None], axis=1)), self.model)


@struct.dataclass
class Trajectories(OneAnswer):
    """The model's own text as a function of the noise of its positions, by `steps` of the flow per token."""

    codes: Float32[Array, "V C"]
    steps: int = struct.field(pytree_node=False, default=flow.STEPS)

    def step(self, carry: Carry, decoding: Decoding) -> tuple[Carry, Float32[Array, "B 1 V"]]:
        """(the carry with one token more, the model's logits behind the text)."""
        rows, policy = carry.rows, decoding.policy
        logits, kv = grown(carry, decoding)
        carry = carry._replace(kv=kv)
        bent, live, nodes = guided(logits, rows, policy.guide)
        logp = policy.warp.log_prob(bent)
        noise = flow.noise_of(rows.key, rows.length, 1, self.codes.shape[1])[:, 0]
        token = flow.token_of(flow.carried(noise, logp, self.codes, self.steps), logp, self.codes)
        return committed(carry, decoding, token, logits, live, nodes), logits


class Written(NamedTuple):
    """Tokens for the next T places of each row. live: how many of them a guide allows; guides: its states behind each."""

    token: Int32[Array, "B T"]
    live: Int32[Array, "B"]
    guides: PyTree


@struct.dataclass
class Distilled(OneAnswer):
    """See `methods.distilled`. bounds: places behind which the student looks again; redraw: places that the model itself
    writes in its place, from the first to before the second."""

    rereads: ClassVar[str] = "distilled"

    student: Student
    bounds: tuple[int, ...] = struct.field(pytree_node=False, default=())
    redraw: tuple[int, int] = struct.field(pytree_node=False, default=(0, 0))

    def check(self, lm: Any) -> None:
        """Raises InputError for another model than the student's teacher."""
        mine, made_for = self.student.model.config, self.student.made_for
        if made_for != fingerprint(lm.params) if made_for else mine.vocab_size != lm.config.vocab_size:
            raise InputError(
                f"the student was distilled from another model than {lm.name}: distil one with scripts/train.py --recipe "
                f"distilled --model {lm.name}"
            )

    def check_length(self, max_new: int) -> None:
        """Raises InputError for longer answers than the student knows."""
        if max_new > self.student.length:
            raise InputError(
                f"max_new={max_new}: the student writes answers of up to {self.student.length} tokens, lower max_new or "
                "distil one for longer answers"
            )

    def step(self, carry: Carry, decoding: Decoding) -> tuple[Carry, Float32[Array, "B T V"]]:
        """(the carry with the tokens up to each row's next bound, the logits of its next places)."""
        rows = carry.rows
        done = rows.length - rows.start
        logits = self.further(rows, done)
        count = jnp.min(jnp.where(self._ends > done[:, None], self._ends, self.student.length), axis=1) - done
        extra = None
        if self.redraw[1]:
            ours = (done >= self.redraw[0]) & (done < self.redraw[1])
            own, kv = self.redrawn(carry, decoding, ours & ~rows.done)
            carry, count = carry._replace(kv=kv), jnp.where(ours, 1, count)
            logits = logits.at[:, 0].set(jnp.where(ours[:, None], own, logits[:, 0]))
            noise = position_noise(rows.key, rows.length, 1, logits.shape[2])[:, 0]
            extra = jnp.where(ours[:, None], noise, 0.0)
        written = self.written(logits, extra, rows, decoding)
        return self.committed(carry, decoding, logits, written, jnp.minimum(count, logits.shape[1])), logits

    @property
    def _ends(self) -> Int32[Array, "1 N"]:
        return jnp.asarray([*self.bounds, *self.redraw, self.student.length], jnp.int32)[None, :]

    def further(self, rows: Rows, done: Int32[Array, "B"]) -> Float32[Array, "B T V"]:
        """The student's logits of the next places of each row; none are computed where all rows are the model's to write."""
        count = min(self.student.length, rows.tokens.shape[1])
        ours = (done < self.redraw[0]) | (done >= self.redraw[1])
        shape = (*rows.done.shape, count, self.student.model.config.vocab_size)

        def read() -> Array:
            noise = flow.noise_of(rows.key, rows.start, count, self.student.size)
            logits = self.student.logits(rows.tokens, rows.start, done, noise)
            place = jnp.minimum(done[:, None] + jnp.arange(count, dtype=jnp.int32)[None, :], count - 1)
            return jnp.take_along_axis(logits, place[:, :, None], axis=1)

        if not self.redraw[1]:
            return read()
        return jax.lax.cond(jnp.any(ours & ~rows.done), read, lambda: jnp.zeros(shape, jnp.float32))

    def redrawn(self, carry: Carry, decoding: Decoding, ours: Bool[Array, "B"]) -> tuple[Float32[Array, "B V"], KV]:
        """(the model's own logits behind these rows, the cache with what it read for them).

        Where a row comes from the student, the model has not read the student's tokens: it does so now, in the same forward.
        """
        rows, first = carry.rows, self.redraw[0]
        new = ours & (rows.length - rows.start == first)

        def reads(count: int, here: Bool[Array, "B"], kv: KV) -> tuple[Array, KV]:
            column = rows.length[:, None] - count + jnp.arange(count, dtype=jnp.int32)[None, :]
            model, params = loop.target_of(decoding)
            past = store.seen(kv, rows.length - count)
            past = past._replace(place=column) if decoding.policy.placed else past
            out = model.apply(params, store.take(rows.tokens, column), column, column >= 0, past)
            logits = mask_invalid(model.head(params, out.hidden[:, -1:]), model)[:, 0]
            keep = jnp.broadcast_to(here[:, None], column.shape)
            return logits, store.put(kv, out.kv, column, keep)

        def where(here: Bool[Array, "B"], count: int, kv: KV) -> tuple[Array, KV]:
            blank = jnp.zeros((here.shape[0], decoding.model.config.vocab_size), jnp.float32)
            return jax.lax.cond(jnp.any(here), lambda: reads(count, here, kv), lambda: (blank, kv))

        entered, kv = where(new, 1 + first, carry.kv)
        if not first:
            return where(ours, 1, carry.kv)
        later, kv = where(ours & ~new, 1, kv)
        return jnp.where(new[:, None], entered, later), kv

    def written(
        self, logits: Float32[Array, "B T V"], extra: Float32[Array, "B V"] | None, rows: Rows, decoding: Decoding
    ) -> Written:
        """The best token of each place, one after the other where a guide bends it. extra: noise on the first one."""
        warp, nodes = decoding.policy.warp, guiding.nodes_of(decoding.policy.guide, rows.guide)
        count = logits.shape[1]
        if nodes.guide is None:
            token = jnp.argmax(logits, axis=2).astype(jnp.int32)
            if extra is not None:
                token = token.at[:, 0].set(jnp.argmax(warp.log_prob(logits[:, 0]) + extra, axis=1).astype(jnp.int32))
            return Written(token, jnp.full(rows.done.shape, count, jnp.int32), ())
        noise = jnp.zeros_like(logits[:, 0]) if extra is None else extra

        def one(states: guiding.States, at: tuple[Array, Array]) -> tuple[Any, Any]:
            bent, live = nodes.transform(at[0][:, None], states)
            drawn = jnp.argmax(warp.log_prob(bent[:, 0]) + jnp.where(at[1] == 0, noise, 0.0), axis=1).astype(jnp.int32)
            states = nodes.advance(states, drawn[:, None])
            return states, (drawn, live[:, 0], states)

        order = (jnp.moveaxis(logits, 1, 0), jnp.arange(count, dtype=jnp.int32))
        _, (token, live, states) = jax.lax.scan(one, nodes.root(), order)
        alive = jnp.sum(jnp.cumprod(live.astype(jnp.int32), axis=0), axis=0, dtype=jnp.int32)
        return Written(token.T, alive, states)

    def committed(
        self, carry: Carry, decoding: Decoding, logits: Float32[Array, "B T V"], written: Written, count: Int32[Array, "B"]
    ) -> Carry:  # fmt: skip
        """The carry with so many of these tokens behind each row, none of which was drafted."""
        rows, token = carry.rows, written.token
        count = jnp.minimum(count, written.live)
        bad = ~proposable(jnp.max(logits, axis=2)) | (count == 0)
        last = jnp.maximum(count - 1, 0)
        row = jnp.arange(last.shape[0], dtype=jnp.int32)
        nodes = guiding.nodes_of(decoding.policy.guide, rows.guide)
        guide = () if nodes.guide is None else nodes.row(tuple(leaf[last, row] for leaf in written.guides))
        nothing = jnp.zeros(token[:, 1:].shape, bool)
        proposal = Proposal(token[:, :-1], nothing, None, chains(1, token.shape[1] - 1))
        path = jnp.broadcast_to(jnp.arange(token.shape[1] - 1, dtype=jnp.int32)[None, :], nothing.shape)
        verdict = Verdict(path, last, token[row, last], jnp.ones(last.shape, bool))
        carry = loop.closed(carry, decoding.policy, proposal, verdict, bad, guide, logits)
        return carry._replace(rows=carry.rows._replace(accepted=rows.accepted))


def write_student(path: pathlib.Path, student: Student, **notes: str) -> None:
    """Writes what `read_student` reads: matrices in 8 bits with a scale per column, the rest in float32."""
    from jaxdlm.checkpoint.safetensors import write_safetensors

    arrays = {"noise": np.asarray(student.noise, np.float32), "bias": np.asarray(student.bias, np.float32)}
    for name, value in _leaves(student).items():
        axes = input_axes(name)
        if axes is None:
            arrays[name] = np.asarray(value, np.float32)
            continue
        leaf, _ = quantize(value, 8, axes=axes, kind="uniform", path=name)
        arrays |= {f"{name}/codes": np.asarray(leaf.codes), f"{name}/scale": np.asarray(leaf.scale)}
    facts = {"length": student.length, "temperature": student.temperature, "fingerprint": student.made_for}
    facts |= {"format": "jaxdlm", "method": KIND, "config": json.dumps(student.model.config.to_json())}
    write_safetensors(path, arrays, {name: str(fact) for name, fact in facts.items()} | notes)


def _leaves(student: Student) -> dict[str, Array]:
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(student.params)}


@once
def read_student(path: pathlib.Path) -> Student:
    """The student in a file of scripts/train.py --recipe distilled. Raises InputError for what is no such file."""
    from jaxdlm.checkpoint.safetensors import read_safetensors

    stored, notes = read_safetensors(path)
    wrong = InputError(f"{path.name} is no distilled student: distil one with scripts/train.py --recipe distilled")
    try:
        config = ModelConfig.from_json(json.loads(notes["config"]))
        length, temperature = int(notes["length"]), float(notes["temperature"])
    except (KeyError, ValueError, TypeError, AttributeError, InputError):
        raise wrong from None
    if notes.get("method") != KIND or not 1 <= length <= config.max_position or not 0 < temperature < np.inf:
        raise wrong
    size = stored["noise"].shape[0] if stored.get("noise", np.zeros(())).ndim == 2 else 0

    def leaf(name: str, shape: tuple[int, ...]) -> Array:
        value = jnp.asarray(stored.get(name, np.zeros(0, np.float32)))
        codes, scale = (stored.get(f"{name}/{part}", np.zeros((0, 0))) for part in ("codes", "scale"))
        axes = input_axes(name)
        if axes is not None and codes.size == np.prod(shape) and scale.shape == (*codes.shape[:-2], 1, codes.shape[-1]):
            tail = shape[1:] if name.startswith("segments/") else shape
            whole = QuantizedLeaf(jnp.asarray(codes), jnp.asarray(scale), None, tail, axes, 8, "float32")
            value = whole.dequantize(jnp.float32)
        if value.shape != shape or not np.isfinite(np.asarray(value, np.float32)).all():
            raise InputError(
                f"{path.name}: {name} has {value.shape}, its configuration says {shape}, of finite numbers"
            )
        return value

    params = map_specs(lambda name, spec: leaf(name, spec.shape), config)
    width = config.hidden_size
    return Student(
        params, leaf("noise", (max(1, size), width)), leaf("bias", (width,)), Backbone(config), length, temperature,
        notes.get("fingerprint", ""),
    )  # fmt: skip
