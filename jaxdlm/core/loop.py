"""The diffusion loop: one forward, the rule chain on each row, write, until every row is done."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdlm.core import automaton, compose, engine
from jaxdlm.core.attended import Attended, Attention, by_position
from jaxdlm.core.cache import Context, forward
from jaxdlm.core.carry import (
    Automaton,
    Carry,
    Geometry,
    LogitsAccess,
    Row,
    Rows,
    Status,
    Text,
    Trace,
    Update,
    Window,
    Witness,
)
from jaxdlm.core.ending import columns_to_end
from jaxdlm.core.keys import column_integer
from jaxdlm.core.low_discrepancy import group_of
from jaxdlm.core.model import Model
from jaxdlm.core.readout import DenseLogits, Readout, Summary, mask_invalid, proposable, summarise, text_ids
from jaxdlm.core.rule import Decoding, Rule, Stepper
from jaxdlm.core.select import select_rows
from jaxdlm.typing import Array, Bool, Float, Float32, Int32, PyTree

BEFORE = 2**31 - 1  # the step whose noise fills a canvas before the first forward


def width(policy: Rule, geometry: Geometry) -> int:
    """Columns that the policy sees at once."""
    return geometry.canvas if policy.traits.view == "canvas" else geometry.block


def context_of(decoding: Decoding) -> Context:
    """What the cache may use."""
    geometry = decoding.geometry
    policy = decoding.policy
    return Context(
        decoding.model, decoding.params, geometry, width(policy, geometry), blind=policy.traits.blind,
        attention=policy.traits.attention,
    )  # fmt: skip


def init(rows: Rows, decoding: Decoding, save: str) -> Carry:
    """The carry before the first forward. save: see `engine.blank_trace`."""
    rows = enter(rows, decoding)
    trace = engine.blank_trace(save, rows.done.shape[0], decoding.geometry.canvas)
    return Carry(rows, stored(rows, decoding), trace, jnp.int32(0))


def stored(rows: Rows, decoding: Decoding) -> PyTree:
    """The state of the cache before the first forward."""
    uncond = decoding.policy.traits.uncond
    both = with_unconditional(rows, decoding.model, decoding.geometry)[0] if uncond else rows
    return decoding.cache.init(context_of(decoding), both)


def enter(rows: Rows, decoding: Decoding) -> Rows:
    """Rows ready for their first forward: `policy` is filled in, blocks without open columns are skipped."""
    config, policy, geometry = decoding.model.config, decoding.policy, decoding.geometry
    state = policy.init(width(policy, geometry), config.vocab_size)
    per_row = jax.tree.map(lambda x: jnp.broadcast_to(x, (rows.done.shape[0], *jnp.shape(x))), state)
    rows = rows._replace(policy=per_row, block=first_open(rows, geometry), done=rows.done | ~rows.pending.any(1))
    if config.noise == "uniform":
        rows = rows._replace(tokens=noisy(rows, config.vocab_size))
    if config.self_conditioning:
        shape = (rows.done.shape[0], width(policy, geometry), config.hidden_size)
        rows = rows._replace(condition=jnp.zeros(shape, config.param_dtype))
    rows = rows._replace(status=jnp.where(rows.done, int(Status.FINISHED), rows.status))
    return automaton.enter(rows, geometry)


def admit(carry: Carry, rows: Rows, new: Bool[Array, "B"], decoding: Decoding) -> Carry:
    """The carry with `rows` in place of its own where `new`: at their first forward, with nothing recorded yet.

    `rows` as `init` takes them, laid out for the same geometry; where not `new` they are not read. Between two calls of
    `run`, at any trip: rows that go on keep every bit of theirs, and new ones get the tokens that they get alone.
    """
    rows = select_rows(new, enter(rows, decoding), carry.rows)
    state = prefill_admitted(rows, new, carry.cache, decoding)
    return Carry(rows, state, engine.cleared(carry.trace, new), carry.loops)


def prefill_admitted(rows: Rows, new: Bool[Array, "B"], state: PyTree, decoding: Decoding) -> PyTree:
    """The state of the cache with the rows `new` admitted; see `Cache.admit`."""
    if decoding.policy.traits.uncond:
        rows, new = with_unconditional(rows, decoding.model, decoding.geometry)[0], jnp.tile(new, 2)
    return decoding.cache.admit(context_of(decoding), rows, state, new)


def noisy(rows: Rows, vocab: int) -> Int32[Array, "B L"]:
    """The tokens with a random one in every column that is still to be written."""

    def one(key: Array, pads: Array, tokens: Array, pending: Array) -> Array:
        position = jnp.arange(tokens.shape[0], dtype=jnp.int32) - pads
        return jnp.where(pending, column_integer(jax.random.fold_in(key, BEFORE), position, vocab), tokens)

    return jax.vmap(one)(rows.key, rows.pads, rows.tokens, rows.pending)


def run(carry: Carry, until: Int32[Array, ""] | int, decoding: Decoding) -> Carry:
    """Steps until every row is done or `until` loop trips were made; the same carry may go in again."""
    return engine.run_until(carry, functools.partial(step, decoding=decoding), until)


def step(carry: Carry, decoding: Decoding) -> Carry:
    """The carry after one forward and the steps made of it; rows that take no part keep every bit."""
    policy = decoding.policy
    return policy.advance(carry, decoding) if isinstance(policy, Stepper) else single(carry, decoding)


def single(carry: Carry, decoding: Decoding) -> Carry:
    """The carry after one forward and one step of the policy."""
    rows = carry.rows
    start = window_start(rows, decoding.policy, decoding.geometry)
    window, active = read_window(rows, start, carry.cache, decoding)
    new, trace = apply_policy(rows, carry.trace, start, window.hidden, active, decoding, window.attended)
    return Carry(new, window.state, trace, carry.loops + 1)


def apply_policy(
    rows: Rows, trace: Trace, start: Array, hidden: Float[Array, "B W D"], active: Bool[Array, "B"], decoding: Decoding,
    attended: Attended | None = None,
) -> tuple[Rows, Trace]:  # fmt: skip
    """(rows after the policy's step on the hidden rows of a forward, the trace with that step)."""
    head_output = read_head(hidden, LogitsAccess.TILES, decoding, attended)
    new, changed, score = decide(rows, head_output, start, decoding)
    new = select_rows(active, new._replace(forwards=rows.forwards + 1), rows)
    return new, record(trace, rows, new, active, changed, score, start, decoding.geometry)


class HeadOutput(NamedTuple):
    """The head's output for each row's window. A field that no rule reads is never computed: nothing depends on it."""

    logits: Float32[Array, "B W V"]
    uncond: Float32[Array, "B W V"] | None
    raw_summary: Summary  # of the logits, [B, W]: one pass for all rules, and for all steps on the same logits
    hidden: Float[Array, "B W D"] | None  # for rules that read tiles; None: they take them from the logits
    blind: Float32[Array, "B W V"] | None
    attention: Attention | None = None  # by columns of the bucket


def read_head(
    hidden: Float[Array, "B W D"], upto: LogitsAccess, decoding: Decoding, attended: Attended | None = None
) -> HeadOutput:
    """The head's output for hidden rows. Where the policy needs no more of the logits than `upto`, the head is read
    once, tile by tile, and no row of the vocabulary is ever held."""
    model, params, traits = decoding.model, decoding.params, decoding.policy.traits
    blind = None
    if traits.blind:
        hidden, shadow = jnp.split(hidden, 2, axis=1)
        blind = mask_invalid(model.head(params, shadow), model)
    logits, uncond = lm_head_logits(hidden, decoding)
    tiled = not traits.uncond and model.tiling.count > 1 and traits.logits_access <= upto

    def one(logits: Array, hidden: Array | None) -> Summary:
        return summarise(logits_source(logits, hidden, None, params, model))

    parts = hidden if tiled else None
    attention = None
    if attended is not None:
        everywhere = mask_invalid(model.head(params, attended.hidden), model)
        top = jax.vmap(one)(everywhere, attended.hidden if model.tiling.count > 1 else None)
        attention = Attention(attended.weight, attended.mean, -jnp.log1p(top.rest))
    return HeadOutput(logits, uncond, jax.vmap(one)(logits, parts), parts, blind, attention)


def logits_source(
    logits: Array, hidden: Array | None, raw_summary: Summary | None, params: PyTree, model: Model
) -> Readout | DenseLogits:
    """One row's logits as a source of tiles: the head itself where `hidden` is there to be read, else the array."""
    if hidden is None:
        return DenseLogits(logits, model.tiling, raw_summary)
    return Readout(hidden, logits, params, model, raw_summary)


def decide(
    rows: Rows, head_output: HeadOutput, start: Array, decoding: Decoding
) -> tuple[Rows, Bool[Array, "B W"], Float32[Array, "B W"]]:
    """(rows after one step of the policy on the head's output, columns written, their scores)."""
    model, params, policy, geometry = decoding.model, decoding.params, decoding.policy, decoding.geometry
    limit = jnp.asarray(policy.forwards(geometry), jnp.int32)

    def one(row: Rows, head_output: HeadOutput, start: Array) -> tuple[Rows, Array, Array]:
        logits = head_output.logits
        view = window_of(row, start, logits.shape[0], geometry, model)
        readout = logits_source(logits, head_output.hidden, head_output.raw_summary, params, model)
        attention = None if head_output.attention is None else by_position(*head_output.attention, row.pads)
        update = Update(logits, head_output.uncond, readout=readout, blind=head_output.blind, attention=attention)
        update, state = policy.apply(update, row.policy, view, jax.random.fold_in(row.key, row.step))
        if update.condition is not None and model.config.self_conditioning:
            soft: Any = model
            row = row._replace(condition=soft.expected_embedding(params, update.condition).astype(row.condition.dtype))
        fine = update.finite
        if fine is None:
            fine = proposable(jnp.max(logits, axis=1), view.pending & view.exists)
        bad = ~(fine & is_valid_update(update, view, model))
        new, *wrote = write(row._replace(policy=state), update, view, start, bad, limit, geometry, model)
        return end(new, policy, geometry, model), *wrote

    new, changed, score = jax.vmap(one)(rows, head_output, start)
    return automaton.follow(new, rows.block, geometry), changed, score


def window_start(rows: Rows, policy: Rule, geometry: Geometry) -> Int32[Array, "B"]:
    """First window column of each row: its block, or the canvas."""
    if policy.traits.view == "canvas":
        return jnp.full_like(rows.block, geometry.prompt)
    return geometry.prompt + geometry.block * rows.block


def read_window(
    rows: Rows, start: Array, state: PyTree, decoding: Decoding, versions: Int32[Array, "B N L"] | None = None
) -> tuple[Window, Bool[Array, "B"]]:
    """(the window as the cache reads it, the rows that take part in this forward).

    With `versions` of the rows' tokens there are B N hidden rows, the versions of a row side by side; where the policy
    needs unconditional logits, as many again without the prompt.
    """
    uncond = decoding.policy.traits.uncond
    if uncond:
        rows, versions = with_unconditional(rows, decoding.model, decoding.geometry, versions)
        start = jnp.concatenate([start, start])
    window, active = forward(decoding.cache, context_of(decoding), rows, start, state, versions)
    return window, active[: active.shape[0] // 2] if uncond else active


def lm_head_logits(
    hidden: Float[Array, "B W D"], decoding: Decoding
) -> tuple[Float32[Array, "B W V"], Float32[Array, "B W V"] | None]:
    """(logits of hidden rows, unconditional ones or None); ids that may not be proposed are at -inf."""
    logits = mask_invalid(decoding.model.head(decoding.params, hidden), decoding.model)
    if not decoding.policy.traits.uncond:
        return logits, None
    cond_logits, uncond = jnp.split(logits, 2)
    return cond_logits, uncond


def with_unconditional(
    rows: Rows, model: Model, geometry: Geometry, versions: Int32[Array, "B N L"] | None = None
) -> tuple[Rows, Int32[Array, "B N L"] | None]:
    """The rows, then the same rows with every prefilled token replaced by the mask token; versions likewise."""
    column = jnp.arange(geometry.length, dtype=jnp.int32)[None, :]
    prefilled = rows.prefilled & (column >= rows.pads[:, None])
    hidden = jnp.where(prefilled, model.config.tokens.mask, rows.tokens)
    twice = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), rows, rows._replace(tokens=hidden))
    if versions is None:
        return twice, None
    return twice, jnp.concatenate([versions, jnp.where(prefilled[:, None], model.config.tokens.mask, versions)])


