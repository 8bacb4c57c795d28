"""`decode`: prompts in, Output out."""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import argument, policies
from jaxdlm._load import load
from jaxdlm.core import compose, loop
from jaxdlm.core.cache import Cache
from jaxdlm.core.carry import Carry, Geometry, Rows, Status, Trace
from jaxdlm.core.compiled import compiled
from jaxdlm.core.model import Model
from jaxdlm.core.rule import Rule, Stepper
from jaxdlm.errors import InputError
from jaxdlm.layout import COUNT, Batch, Part, arrange, arrange_rows, lay_apart, listed, split_at_masks
from jaxdlm.sharding import beside, striped
from jaxdlm.speculative import state as draft_state
from jaxdlm.speculative.decode import ahead, begin, generate
from jaxdlm.speculative.pair import check as check_pair
from jaxdlm.speculative.policy import Speculation, Unloaded
from jaxdlm.speculative.pool import generate_pool
from jaxdlm.stops import Stops, ends_wanted, read_stops
from jaxdlm.typing import Array, Int32, PyTree

SAVES = ("none", "commit", "steps")
MOST_ROWS = 2**16  # of a program


@dataclasses.dataclass(frozen=True, eq=False)
class Output:
    """The result of `decode`; arrays are NumPy, one row per prompt.

    Attributes:
        text: cut at the end-of-text token, control tokens removed; None without a tokenizer.
        tokens: int32[B, max_new], the generated columns as decoded.
        forwards: int32[B], model forwards that the row took part in while unfinished.
        commit_step: int32[B, max_new], the row's forward (0-based) at which a column got its token, -1: never, or it
            was given; None with save="none".
        score: float32[B, max_new], the policy's score of that token then (samplers of probability: its logarithm).
        status: per row how it ended, a `Status`.
        steps: int32[B, T, max_new], the canvas after each forward, with save="steps".
        accepted: float32[B], draft tokens committed per target forward; None where no draft was asked for (diffusion).
        drafted: int32[B], draft tokens that the target read.
        draft_forwards: int32[B], forwards of the draft.
        tokenizer: the model's, or None; `jaxdlm.viz` reads it.
        ends: ids that end a text.
    """

    text: list[str] | None
    tokens: np.ndarray
    forwards: np.ndarray
    commit_step: np.ndarray | None
    score: np.ndarray | None
    status: list[Status]
    steps: np.ndarray | None = None
    accepted: np.ndarray | None = None
    drafted: np.ndarray | None = None
    draft_forwards: np.ndarray | None = None
    tokenizer: Any = dataclasses.field(default=None, repr=False)
    ends: tuple[int, ...] = dataclasses.field(default=(), repr=False)

    def __repr__(self) -> str:
        """One line, also in a notebook: rows, columns, forwards, and how the rows ended."""
        rows, columns = self.tokens.shape
        low, high = (int(self.forwards.min()), int(self.forwards.max())) if rows else (0, 0)
        ended = collections.Counter(map(str, self.status))
        ends = ", ".join(f"{number} {name}" for name, number in ended.items())
        return f"<Output of {rows} rows, {columns} columns, {low} to {high} forwards each: {ends}>"


