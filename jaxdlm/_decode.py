"""`decode`: prompts in, Output out."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import argument, layout, policies
from jaxdlm.core import loop
from jaxdlm.core.carry import Carry, Rows, Status, Trace
from jaxdlm.core.compiled import compiled
from jaxdlm.core.guide import OfRow
from jaxdlm.core.keys import sampled
from jaxdlm.core.rule import Decoding
from jaxdlm.decisions import choosing
from jaxdlm.errors import InputError
from jaxdlm.grammar.checked import Checked
from jaxdlm.messages import read_form
from jaxdlm.output import Output, Programs, finish, finish_rows
from jaxdlm.own import Own, own_guides, rooms_of
from jaxdlm.resolve import blocked, check, check_continuation, check_uniforms, resolve_cache, resolve_method
from jaxdlm.rules.grammar import constrained
from jaxdlm.sharding import beside, striped, widens
from jaxdlm.speculative import prefix
from jaxdlm.speculative import state as draft_state
from jaxdlm.speculative.copies import expanded, prompts_of, several
from jaxdlm.speculative.decode import ahead, begin, generate
from jaxdlm.speculative.drafters.forced import drafting
from jaxdlm.speculative.pair import check as check_pair
from jaxdlm.speculative.pair import tuned
from jaxdlm.speculative.policy import Decoding as PairDecoding
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.pool import generate_pool
from jaxdlm.stops import Stops, ends_wanted, read_stops
from jaxdlm.structured import grammars_of, on_skeletons
from jaxdlm.typing import Array, Int32

SAVES = ("none", "commit", "steps")
MOST_SAMPLES, MOST_TOP = 1024, 20


def decode(
    lm: Any,
    prompts: Sequence[Any],
    policy: Any = None,
    cache: Any = "none",
    max_new: int | Sequence[int] = 128,
    block: int | None = None,
    seed: int = 0,
    ids: Sequence[int] | None = None,
    save: str = "commit",
    *,
    raw: bool = False, system: str | None = None, tools: Sequence[Mapping[str, Any]] | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None, continue_final_message: bool | str | None = None,
    canvas: Sequence[Sequence[int]] | None = None, infill: bool = False, stop: Any = True,
    rows_per_program: int | None = None, n: int = 1, top_logprobs: int = 0,
    grammar: Any = None, choices: Any = None, regex: Any = None, json_schema: Any = None, json: Any = None, lark: Any = None,
    prefix_embeddings: Any = None,
) -> Output:  # fmt: skip
    """The answers to all prompts, one row each; prompts that stand in the same columns are decoded as one batch.

    Args:
        lm: from `jaxdlm.load`.
        prompts: a str, or a list of str, of token-id lists, or of chats ([{"role", "content"}]).
        policy: a name in `policies.RECIPES`, with arguments as in a shell ("threshold,tau=0.8"), a rule, or what
            `jaxdlm.speculative` makes (autoregressive models; their keys and values are always cached, and `cache` and
            `block` are refused there). Default: "threshold"; "autoregressive" for a model that only continues a text,
            "entropy_bound" for one with uniform noise; rows with `choices`: none, but for uniform noise.
        cache: a name in `policies.CACHES`, with arguments likewise, or a cache.
        max_new: generated columns; or one number per prompt, as `length_prior` makes them: shorter rows then end in pads.
        block: block length, default 32 (block-causal models: what they were trained with);
            the last block may be shorter; larger than max_new: one block.
            Block-causal models count blocks from position 0, so the prompt's tail shares its block with the answer, and
            their attention follows this length (training used config.block_size).
        seed: row b draws from fold_in(key(seed), ids[b]).
        ids: one int per row, by default 0..B-1.
        save: "none", "commit" (when each column got its token) or "steps" (the canvas after each forward, too).
        raw: do not pass strings through the chat template. An empty one is then the model's begin of a text.
        system: words of a system message, for strings and for chats without one.
        tools: functions that the chat template shows to the model, as JSON schemas; answers of theirs are messages of role
            "tool", and what the model calls is text.
        chat_template_kwargs: further variables of the chat template, such as {"enable_thinking": False}. One that it does
            not read is refused.
        continue_final_message: the answer goes on with the words of the last message, which is the assistant's: its content
            (True) or a field ("reasoning_content"). None: so where the assistant has the last word. False: it is a message
            of its own. Output has what is new.
        canvas: per row up to max_new token ids to start from (infilling): the mask id where the model shall write.
        infill: prompts are token ids with the mask id wherever the model shall write. The canvas of a row is all that
            follows its first mask; max_new is the longest of these, shorter rows end in pads.
        stop: True: a row ends once an end-of-text id of the model stands with nothing open before it, since its text can
            no longer change; what follows reads end-of-text. Policies made with official=True run on as published, and
            False lets any policy do so: the papers' counts of forwards. Strings and token ids (one or several) end a row
            too, and the text is cut before the first of them; a string that is spelled by other tokens than its own
            only cuts the text. Policies that rewrite what is written (llada21, saber, …) end a row with its block.
        rows_per_program: rows go through the model in programs of so many, missing ones idle. Default: all rows of the
            same columns in one. On CPUs results do not depend on it; elsewhere it is what fixes them (docs/batch.md).
        n: answers per prompt, drawn one by one: rows n b to n b + n - 1 are those of prompt b, and row n b is what n=1 gives.
            Autoregressive models read each prompt once; diffusion models decode each row by itself.
        top_logprobs: of autoregressive models, so many of the likeliest tokens (to 20) beside each column's own.
        prefix_embeddings: of autoregressive models: per prompt an array [P, D] that the first layer reads in front of the
            prompt's tokens, such as an image's (or None: nothing); P may differ. What drafts from a text sees pads there.
        choices, regex, json_schema, json, lark, grammar: at most one of them; the answer belongs to that language, whatever the
            policy, and ends within max_new. `choices` without a policy are not written: the likeliest of them by the model's
            own law is read (docs/structured.md). One for all rows, or a list with one per row (None: a free row). choices: a
            list of texts; regex: a pattern of Python's `re` that matches the whole answer; json_schema: a schema as a
            dict or JSON; json: True, or the depth to which values may be nested; lark: a context-free grammar in Lark's
            language, nested to depth 3 (`jaxdlm.grammar.lark` takes another); grammar: from `jaxdlm.grammar`. See
            docs/structured.md.

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
        lm, prompts, policy, cache, max_new, block, seed, ids, save, raw=raw, system=system, tools=tools,
        chat_template_kwargs=chat_template_kwargs, continue_final_message=continue_final_message, canvas=canvas,
        infill=infill, stop=stop, rows_per_program=rows_per_program, n=n, top_logprobs=top_logprobs, grammar=grammar,
        choices=choices, regex=regex, json_schema=json_schema, json=json, lark=lark, prefix_embeddings=prefix_embeddings,
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
    layout.COUNT(every, "every")
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
    lm: Any, prompts: Sequence[Any], policy: Any = None, cache: Any = "none", max_new: Any = 128,
    block: int | None = None, seed: int = 0, ids: Sequence[int] | None = None, save: str = "commit", *,
    raw: bool = False, system: str | None = None, tools: Sequence[Mapping[str, Any]] | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None, continue_final_message: bool | str | None = None,
    canvas: Sequence[Sequence[int]] | None = None, infill: bool = False, stop: Any = True,
    rows_per_program: int | None = None, n: int = 1, top_logprobs: int = 0, grammar: Any = None, choices: Any = None,
    regex: Any = None, json_schema: Any = None, json: Any = None, lark: Any = None, prefix_embeddings: Any = None,
    own: Sequence[Own] | None = None,
) -> Programs:  # fmt: skip
    """A decode that is checked and laid out, before the first forward; arguments as in `decode`. own: of each prompt."""
    argument.model(lm)
    choices = choosing.listed(choices)
    choose = None if own is not None else choosing.asked(policy, choices, lm)
    policy = resolve_method(policies.default(lm.config) if policy is None or choose is not None else policy)
    asked_cache, cache, prompts = cache, resolve_cache(cache), layout.listed(prompts)
    max_new, rooms = rooms_of(max_new, len(prompts), infill=infill, canvas=canvas, choices=choose)
    argument.flag(raw, "raw")
    form = read_form(system, tools, chat_template_kwargs, continue_final_message)
    argument.check_choice(save, "save", SAVES)
    size = argument.whole(1, argument.MOST_ROWS, none=True)(rows_per_program, "rows_per_program")
    n, top = argument.whole(1, MOST_SAMPLES)(n, "n"), argument.whole(0, MOST_TOP)(top_logprobs, "top_logprobs")
    answers, n = n, n if choose is None else 1
    if not isinstance(policy, Speculation):
        argument.unused("to a diffusion model, see Output.score", top_logprobs=(top, 0))
        argument.unused(f"to {lm.name}, a diffusion model", prefix_embeddings=(prefix_embeddings, None))
    elif infill or canvas is not None:
        raise InputError("an autoregressive model writes behind its prompt: leave infill and canvas out")
    else:
        check_continuation(cache, block)
        policy = _continuing(lm, policy, n, top, size, save)
    if argument.flag(infill, "infill"):
        asked = max_new
        prompts, canvas, max_new = layout.split_at_masks(lm, prompts, canvas)
        if asked != max_new:
            argument.unused("with infill=True, where the prompts say it", max_new=(asked, 128))
    if not isinstance(policy, Speculation) and not infill:
        grammar, canvas, max_new = on_skeletons(grammar, canvas, max_new, len(prompts))
    columns = [len(row) for row in canvas] if infill and canvas is not None else rooms or [max_new] * len(prompts)
    language = {"grammar": grammar, "choices": choices, "regex": regex, "json_schema": json_schema, "json": json,
                "lark": lark}  # fmt: skip
    stops = read_stops(lm, ends_wanted(policy, stop))
    grammars = grammars_of(lm, len(prompts), columns, stops, **language)
    if choose is not None and grammars is not None:
        plain = {"cache": (asked_cache, "none"), "infill": (infill, False), "canvas": (canvas, None),
                 "prefix_embeddings": (prefix_embeddings, None)}  # fmt: skip
        argument.unused("beside choices of which the likeliest is wanted", n=(1 if choose.temperature else answers, 1))
        argument.unused(choosing.READ, **plain, top_logprobs=(top, 0), save=(save, {"steps": "commit"}.get(save, save)))
        numbers = layout.row_numbers(ids, len(prompts))
        part, free = choosing.laid_out(
            lm, prompts, choices, max_new=max_new, block=block, raw=raw, form=form, batch=size, save=save, stops=stops,
            draws=choosing.draws(choose, seed, numbers, answers),
        )  # fmt: skip
        others = functools.partial(
            prepare, lm, max_new=max_new, block=block, raw=raw, seed=seed, save=save, stop=stop,
            rows_per_program=rows_per_program, system=system, tools=tools, chat_template_kwargs=chat_template_kwargs,
            continue_final_message=continue_final_message,
        )  # fmt: skip
        return choosing.beside(part, free, prompts, numbers, others)
    if isinstance(policy, Speculation):  # each prompt is one row until it is read
        size = size if size is None else prompts_of(size, policy.samples)
    elif n > 1:
        ids, prompts = _times(layout.row_numbers(ids, len(prompts)), n), _times(prompts, n)
        canvas = None if canvas is None else _times(canvas, n)
        grammars = None if grammars is None else _times(grammars, n)
        rooms = None if rooms is None else _times(rooms, n)
    work = layout.lay_apart(
        lm, prompts, max_new=max_new, block=block, ids=ids, raw=raw, canvas=canvas, infill=infill, size=size,
        aligned=not isinstance(policy, Speculation), grammars=grammars, form=form, own=own, rooms=rooms,
        prefix=None if prefix_embeddings is None else prefix.checked(lm, prefix_embeddings, len(prompts), policy),
    )  # fmt: skip
    check_uniforms(policy, n, max_new)
    if isinstance(policy, Speculation):
        check_pair(lm, policy, max_new, max(len(text) for part in work for text in part.texts))
        lm, policy = tuned(lm, policy)
    else:
        check(lm, policy, cache)
    fixed = {"cache": cache, "seed": seed, "save": save, "stop": stops}
    parts = tuple(one_program(lm, part, policy, n=n, **fixed) for part in work)
    each = n if isinstance(policy, Speculation) else 1  # other rows are answers already
    rows = tuple(np.ravel(part.rows[:, None] * each + np.arange(each)) for part in work)
    return Programs(parts, rows, max_new, lm.config.tokens.pad)