def is_valid_update(update: Update, view: Row, model: Model) -> Bool[Array, ""]:
    """Whether every token to be written is text, neither the mask nor an id beyond the tokenizer, and no score is
    NaN."""
    if update.commit is None or update.token is None:
        return jnp.asarray(True)
    odd = ~text_ids(model, update.token)
    if update.score is not None:
        odd = odd | jnp.isnan(update.score)
    return ~jnp.any(update.commit & view.pending & view.exists & odd)


def window_of(row: Rows, start: Array, columns: int, geometry: Geometry, model: Model) -> Row:
    """The window of one row (leaves of `row` have no batch axis here)."""
    at = start + jnp.arange(columns, dtype=jnp.int32)
    canvas = at - geometry.prompt
    exists = canvas < row.stop
    inside = exists & (canvas // geometry.block == row.block)
    take = lambda x: jax.lax.dynamic_slice_in_dim(x, start, columns)  # noqa: E731
    pending, grammar = take(row.pending), row.grammar
    if isinstance(grammar, Automaton) and columns == geometry.canvas:
        grammar = grammar._replace(state=grammar.start, end=grammar.accepting)
    return Row(
        tokens=take(row.tokens), open=pending & inside, pending=pending, active=inside, prefilled=take(row.prefilled),
        column=canvas, position=at - row.pads, exists=exists, step=row.step, tick=row.tick, block=row.block,
        blocks=geometry.blocks, ids=model.config.tokens, text=text_of(row, geometry),
        shifted=model.config.prediction == "next", grammar=grammar, group=group_of(row.group, row.key),
    )  # fmt: skip


def text_of(row: Rows, geometry: Geometry) -> Text:
    """The known text of one row; costs nothing where no rule reads it."""
    column = jnp.arange(geometry.length, dtype=jnp.int32)
    exists = (column >= row.pads) & (column - geometry.prompt < row.stop)
    from_first = lambda x: jnp.roll(x, -row.pads)  # noqa: E731
    prompt = jnp.cumprod(from_first(exists & row.prefilled).astype(jnp.int32))
    return Text(from_first(row.tokens), from_first(exists & ~row.pending), jnp.sum(prompt, dtype=jnp.int32))


def first_open(rows: Rows, geometry: Geometry) -> Int32[Array, "B"]:
    """The first block with a pending column; `blocks` where nothing is pending."""
    per_block = rows.pending[:, geometry.prompt :].reshape(-1, geometry.blocks, geometry.block).any(2)
    return jnp.where(per_block.any(1), jnp.argmax(per_block, 1), geometry.blocks).astype(jnp.int32)


def write(
    row: Rows, update: Update, view: Row, start: Array, bad: Array, limit: Array, geometry: Geometry, model: Model
) -> tuple[Rows, Bool[Array, "W"], Float32[Array, "W"]]:
    """(one row with the update applied, columns written, their scores): commit, fill, reopen, cut, close the block,
    end."""
    commit = (update.commit if update.commit is not None else jnp.zeros_like(view.open)) & view.pending & view.exists
    commit = commit & ~bad
    exists = view.exists
    if update.stop is not None:
        row = row._replace(stop=jnp.where(bad, row.stop, start + update.stop - geometry.prompt).astype(jnp.int32))
        exists = view.column < row.stop
    text, own = view.tokens, exists & ~view.prefilled
    text = text if update.fill is None else jnp.where(own & ~bad, update.fill, text)
    text = text if update.token is None else jnp.where(commit, update.token, text)
    pending = view.pending & ~commit
    if update.reopen is not None:
        again = update.reopen & own & ~bad
        text, pending = jnp.where(again, model.config.tokens.mask, text), pending | again
    put = lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, start, 0)  # noqa: E731
    row = row._replace(tokens=put(row.tokens, text), pending=put(row.pending, pending))
    if update.witness is not None and isinstance(row.grammar, Witness):
        row = row._replace(grammar=row.grammar._replace(text=update.witness))
    if update.cut is not None:
        cut = jnp.where((update.cut <= commit.shape[0]) & ~bad, start + update.cut - geometry.prompt, row.stop)
        row = shorten(row, cut, geometry, model)
    halt = jnp.asarray(update.halt, bool) | bad
    hold = jnp.asarray(update.hold, bool)
    left = row.pending[geometry.prompt :].reshape(geometry.blocks, geometry.block).any(1)
    closed = ~hold & ~(left & (jnp.arange(geometry.blocks) <= row.block)).any()
    following = jnp.where(left.any(), jnp.argmax(left), geometry.blocks).astype(jnp.int32)
    complete = ~left.any() & ~hold
    spent = row.step + 1 >= limit
    status = jnp.where(complete, int(Status.FINISHED), jnp.where(spent, int(Status.STEP_LIMIT), row.status))
    status = jnp.where(halt, jnp.asarray(update.status, jnp.int32), status)
    row = row._replace(
        block=jnp.where(closed, following, row.block),
        tick=jnp.where(closed, 0, row.tick + 1),
        step=row.step + 1,
        done=complete | halt | spent,
        status=engine.failed(status, bad),
    )
    score = jnp.zeros(commit.shape, jnp.float32) if update.score is None else update.score.astype(jnp.float32)
    return row, commit | ((text != view.tokens) & ~pending), score