def decode(
    lm: Any,
    prompts: Sequence[Any],
    policy: Any = None,
    cache: Any = "none",
    max_new: int = 128,
    block: int | None = None,
    seed: int = 0,
    ids: Sequence[int] | None = None,
    save: str = "commit",
    *,
    raw: bool = False,
    canvas: Sequence[Sequence[int]] | None = None,
    infill: bool = False,
    stop: Any = True,
    rows_per_program: int | None = None,
) -> Output:
    """The answers to all prompts, one row each; prompts that stand in the same columns are decoded as one batch.

    Args:
        lm: from `jaxdlm.load`.
        prompts: a str, or a list of str, of token-id lists, or of chats ([{"role", "content"}]).
        policy: a name in `policies.RECIPES`, with arguments as in a shell ("threshold,tau=0.8"), a rule, or what
            `jaxdlm.speculative` makes (autoregressive models; their keys and values are always cached, and `cache` and
            `block` are refused there). Default: "threshold"; "autoregressive" for a model that only continues a text,
            "entropy_bound" for one with uniform noise.
        cache: a name in `policies.CACHES`, with arguments likewise, or a cache.
        max_new: generated columns.
        block: block length, default 32 (block-causal models: what they were trained with);
            the last block may be shorter; larger than max_new: one block.
            Block-causal models count blocks from position 0, so the prompt's tail shares its block with the answer, and
            their attention follows this length (training used config.block_size).
        seed: row b draws from fold_in(key(seed), ids[b]).
        ids: one int per row, by default 0..B-1.
        save: "none", "commit" (when each column got its token) or "steps" (the canvas after each forward, too).
        raw: do not pass strings through the chat template.
        canvas: per row up to max_new token ids to start from (infilling): the mask id where the model shall write.
        infill: prompts are token ids with the mask id wherever the model shall write. The canvas of a row is all that
            follows its first mask; max_new is the longest of these, shorter rows end in pads.
        stop: True: a row ends once an end-of-text id of the model stands with nothing open before it, since its text can
            no longer change; what follows reads end-of-text. Policies made with official=True run on as published, and
            False lets any policy do so: the papers' counts of forwards. Strings and token ids (one or several) end a row
            too, and the text is cut before the first of them; a string that is spelled by other tokens than its own
            only cuts the text. Policies that rewrite what is written (llada21, llada22) end a row with its block.
        rows_per_program: rows go through the model in programs of so many, missing ones idle. Default: all rows of the
            same columns in one. On CPUs results do not depend on it; elsewhere it is what fixes them (docs/batch.md).

    A row's result depends on its own prompt, id and seed, the model, policy and cache, and on nothing else, as far as
    docs/batch.md says on which platform. Rows of other columns (a prompt's are its length, rounded up to 16, 24, 32, 48,
    ...) are another program. A row whose logits are not finite, or ban every token, ends with
    Status.NONFINITE; the others are unharmed.

    Raises:
        InputError: anything that cannot be decoded, before the first forward.

    Examples:
        >>> import jaxdlm as jd
        >>> lm = jd.load("tiny")
        >>> out = jd.decode(lm, ["reverse : [ Alan , Kate , Omar ]"], policy="threshold", max_new=16, block=16)
        >>> out.text
        ['[ Omar , Kate , Alan ]']
        >>> out.tokens.shape, out.forwards.shape, str(out.status[0])
        ((1, 16), (1,), 'eos')
    """
    return prepare(
        lm, prompts, policy, cache, max_new, block, seed, ids, save, raw=raw, canvas=canvas, infill=infill, stop=stop,
        rows_per_program=rows_per_program,
    ).run()  # fmt: skip


def stream(lm: Any, prompts: Sequence[Any], *args: Any, every: int = 1, **settings: Any) -> Iterator[Output]:
    """The Output so far after each `every` forwards, and at the end what `decode` returns for the same arguments.

    Rows at work have Status.RUNNING, and the mask token where they are not written (autoregressive ones: end of text).
    The forwards are those of `decode`, in the same order; between them the host takes part.

    Args:
        lm: from `jaxdlm.load`.
        prompts: as in `decode`.
        args: further arguments of `decode`, by place.
        every: forwards between two outputs.
        settings: further arguments of `decode`, by name.

    Raises:
        InputError: as `decode`, and for every < 1.

    Examples:
        >>> import jaxdlm as jd
        >>> lm = jd.load("tiny")
        >>> for out in jd.stream(lm, ["reverse : [ Alan , Kate , Omar ]"], max_new=16, block=16):
        ...     print(out.forwards[0], out.text[0])
        1 [ Omar , Kate , Alan ]
    """
    COUNT(every, "every")
    decoding = prepare(lm, prompts, *args, **settings)
    carries: list[Any] = [part.start() for part in decoding.parts]
    outs: list[Any] = [None] * len(carries)
    while True:
        for index, part in enumerate(decoding.parts):
            if outs[index] is None or Status.RUNNING in outs[index].status:
                carries[index] = part.ahead(carries[index], every)
                outs[index] = part.output(carries[index].rows, carries[index].trace)
        yield (out := decoding.joined(outs))
        if Status.RUNNING not in out.status:
            return