def _continuing(lm: Any, policy: Speculation, n: int, top: int, size: int | None, save: str) -> Speculation:
    """The policy of an autoregressive model as this decode asks for it."""
    if save == "none":
        argument.unused("with save='none'", top_logprobs=(top, 0))
    if policy.slots and size is not None:
        raise InputError(f"rows_per_program={size}: the policy's slots={policy.slots} are that, leave one of them out")
    placed = size is not None or widens(lm.params)
    return dataclasses.replace(several(policy, n), placed=placed, top=min(top, lm.config.vocab_size))


def _times(values: Sequence[Any], n: int) -> list[Any]:
    return [value for value in values for _ in range(n)]


def one_program(
    lm: Any, part: layout.Part, policy: Any, *, cache: Any, seed: int, save: str, stop: Any, n: int = 1
) -> "Diffusion | Continuation":
    """The rows of one program, ready to run; the policy fits the model. n: answers per prompt, rows of their own here unless
    the policy makes `samples` of a prompt."""
    idle = np.arange(len(part.texts)) >= len(part.rows)
    if isinstance(policy, Speculation):
        stops = read_stops(lm, stop)
        guides = own_guides(part.own, part.grammars, len(part.texts))
        policy = policy if guides is None else policy.guided(OfRow())
        policy = policy if part.grammars is None else drafting(policy, part.grammars, lm, part.texts)
        behind, prompt = layout.arrange_rows(
            lm, part.texts, max_new=part.max_new, seed=seed, ids=part.ids, stops=[stops.sequences] * len(idle),
            guides=guides, numbers=[own.numbers for own in part.own or ()], prefix=part.prefix,
        )  # fmt: skip
        behind = behind._replace(done=jax.device_put(idle)) if idle.any() else behind
        behind, policy = beside(lm.params, behind, policy)
        shared = 0 if policy.placed or policy.cfg is not None or part.prefix else layout.shared_columns(part.texts)
        prompt = min(prompt, shared + layout.bucket_of(max(map(len, part.texts)) - shared))
        pair = PairDecoding(lm.model, lm.parted, policy)
        return Continuation(lm, pair, behind, prompt, part.max_new, save, stops, shared)
    stops = read_stops(lm, ends_wanted(policy, stop))
    batch = layout.arrange(
        lm, part.texts, max_new=part.max_new, block=part.block, seed=seed, ids=part.ids, canvas=part.canvas,
        columns=part.columns, stops=[stops.sequences] * len(idle), grammars=part.grammars,
    )  # fmt: skip
    if part.grammars is not None:
        policy = constrained(policy, steered=not isinstance(part.grammars[0], Checked))
    if idle.any():
        batch = dataclasses.replace(batch, rows=batch.rows._replace(done=jax.device_put(idle)))
    if n > 1:
        sample = np.resize(part.rows, len(idle)).astype(np.int32) % np.int32(n)  # what idle rows draw does not matter
        batch = dataclasses.replace(batch, rows=sampled(batch.rows, jnp.asarray(sample)))
    model = striped(
        blocked(lm.model, batch.geometry.block), lm.params, len(part.texts) * loop.width(policy, batch.geometry)
    )
    decoding = Decoding(model, lm.params, policy, cache, batch.geometry)
    return Diffusion(lm, decoding, batch, part.max_new, save, stops)