def end(row: Rows, policy: Rule, geometry: Geometry, model: Model) -> Rows:
    """The row, ended at the first of its `ends` that nothing can change any more.

    Every column before it is written, and lies in a finished block where the policy rewrites what is written. A policy
    that may rewrite any column, and prefilled text behind the end, keep a row going.
    """
    rewrites = compose.rewrites(policy)
    if row.ends is None or (rewrites and policy.traits.view == "canvas"):
        return row
    place = jnp.arange(geometry.canvas, dtype=jnp.int32)
    exists, pending = place < row.stop, row.pending[geometry.prompt :]
    own = exists & ~jnp.flip(jnp.cumsum(jnp.flip(exists & row.prefilled[geometry.prompt :])) > 0)
    final = ~pending & (row.done | (place // geometry.block < row.block)) if rewrites else ~pending
    stop = columns_to_end(row.tokens[geometry.prompt :], own, final, row.ends)
    other = (row.status == int(Status.EXIT)) | (row.status == int(Status.NONFINITE))  # how it ended already
    ended = (stop <= row.stop) & ~other
    row = shorten(row, jnp.where(ended, stop, row.stop), geometry, model)
    return row._replace(done=row.done | ended, status=jnp.where(ended, jnp.int32(Status.EOS), row.status))


def shorten(row: Rows, stop: Int32[Array, ""], geometry: Geometry, model: Model) -> Rows:
    """The row without its canvas columns from `stop` on, which hold end-of-text."""
    stop = jnp.clip(stop, 0, row.stop).astype(jnp.int32)
    gone = jnp.arange(geometry.length, dtype=jnp.int32) >= geometry.prompt + stop
    gone = gone & (stop < row.stop)
    ids = model.config.tokens
    blank = ids.eos[0] if ids.eos else ids.pad
    return row._replace(tokens=jnp.where(gone, blank, row.tokens), pending=row.pending & ~gone, stop=stop)


def record(
    trace: Trace, old: Rows, new: Rows, active: Array, changed: Array, score: Array, start: Array, geometry: Geometry
) -> Trace:
    """The trace with this step; rows that took no part write nowhere."""
    index = jnp.arange(changed.shape[1], dtype=jnp.int32)[None, :] + start[:, None] - geometry.prompt
    index = jnp.where(active[:, None] & changed, index, geometry.canvas)
    return engine.record(trace, old.forwards, active, index, score, new.tokens[:, geometry.prompt :])
