"""Prompts as rows of token ids: what is read, what is refused, and which columns it stands in."""

import dataclasses
from collections.abc import Mapping, Sequence, Sized
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdlm import argument, languages
from jaxdlm.core.carry import Geometry, Rows
from jaxdlm.core.ending import pack, shape
from jaxdlm.core.keys import row_keys
from jaxdlm.errors import InputError
from jaxdlm.messages import Form
from jaxdlm.own import Own, columns_of, stacked
from jaxdlm.speculative import prefix as prefixes
from jaxdlm.speculative import state as draft_state
from jaxdlm.typing import Array, PyTree

DEFAULT_BLOCK = 32
COUNT = argument.whole(1)
SEED = argument.whole(-(2**63), 2**64 - 1)
KEY = argument.whole(-(2**31), 2**32 - 1)


def bucket_of(columns: int, block: int = 1) -> int:
    """Columns that a prompt of so many is padded to: 16, 24, 32, 48, 64, 96, 128, ..., then whole blocks.

    From 16 on at most a third are pads, those of the last block aside. Prompts of one bucket share a compiled program.
    """
    power = max(16, 1 << (columns - 1).bit_length())
    bucket = 3 * power // 4 if columns <= 3 * power // 4 and power > 16 else power
    return -(-bucket // block) * block


def shared_columns(texts: Sequence[np.ndarray]) -> int:
    """Columns at the beginning of several texts that hold the same tokens in all of them, the last of none among them:
    0, or 32, 48, 64, 96, ..., so that it is worth a forward and many batches share a program."""
    if len(texts) < 2:
        return 0
    least = min(map(len, texts)) - 1
    first = np.stack([text[:least] for text in texts])
    same = int(np.cumprod((first == first[0]).all(0)).sum())
    return side_below(same)


def side_below(columns: int) -> int:
    """The largest of 32, 48, 64, 96, ... of at most so many columns; 0 where there is none."""
    sides = [side for power in range(5, columns.bit_length()) for side in (1 << power, 3 << power - 1)]
    return max((side for side in sides if side <= columns), default=0)


@dataclasses.dataclass(frozen=True)
class Batch:
    """Prompts laid out in columns, before the first forward."""

    rows: Rows
    geometry: Geometry
    tails: np.ndarray  # canvas columns at the front of each row that belong to its prompt


def geometry_of(config: Any, lengths: np.ndarray, max_new: int, block: int | None) -> Geometry:
    """The columns that prompts of these lengths are laid out in; block None: the model's own, or `DEFAULT_BLOCK`."""
    aligned = config.attention == "block_causal"
    whole = config.attention == "prefix_canvas"  # a canvas is always read whole
    block = (config.block_size if aligned or whole else DEFAULT_BLOCK) if block is None else block
    block = block if aligned or whole else min(block, max_new)
    if block > config.max_position:
        raise InputError(f"block={block} is longer than the {config.max_position} positions of this model: lower it")
    tails = lengths % block if aligned else 0
    bucket = bucket_of(int((lengths - tails).max()), block if aligned else 1)
    blocks = -(-(max_new + (block - 1 if aligned else 0)) // block)
    return Geometry(prompt=bucket, block=block, blocks=blocks)


class Part(NamedTuple):
    """Rows of one program. rows: which of the prompts they are; further texts are idle copies that fill the program."""

    rows: np.ndarray
    texts: list[np.ndarray]
    ids: list[int]
    max_new: int
    block: int | None
    canvas: list[Any] | None
    columns: list[int] | None
    grammars: list[Any] | None = None
    own: list[Own] | None = None
    prefix: list[np.ndarray] | None = None


def lay_apart(
    lm: Any, prompts: Sequence[Any], *, max_new: int, block: int | None, ids: Any, raw: bool, canvas: Any, infill: bool,
    size: int | None, aligned: bool, grammars: Sequence[Any] | None = None, form: Form | None = None,
    own: Sequence[Own] | None = None, rooms: Sequence[int] | None = None, prefix: Sequence[np.ndarray] | None = None,
) -> list[Part]:  # fmt: skip
    """The prompts by programs: of equal columns, which follow from each row alone, and of `size` rows (None: any number).

    infill: rows have canvases of their own length, rounded up as prompts are. rooms: of each its columns. aligned: prompts
    stand in the columns that `geometry_of` says; else only their own length counts. grammars: of each prompt, or None; those
    of one program are of one shape. prefix: embeddings that each prompt begins with. Raises InputError for what no program
    could read.
    """
    max_new, block = COUNT(max_new, "max_new"), argument.whole(1, none=True)(block, "block")
    numbers = row_numbers(ids, len(prompts))
    if canvas is not None:
        prefilled(lm, canvas, len(prompts), max_new)
    room = [len(row) for row in canvas] if infill else rooms or [max_new] * len(prompts)
    texts = [encode(lm, prompt, index, room[index], raw, form) for index, prompt in enumerate(prompts)]
    if prefix is not None:
        texts = [
            prefixes.behind(text, each, index, max_new, lm)
            for index, (text, each) in enumerate(zip(texts, prefix, strict=True))
        ]
    groups: dict[Any, list[int]] = {}
    for index, text in enumerate(texts):
        columns = bucket_of(room[index]) if infill else room[index]
        place = geometry_of(lm.config, np.array([len(text)]), columns, block) if aligned else bucket_of(len(text))
        shape = None if grammars is None else languages.shape_of(grammars[index])
        groups.setdefault((place, columns, shape), []).append(index)
    parts = []
    for (_, columns, shape), members in groups.items():
        for first in range(0, len(members), size or len(members)):
            real = members[first : first + (size or len(members))]
            rows = real + real[-1:] * ((size or len(real)) - len(real))
            parts.append(
                Part(
                    np.array(real),
                    _picked(texts, rows),
                    _picked(numbers, rows),
                    columns,
                    block,
                    None if canvas is None else _picked(canvas, rows),
                    _picked(room, rows) if infill else None,
                    None if grammars is None or shape is None else _picked(grammars, rows),
                    None if own is None else _picked(own, rows),
                    None if prefix is None or not any(len(prefix[row]) for row in rows) else _picked(prefix, rows),
                )
            )
    return parts


def _picked(values: Sequence[Any], rows: Sequence[int]) -> list[Any]:
    return [values[row] for row in rows]


def lay_out(
    lm: Any,
    prompts: Sequence[Any],
    *,
    max_new: int,
    block: int | None,
    seed: int,
    ids: Sequence[int] | None,
    raw: bool = False,
    canvas: Sequence[Sequence[int]] | None = None,
    columns: Sequence[int] | None = None,
    stops: Sequence[Sequence[Sequence[int]]] | None = None,
) -> Batch:
    """Tokenises prompts and lays them out as `arrange` does."""
    max_new = COUNT(max_new, "max_new")
    texts = [encode(lm, prompt, index, max_new, raw) for index, prompt in enumerate(prompts)]
    return arrange(
        lm, texts, max_new=max_new, block=block, seed=seed, ids=ids, canvas=canvas, columns=columns, stops=stops
    )


def arrange(
    lm: Any, texts: Sequence[np.ndarray], *, max_new: int, block: int | None, seed: int, ids: Sequence[int] | None,
    canvas: Sequence[Sequence[int]] | None = None, columns: Sequence[int] | None = None,
    stops: Sequence[Sequence[Sequence[int]]] | None = None, grammars: Sequence[Any] | None = None,
) -> Batch:  # fmt: skip
    """Token ids, left-padded to a bucket of columns (`bucket_of`), so that generated columns coincide.

    Models with block-causal attention keep their blocks on multiples of the block length from position 0: whole prompt
    blocks stand left of the canvas, the prompt's tail is the beginning of the canvas. `columns`: canvas columns per row,
    where rows have fewer than max_new. `stops`: per row the sequences of ids that end it. `grammars`: the language of each
    row's own columns.
    """
    config = lm.config
    aligned, whole = config.attention == "block_causal", config.attention == "prefix_canvas"
    block = argument.whole(1, none=True)(block, "block")
    lengths = np.array([len(text) for text in texts], np.int32)
    geometry = geometry_of(config, lengths, max_new, block)
    block, bucket = geometry.block, geometry.prompt
    tails = lengths % np.int32(block) if aligned else np.zeros_like(lengths)
    starts = prefilled(lm, canvas, len(texts), max_new)
    tokens = np.full((len(texts), geometry.length), config.tokens.pad, np.int32)
    pending = np.zeros(tokens.shape, bool)
    stop = np.full(len(texts), max_new, np.int32)
    for row, (text, tail) in enumerate(zip(texts, tails, strict=True)):
        end = tail + (max_new if columns is None else columns[row])
        first = bucket + tail
        stop[row] = -(-end // block) * block if aligned or whole else end
        tokens[row, first - len(text) : first] = text
        tokens[row, first : bucket + stop[row]] = _mask(config)
        tokens[row, first : bucket + end] = starts[row][: end - tail]
        pending[row, first : bucket + stop[row]] = tokens[row, first : bucket + stop[row]] == _mask(config)
    count = np.zeros(len(texts), np.int32)
    packed_grammars: Any = None
    if grammars is not None:
        last = tails + np.asarray(max_new if columns is None else columns, np.int32)
        packed_grammars = languages.pack(grammars, tokens[:, bucket:], pending[:, bucket:], tails, last)
    rows = Rows(
        tokens=tokens, pending=pending, prefilled=~pending, pads=bucket + tails - lengths, stop=stop,
        key=_keys(seed, ids, len(texts)), done=np.zeros(len(texts), bool), status=count, block=count, forwards=count,
        step=count, tick=count, policy=(), ends=packed(stops), grammar=packed_grammars,
    )  # fmt: skip
    rows = jax.device_put(rows)  # all at once: a transfer for each of them takes longer than a small decode's step
    return Batch(rows, geometry, tails)


def packed(stops: Sequence[Sequence[Sequence[int]]] | None) -> np.ndarray | None:
    """The sequences of ids that end each row, as the loops read them; None: no row has any."""
    sides = shape(stops) if stops else None
    return None if stops is None or sides is None else pack(stops, sides)


def _mask(config: Any) -> int:
    return config.tokens.mask if config.tokens.mask is not None else config.tokens.pad


def row_numbers(ids: Sequence[int] | None, rows: int) -> list[int]:
    """The numbers that rows are known by; by default they are counted."""
    ids = range(rows) if ids is None else ids
    sized = isinstance(ids, Sized)
    if not sized or len(ids) != rows:
        count = len(ids) if sized else "no"
        raise InputError(f"ids has {count} entries for {rows} prompts: give one whole number per prompt")
    return [KEY(i, f"ids[{at}]") for at, i in enumerate(ids)]


def _keys(seed: int, ids: Sequence[int] | None, rows: int) -> Array:
    numbers = np.array([number & 0xFFFFFFFF for number in row_numbers(ids, rows)], np.uint32)
    return row_keys(np.full(rows, SEED(seed, "seed") & 0x7FFFFFFF, np.int32), numbers)


def listed(prompts: Any) -> list[Any]:
    """The prompts as a list; one string is one prompt. Raises InputError where there is none."""
    if isinstance(prompts, str):
        return [prompts]
    try:
        listed_prompts = list(prompts)
    except TypeError:
        listed_prompts = []
    if not listed_prompts or isinstance(prompts, dict):
        raise InputError("prompts must be a string or a list with at least one prompt: decode(lm, ['...'])")
    return listed_prompts


def encode(lm: Any, prompt: Any, index: int, max_new: int, raw: bool, form: Form | None = None) -> np.ndarray:
    """Token ids of one prompt, or an InputError that names it. form: how a chat is written."""
    config, where = lm.config, f"prompt {index}"
    is_chat = isinstance(prompt, Sequence) and len(prompt) > 0 and isinstance(prompt[0], dict)
    if is_chat and raw:
        raise InputError(f"{where} is a chat, which needs the chat template: leave raw out, or pass a string")
    if isinstance(prompt, str) or is_chat:
        if lm.tokenizer is None:
            raise InputError(f"{where} is text and {lm.name} has no tokenizer: {lm.advice or 'pass token ids'}")
        ids = np.asarray(words_of(lm, prompt, raw, form, where), np.int64)
    else:
        try:
            ids = np.asarray(prompt)
        except (ValueError, OverflowError):  # rows of several lengths
            ids = np.zeros((0, 0), np.int64)
        if ids.ndim != 1 or not ids.size:
            raise InputError(f"{where} is empty or nested: pass a string, a list of token ids, or a list of messages")
        if not np.issubdtype(ids.dtype, np.integer):
            raise InputError(f"{where} holds {ids.dtype} values: token ids are whole numbers")
        if form is not None and form.stated:
            raise InputError(f"{where} is token ids, which no chat template reads: leave {form.stated[0]} out")
    wrong = ids[(ids < 0) | (ids >= config.vocab_size)]
    if wrong.size:
        spelled = lm.tokenizer.literal(int(wrong[0])) if isinstance(prompt, str) or is_chat else None
        cause = "" if spelled is None else f": the model has no embedding for {spelled!r:.60}, leave it out"
        raise InputError(f"{where} holds token id {wrong[0]}, outside the vocabulary 0..{config.vocab_size - 1}{cause}")
    if ids.size + max_new > config.max_position:
        raise InputError(
            f"{where} has {ids.size} tokens; with max_new={max_new} that is more than the {config.max_position} "
            f"positions of {lm.name}: shorten the prompt or lower max_new"
        )
    return ids.astype(np.int32)


def words_of(lm: Any, prompt: Any, raw: bool, form: Form | None = None, where: str | None = None) -> list[int]:
    """Token ids of a text or a chat. An empty text is what every text begins with, where no chat template is asked for more.
    where: names the prompt in errors."""
    if not isinstance(prompt, str) or prompt.strip():
        settings: dict[str, Any] = {} if form is None else {"form": form}
        try:
            return list(lm.tokenizer.encode_prompt(prompt, raw=raw, **settings))
        except InputError as error:
            raise InputError(str(error) if where is None else f"{where}: {error}") from None
    tokenizer, where = lm.tokenizer, where or "the prompt"
    if prompt or not (raw or tokenizer.template is None):
        hint = "" if prompt else ", or pass raw=True to go on from nothing"
        raise InputError(f"{where} is empty: write at least one word{hint}")
    begin = lm.config.tokens.bos if tokenizer.bos is None else tokenizer.bos
    ids = tokenizer.front or ([] if begin is None else [begin])
    if not ids:
        raise InputError(f"{where} is empty, and {lm.name} has no token that begins a text: write at least one word")
    return list(ids)


def prefilled(lm: Any, canvas: Any, rows: int, max_new: int) -> list[np.ndarray]:
    """The canvases to start from: all masks, or the given ids and then masks."""
    config = lm.config
    blank = np.full(max_new, _mask(config), np.int32)
    if canvas is None:
        return [blank] * rows
    if config.noise == "uniform":
        raise InputError(f"{lm.name} has no mask token to mark what is open: leave canvas and infill out")
    if len(canvas) != rows:
        raise InputError(f"canvas has {len(canvas)} rows for {rows} prompts: give one per prompt")
    filled = []
    for index, row in enumerate(canvas):
        ids = _integers(row)
        if ids is None or ids.size > max_new or (ids.size and (ids.min() < 0 or ids.max() >= config.vocab_size)):
            raise InputError(f"canvas row {index} must hold at most max_new={max_new} ids of the vocabulary")
        filled.append(np.concatenate([ids.astype(np.int32), blank[ids.size :]]))
    return filled


def _integers(row: Any) -> np.ndarray | None:
    """Token ids as an array, or None where they are no list of whole numbers."""
    try:
        ids = np.asarray(row)
    except (ValueError, OverflowError):
        return None
    return ids if ids.ndim == 1 and (ids.dtype.kind in "iu" or not ids.size) else None


def split_at_masks(lm: Any, prompts: Sequence[Any], canvas: Any) -> tuple[list[Any], list[Any], int]:
    """(what stands before the first mask, the rest, the longest rest) of prompts that hold masks."""
    if canvas is not None:
        raise InputError("infill=True takes the canvas from the prompts: leave canvas out")
    heads, rests = [], []
    for index, prompt in enumerate(prompts):
        ids = _integers(prompt)
        masks = np.array([]) if ids is None else np.flatnonzero(ids == _mask(lm.config))
        if ids is None or not masks.size or masks[0] == 0:
            raise InputError(
                f"prompt {index}: infill=True needs token ids that hold the mask id {_mask(lm.config)} after at least "
                "one known token"
            )
        heads.append(ids[: masks[0]])
        rests.append(ids[masks[0] :])
    return heads, rests, max((len(rest) for rest in rests), default=1)


def lay_out_rows(
    lm: Any, prompts: Sequence[Any], *, max_new: int, seed: int, ids: Any, raw: bool,
    stops: Sequence[Sequence[Sequence[int]]] | None = None, guides: Sequence[PyTree] | None = None,
) -> tuple[draft_state.Rows, int]:  # fmt: skip
    """(rows, columns of the prompt bucket): prompts from column 0, then room for max_new tokens."""
    max_new = COUNT(max_new, "max_new")
    texts = [encode(lm, prompt, index, max_new, raw) for index, prompt in enumerate(prompts)]
    return arrange_rows(lm, texts, max_new=max_new, seed=seed, ids=ids, stops=stops, guides=guides)


def arrange_rows(
    lm: Any, texts: Sequence[np.ndarray], *, max_new: int, seed: int, ids: Any,
    stops: Sequence[Sequence[Sequence[int]]] | None = None, guides: Sequence[PyTree] | None = None,
    numbers: Sequence[Mapping[str, Any]] = (), prefix: Sequence[np.ndarray] | None = None,
) -> tuple[draft_state.Rows, int]:  # fmt: skip
    """`lay_out_rows` of token ids. guides: what each row brings for the policy's guide (`Context.own`), all of one
    shape: `Tables` of one bucket, say. numbers: of each row's own distribution, by the same names. prefix: embeddings of the
    columns whose token is -1."""
    bucket = bucket_of(max(len(text) for text in texts))
    tokens = np.full((len(texts), bucket + max_new), lm.config.tokens.pad, np.int32)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = text
    start = np.array([len(text) for text in texts], np.int32)
    zero = np.zeros(len(texts), np.int32)
    rows = draft_state.Rows(
        tokens=tokens, length=start, start=start, stop=start + np.int32(max_new), key=_keys(seed, ids, len(texts)),
        done=np.zeros(len(texts), bool), status=zero, step=zero, draft_step=zero, drafted=zero, accepted=zero,
        ends=packed(stops), guide=stacked(guides), sampling=columns_of(numbers),
        prefix=None if prefix is None else prefixes.stacked(prefix, bucket_of(max(map(len, prefix)))),
    )  # fmt: skip
    return jax.device_put(rows), bucket