def prepare(
    lm: Any, prompts: Sequence[Any], policy: Any = None, cache: Any = "none", max_new: int = 128,
    block: int | None = None, seed: int = 0, ids: Sequence[int] | None = None, save: str = "commit", *,
    raw: bool = False, canvas: Sequence[Sequence[int]] | None = None, infill: bool = False, stop: Any = True,
    rows_per_program: int | None = None,
) -> "Programs":  # fmt: skip
    """A decode that is checked and laid out, before the first forward; arguments as in `decode`."""
    policy = resolve_method(policies.default(lm.config) if policy is None else policy)
    cache, prompts = resolve_cache(cache), listed(prompts)
    argument.flag(raw, "raw")
    argument.check_choice(save, "save", SAVES)
    size = argument.whole(1, MOST_ROWS, none=True)(rows_per_program, "rows_per_program")
    if isinstance(policy, Speculation):
        if infill or canvas is not None:
            raise InputError("an autoregressive model writes behind its prompt: leave infill and canvas out")
        check_continuation(cache, block)
        policy = dataclasses.replace(policy, placed=size is not None or widens(lm.params))
        if policy.slots and size is not None:
            raise InputError(
                f"rows_per_program={size}: the policy's slots={policy.slots} are that, leave one of them out"
            )
    if argument.flag(infill, "infill"):
        asked = max_new
        prompts, canvas, max_new = split_at_masks(lm, prompts, canvas)
        if asked != max_new:
            argument.unused("with infill=True, where the prompts say it", max_new=(asked, 128))
    work = lay_apart(
        lm, prompts, max_new=max_new, block=block, ids=ids, raw=raw, canvas=canvas, infill=infill, size=size,
        aligned=not isinstance(policy, Speculation),
    )  # fmt: skip
    longest = max(len(text) for part in work for text in part.texts)
    if isinstance(policy, Speculation):
        check_pair(lm, policy, max_new, longest)
    else:
        check(lm, policy, cache)
    fixed = {"cache": cache, "seed": seed, "save": save, "stop": stop}
    parts = tuple(one_program(lm, part, policy, **fixed) for part in work)
    return Programs(parts, tuple(part.rows for part in work), max_new, lm.config.tokens.pad)


def widens(params: PyTree) -> bool:
    """Whether the weights are of 16 bits and lie on a CPU, where a row's bits are kept by default."""
    leaves = [leaf for leaf in jax.tree.leaves(params) if isinstance(leaf, jax.Array)]
    narrow = any(jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize == 2 for leaf in leaves)
    return narrow and all(device.platform == "cpu" for device in leaves[0].devices())


def exhausted(error: BaseException) -> bool:
    """Whether a device has no room for a program or its arrays."""
    return "RESOURCE_EXHAUSTED" in str(error)


def _fitting(part: Any) -> Output:
    try:
        return part.run()  # type: ignore[no-any-return]
    except jax.errors.JaxRuntimeError as error:
        if not exhausted(error):
            raise
        rows = len((part.batch.rows if isinstance(part, Diffusion) else part.rows).done)
        raise InputError(
            f"a program of {rows} rows needs more memory than the device has: decode fewer at a time, as in "
            f"rows_per_program={max(1, rows // 2)}"
        ) from error


def one_program(lm: Any, part: Part, policy: Any, *, cache: Any, seed: int, save: str, stop: Any) -> Any:
    """The rows of one program, ready to run; the policy fits the model."""
    idle = np.arange(len(part.texts)) >= len(part.rows)
    if isinstance(policy, Speculation):
        stops = read_stops(lm, stop)
        each = [stops.sequences] * len(idle)
        behind, bucket = arrange_rows(lm, part.texts, max_new=part.max_new, seed=seed, ids=part.ids, stops=each)
        behind = behind._replace(done=jax.device_put(idle)) if idle.any() else behind
        behind, policy = beside(lm.params, behind, policy)
        return Continuation(lm, policy, behind, bucket, part.max_new, save, stops)
    stops = read_stops(lm, ends_wanted(policy, stop))
    batch = arrange(
        lm, part.texts, max_new=part.max_new, block=part.block, seed=seed, ids=part.ids, canvas=part.canvas,
        columns=part.columns, stops=[stops.sequences] * len(idle),
    )  # fmt: skip
    if idle.any():
        batch = dataclasses.replace(batch, rows=batch.rows._replace(done=jax.device_put(idle)))
    model = striped(
        blocked(lm.model, batch.geometry.block), lm.params, len(part.texts) * loop.width(policy, batch.geometry)
    )
    return Diffusion(lm, model, policy, cache, batch, part.max_new, save, stops)