class Diffusion(NamedTuple):
    """Prompts in the columns of a canvas, and what decodes them."""

    lm: Any
    decoding: Decoding
    batch: layout.Batch
    max_new: int
    save: str
    stops: Stops

    @property
    def size(self) -> int:
        """Rows of the program."""
        return len(self.batch.rows.done)

    def run(self) -> Output:
        """Everything in one program."""
        carry = _run(self.batch.rows, self.decoding, self.save)
        return self.output(carry.rows, carry.trace)

    def start(self) -> Carry:
        return _start(self.batch.rows, self.decoding, self.save)

    def ahead(self, carry: Carry, forwards: int) -> Carry:
        """So many forwards later."""
        return _ahead(carry, jnp.int32(forwards), self.decoding)

    def output(self, rows: Rows, trace: Trace) -> Output:
        return finish(self.lm, rows, trace, self.batch, self.max_new, self.stops)


class Continuation(NamedTuple):
    """Prompts that an autoregressive model goes on with: padded on the right, so that columns are positions."""

    lm: Any
    decoding: PairDecoding
    rows: draft_state.Rows
    prompt: int
    max_new: int
    save: str
    stops: Stops
    shared: int = 0

    @property
    def size(self) -> int:
        """Rows of the program."""
        return len(self.rows.done)

    def run(self) -> Output:
        """Everything in one program; where the policy has slots, some rows at a time."""
        policy, rows = self.decoding.policy, self.rows
        if not 0 < policy.slots < len(rows.start) * policy.samples:
            return self.output(*generate(rows, self.decoding, *self._sizes()))
        alone = dataclasses.replace(policy, samples=1)  # rows of a prompt may stand in slots at different times
        decoding = dataclasses.replace(self.decoding, policy=alone)
        return self.output(*generate_pool(expanded(rows, policy.samples), decoding, *self._sizes()))

    def start(self) -> draft_state.Carry:
        return begin(self.rows, self.decoding, *self._sizes())

    def ahead(self, carry: draft_state.Carry, forwards: int) -> draft_state.Carry:
        """So many rounds later."""
        return ahead(carry, jnp.int32(forwards), self.decoding)

    def output(self, rows: draft_state.Rows, trace: Trace) -> Output:
        return finish_rows(self.lm, *self.decoding.policy.answers(rows, trace), self.max_new, self.stops)

    def _sizes(self) -> tuple[int, int, str, int]:
        return self.prompt, self.max_new, self.save, self.shared


@compiled(static_argnames=("save",))
def _run(rows: Rows, decoding: Decoding, save: str) -> Carry:
    return loop.run(loop.init(rows, decoding, save), jnp.iinfo(jnp.int32).max, decoding)


@compiled(static_argnames=("save",))
def _start(rows: Rows, decoding: Decoding, save: str) -> Carry:
    return loop.init(rows, decoding, save)


@compiled()
def _ahead(carry: Carry, forwards: Int32[Array, ""], decoding: Decoding) -> Carry:
    return loop.run(carry, carry.loops + forwards, decoding)


__all__ = ["Output", "decode", "stream"]