class Programs(NamedTuple):
    """The programs that a decode runs in, and which of its rows each of them decodes."""

    parts: tuple[Any, ...]  # Diffusion or Continuation
    rows: tuple[np.ndarray, ...]
    max_new: int
    pad: int

    def run(self) -> Output:
        """One after the other. Raises InputError where one needs more memory than the device has."""
        return self.joined([_fitting(part) for part in self.parts])

    def joined(self, outs: Sequence[Output]) -> Output:
        """The rows in the order of the prompts; columns that only other rows have are pads."""
        order = np.argsort(np.concatenate(self.rows))

        def column(name: str, blank: int = 0) -> Any:
            values = [getattr(out, name) for out in outs]
            if any(value is None for value in values):
                return None
            values = [value[: len(own)] for value, own in zip(values, self.rows, strict=True)]
            if isinstance(values[0], list):
                flat = [each for value in values for each in value]
                return [flat[at] for at in order]
            sides = np.max([value.shape[1:] for value in values], axis=0)
            wide = [
                np.pad(value, [(0, 0), *((0, side - now) for side, now in zip(sides, value.shape[1:], strict=True))],
                       constant_values=blank)
                for value in values
            ]  # fmt: skip
            return np.concatenate(wide)[order]

        blanks = {"tokens": self.pad, "commit_step": -1, "steps": self.pad}
        named = [field.name for field in dataclasses.fields(Output) if field.name not in ("tokenizer", "ends")]
        rows = {name: column(name, blanks.get(name, 0)) for name in named}
        if rows["tokens"].shape[1] > self.max_new:  # of canvases that are rounded up
            cut = {name: rows[name][..., : self.max_new] for name in ("tokens", "commit_step", "score", "steps")
                   if rows[name] is not None}  # fmt: skip
            rows |= cut
        return Output(**rows, tokenizer=outs[0].tokenizer, ends=outs[0].ends)


class Diffusion(NamedTuple):
    """Prompts in the columns of a canvas, and what decodes them."""

    lm: Any
    model: Model
    policy: Rule
    cache: Cache
    batch: Batch
    max_new: int
    save: str
    stops: Stops

    def run(self) -> Output:
        """Everything in one program."""
        carry = _run(self.batch.rows, self.model, self.lm.params, self.policy, self.cache, *self._sizes())
        return self.output(carry.rows, carry.trace)

    def start(self) -> Carry:
        return _start(self.batch.rows, self.model, self.lm.params, self.policy, self.cache, *self._sizes())

    def ahead(self, carry: Carry, forwards: int) -> Carry:
        """So many forwards later."""
        count, geometry = jnp.int32(forwards), self.batch.geometry
        return _ahead(carry, count, self.model, self.lm.params, self.policy, self.cache, geometry)

    def output(self, rows: Rows, trace: Trace) -> Output:
        return finish(self.lm, rows, trace, self.batch, self.max_new, self.stops)

    def _sizes(self) -> tuple[Geometry, str, int]:
        geometry = self.batch.geometry
        return geometry, self.save, geometry.canvas if self.save == "steps" else 0


class Continuation(NamedTuple):
    """Prompts that an autoregressive model goes on with: padded on the right, so that columns are positions."""

    lm: Any
    policy: Speculation
    rows: draft_state.Rows
    prompt: int
    max_new: int
    save: str
    stops: Stops

    def run(self) -> Output:
        """Everything in one program; with `policy.slots`, some rows at a time."""
        pooled = 0 < self.policy.slots < len(self.rows.start)
        return self.output(*(generate_pool if pooled else generate)(self.rows, *self._parts(), *self._sizes()))

    def start(self) -> draft_state.Carry:
        return begin(self.rows, *self._parts(), *self._sizes())

    def ahead(self, carry: draft_state.Carry, forwards: int) -> draft_state.Carry:
        """So many rounds later."""
        return ahead(carry, jnp.int32(forwards), *self._parts())

    def output(self, rows: draft_state.Rows, trace: Trace) -> Output:
        return finish_rows(self.lm, rows, trace, self.max_new, self.stops)

    def _parts(self) -> tuple[Model, PyTree, Speculation]:
        return self.lm.model, self.lm.params, self.policy

    def _sizes(self) -> tuple[int, int, str]:
        return self.prompt, self.max_new, self.save


@compiled(static_argnames=("model", "geometry", "save", "steps"))
def _run(
    rows: Rows, model: Model, params: PyTree, policy: Rule, cache: Cache, geometry: Geometry, save: str, steps: int
) -> Carry:
    fixed = {"model": model, "params": params, "policy": policy, "cache": cache, "geometry": geometry}
    carry = loop.init(rows, **fixed, save=save, steps=steps)
    return loop.run(carry, jnp.iinfo(jnp.int32).max, **fixed)


@compiled(static_argnames=("model", "geometry", "save", "steps"))
def _start(
    rows: Rows, model: Model, params: PyTree, policy: Rule, cache: Cache, geometry: Geometry, save: str, steps: int
) -> Carry:
    fixed = {"model": model, "params": params, "policy": policy, "cache": cache, "geometry": geometry}
    return loop.init(rows, **fixed, save=save, steps=steps)


@compiled(static_argnames=("model", "geometry"))
def _ahead(
    carry: Carry,
    forwards: Int32[Array, ""],
    model: Model,
    params: PyTree,
    policy: Rule,
    cache: Cache,
    geometry: Geometry,
) -> Carry:
    fixed = {"model": model, "params": params, "policy": policy, "cache": cache, "geometry": geometry}
    return loop.run(carry, carry.loops + forwards, **fixed)


def resolve_policy(policy: Any) -> Rule:
    """A recipe for diffusion models by name, or the rule itself."""
    policy = resolve_method(policy)
    if isinstance(policy, Speculation):
        raise InputError("this needs a diffusion policy: draft-and-target policies run through jaxdlm.decode")
    return policy


def resolve_method(policy: Any, load: Callable[[str], Any] = load) -> Rule | Speculation:
    """A recipe by name, with arguments as in a shell, or the rule itself; a draft given by name is loaded, by `load`."""
    if isinstance(policy, str):
        policy = policies.read(policy)
    if isinstance(policy, Unloaded):
        policy = policy.build(load(policy.name))
    if not isinstance(policy, Rule | Speculation):
        raise InputError(
            f"policy {argument.shown(policy)} is neither a name nor a rule: pass 'threshold' or chain(sample(), ...)"
        )
    return policy


def resolve_cache(cache: Any) -> Cache:
    """A cache by name, with arguments as in a shell, or the cache itself."""
    if isinstance(cache, str):
        cache = policies.read_cache(cache)
    if isinstance(cache, type) or not hasattr(cache, "refresh"):
        raise InputError(f"cache {argument.shown(cache)} is neither a name nor a cache: pass 'none'")
    return cache


def check(lm: Any, policy: Rule, cache: Cache) -> None:
    """Refuses combinations that mean nothing."""
    config = lm.config
    parts = list(compose.walk_rules(policy))
    if config.noise == "uniform":
        if not any(getattr(part, "noise", "mask") == "uniform" for part in parts):
            raise InputError(f"{lm.name} has uniform noise and no mask token: use policy='entropy_bound'")
        if isinstance(policy, Stepper):
            raise InputError(f"{lm.name} rewrites its whole canvas, which no draft foresees: decode without freedave")
        if not cache.recomputes_all and getattr(cache, "attention", "") != config.attention:
            raise InputError(f"{lm.name} has a causal prefix and a canvas: use cache='encoder' or 'none'")
    elif any(getattr(part, "noise", "mask") == "uniform" for part in parts):
        raise InputError(
            f"entropy_bound rewrites uniform noise, {lm.name} has masks: use sdar(strategy='entropy_bounded')"
        )
    elif config.noise != "mask" or config.tokens.mask is None:
        raise InputError(
            f"{lm.name} has no mask token: mask-diffusion policies need a masked diffusion model; an autoregressive one "
            f"takes policy='autoregressive' or 'speculative'"
        )
    compose.complete(policy)
    for part in parts:
        model = getattr(part, "made_for", None)
        if model is not None and model != lm.name:
            raise InputError(
                f"{compose.name(part)} was trained for {model}, not for {lm.name}: train one and pass weights=..."
            )
    needs = getattr(cache, "attention", config.attention)
    if needs != config.attention:
        raise InputError(f"this cache needs {needs} attention, {lm.name} has {config.attention}: use cache='none'")
    if policy.view == "canvas" and cache.window == "block":
        raise InputError("this policy looks at the whole canvas, this cache recomputes one block: use cache='none'")
    if isinstance(policy, Stepper) and not cache.versions:
        raise InputError(
            f"{type(cache).__name__} changes in every forward, so drafts of a row cannot share it: use cache='none'"
        )


def has_blocks(policy: Any) -> bool:
    """Whether block lengths, and caches to choose from, mean something to a policy; not to autoregressive ones."""
    return not isinstance(policy, Speculation | Unloaded)


def check_continuation(cache: Cache, block: int | None) -> None:
    """Refuses what means nothing to an autoregressive model."""
    if not cache.recomputes_all:
        raise InputError(
            f"{type(cache).__name__}: an autoregressive model always keeps its keys and values: leave cache out"
        )
    if block is not None:
        raise InputError(f"block={argument.shown(block)}: an autoregressive model writes no blocks: leave block out")


def blocked(model: Model, block: int) -> Model:
    """The model with attention blocks of this length, where attention is block-causal; else the model as it is."""
    if model.config.attention != "block_causal" or model.config.block_size == block:
        return model
    return dataclasses.replace(model, config=dataclasses.replace(model.config, block_size=block))  # type: ignore[type-var]


def finish(lm: Any, rows: Rows, trace: Trace, batch: Batch, max_new: int, stops: Stops) -> Output:
    """Cuts the generated columns out of the rows and reads them as text."""
    rows, trace = jax.device_get((rows._replace(key=(), policy=(), ends=None), trace))
    columns = batch.tails[:, None] + np.arange(max_new)[None, :]

    # of columns that were written before the text ended in front of them, nothing is told
    gone = (columns >= rows.stop[:, None]) & bool(stops.sequences)

    def generated(x: np.ndarray | None, never: int = 0) -> np.ndarray | None:
        return None if x is None else np.where(gone, never, np.take_along_axis(x, columns, axis=1))

    tokens = np.take_along_axis(rows.tokens[:, batch.geometry.prompt :], columns, axis=1)
    steps = None
    if trace.tokens is not None:
        steps = np.take_along_axis(trace.tokens, columns[:, None, :], axis=2)
    return Output(
        text=read_text(lm, tokens, stops),
        tokens=tokens,
        forwards=rows.forwards,
        commit_step=generated(trace.commit_step, -1),
        score=generated(trace.score),
        status=[Status(int(code)) for code in rows.status],
        steps=steps,
        tokenizer=lm.tokenizer,
        ends=tuple(sorted(stops.ids)),
    )


def read_text(lm: Any, tokens: np.ndarray, stops: Stops) -> list[str] | None:
    """The text of each row up to its end; None without a tokenizer."""
    return None if lm.tokenizer is None else [stops.text(lm.tokenizer, row.tolist()) for row in tokens]


def finish_rows(lm: Any, rows: draft_state.Rows, trace: Trace, max_new: int, stops: Stops) -> Output:
    """Cuts what follows the prompts out of the rows and reads it as text."""
    rows, trace = jax.device_get((rows._replace(key=(), ends=None, guide=()), trace))
    ids_ = lm.config.tokens
    column = rows.start[:, None] + np.arange(max_new)[None, :]
    tokens = np.take_along_axis(rows.tokens, column, axis=1)
    tokens = np.where(column < rows.length[:, None], tokens, ids_.eos[0] if ids_.eos else ids_.pad).astype(np.int32)
    return Output(
        text=read_text(lm, tokens, stops), tokens=tokens, forwards=rows.step, commit_step=trace.commit_step, score=trace.score,
        status=[Status(int(code)) for code in rows.status], steps=trace.tokens,
        accepted=(rows.accepted / np.maximum(rows.step, 1)).astype(np.float32), drafted=rows.drafted,
        draft_forwards=rows.draft_step, tokenizer=lm.tokenizer, ends=tuple(sorted(stops.ids)),
    )  # fmt: skip


__all__ = ["Output", "decode", "stream"]
