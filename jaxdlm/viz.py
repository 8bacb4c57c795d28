"""Draws a decoded Output: the denoising in a terminal, or as one page for the browser. Never touches the loop."""

import contextlib
import dataclasses
import html
import json
import pathlib
import re
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxdlm import argument
from jaxdlm.core.carry import Status
from jaxdlm.errors import InputError

PAGE = pathlib.Path(__file__).parent / "assets" / "trajectory.html"
HIDDEN = "░"
FRAMES = 8  # shown where the output is no terminal
PACE = 0.12  # seconds


@dataclasses.dataclass(frozen=True)
class Path:
    """How one row came to its answer.

    Attributes:
        pieces: text of each generated column.
        control: columns that hold end of text or another control token.
        step: forward (0-based) at which each column got its token; -1 where it never did.
        confidence: the rule's score of each column when it was committed, or None.
        forwards: model forwards of the row.
        tokens: columns up to and with the first end of text.
        prompt: words for the heading.
        status: words for the heading.
    """

    pieces: tuple[str, ...]
    control: tuple[bool, ...]
    step: tuple[int, ...]
    confidence: tuple[float, ...] | None
    forwards: int
    tokens: int
    prompt: str = ""
    status: str = ""

    @property
    def tokens_per_forward(self) -> float:
        return self.tokens / max(self.forwards, 1)


def path(out: Any, row: int = 0, *, tokenizer: Any = None, prompt: str = "", eos: Sequence[int] | None = None) -> Path:
    """The path of one row of an Output. Without a tokenizer the pieces are ids.

    Args:
        out: what `decode` returned.
        row: of its rows.
        tokenizer: in place of the output's own.
        prompt: words for the heading.
        eos: ids that end a text, in place of the output's own.

    Raises:
        InputError: out has no such row, or was decoded with save="none".

    Examples:
        >>> import jaxdlm as jd
        >>> out = jd.decode(jd.load("tiny"), ["reverse : [ Alan , Kate , Omar ]"], max_new=16, block=16)
        >>> path = jd.viz.path(out)
        >>> path.pieces[:3], path.tokens_per_forward
        (('[', ' Omar', ' ,'), 8.0)
    """
    row = argument.whole(0, len(out.tokens) - 1)(row, "row")
    tokenizer = getattr(out, "tokenizer", None) if tokenizer is None else tokenizer
    eos = getattr(out, "ends", ()) if eos is None else eos
    if out.commit_step is None:
        raise InputError('the output holds no trajectory: decode with save="commit"')
    ids = np.asarray(out.tokens[row]).tolist()
    pieces = [f"{token} " for token in ids] if tokenizer is None else tokenizer.pieces(ids)
    control = tokenizer.control if tokenizer is not None else frozenset(eos)
    return Path(
        pieces=tuple(pieces),
        control=tuple(token in control for token in ids),
        step=tuple(np.asarray(out.commit_step[row]).tolist()),
        confidence=_confidence(out.score, row),
        forwards=int(out.forwards[row]),
        tokens=count_tokens(ids, tokenizer.eos if tokenizer is not None else eos),
        prompt=prompt,
        status=str(out.status[row]),
    )


def _confidence(scores: Any, row: int) -> tuple[float, ...] | None:
    """Scores of a row; those of samplers by probability or entropy are logarithms (none above 0), shown as exp."""
    if scores is None:
        return None
    values = np.asarray(scores[row], np.float64)
    known = values[np.isfinite(values)]
    values = np.exp(values) if known.size and known.max() <= 0 else values
    return tuple(np.round(values, 6).tolist())


def count_tokens(ids: Sequence[int], eos: Sequence[int]) -> int:
    """Columns up to and with the first end of text: the end of a short answer must not count as speed.

    Examples:
        >>> import jaxdlm as jd
        >>> jd.viz.count_tokens([7, 8, 2, 2, 2], eos=[2])
        3
    """
    return next((column + 1 for column, token in enumerate(ids) if token in eos), len(ids))


def show(out: Any, row: int = 0, *, tokenizer: Any = None, prompt: str = "", eos: Sequence[int] | None = None) -> None:
    """Prints the final text of a row, every token in the colour of its confidence (of its step if there is none).

    Arguments as in `path`.

    Examples:
        >>> import jaxdlm as jd
        >>> out = jd.decode(jd.load("tiny"), ["reverse : [ Alan , Kate , Omar ]"], max_new=16, block=16)
        >>> jd.viz.show(out)
        [ Omar , Kate , Alan ]
        8 tokens in 1 forward = 8.00 tokens per forward, eos
    """
    from rich.console import Console

    drawn = path(out, row, tokenizer=tokenizer, prompt=prompt, eos=eos)
    console = Console()
    console.print(frame(drawn, drawn.forwards))
    console.print(summary(drawn), style="dim", highlight=False)


def watch(drawn: Path, *, console: Any = None, seconds: float = 4.0) -> None:
    """Replays the denoising up to the end of the text: live in a terminal (`seconds` long), else a few frames.

    Examples:
        >>> import jaxdlm as jd
        >>> out = jd.decode(jd.load("tiny"), ["reverse : [ Alan , Kate , Omar ]"], max_new=16, block=16)
        >>> jd.viz.watch(jd.viz.path(out))
        step   0 |  ░ ░ ░ ░ ░ ░ ░ ░
        step   1 | [ Omar , Kate , Alan ]
        8 tokens in 1 forward = 8.00 tokens per forward, eos
    """
    from rich.console import Console
    from rich.live import Live

    console = console or Console()
    last, drawn = max(drawn.forwards, 1), _head(drawn)
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            for step in range(last + 1):
                live.update(_panel(drawn, step), refresh=True)
                time.sleep(min(0.25, seconds / (last + 1)))
    else:
        for step in sorted({round(part * last / FRAMES) for part in range(FRAMES + 1)}):
            line = frame(drawn, step).plain.replace("\n", "⏎ ")
            console.print(f"step {step:>3} | {line.rstrip()}", markup=False, highlight=False, soft_wrap=True)
    console.print(summary(drawn), style="dim", highlight=False)


def follow(outputs: Iterable[Any], *, tokenizer: Any, prompts: Sequence[str], console: Any = None) -> Any:
    """The last Output of `jaxdlm.stream`, each one drawn as it comes: what the model has written so far.

    In a terminal a forward is shown for `PACE` seconds at least, so that the eye can follow a small model. Elsewhere a
    few frames are printed at the end.

    Examples:
        >>> import jaxdlm as jd
        >>> lm, prompts = jd.load("tiny"), ["reverse : [ Alan , Kate , Omar ]"]
        >>> outputs = jd.stream(lm, prompts, max_new=16, block=16)
        >>> out = jd.viz.follow(outputs, tokenizer=lm.tokenizer, prompts=prompts)
        step   0 |  ░ ░ ░ ░ ░ ░ ░ ░
        step   1 | [ Omar , Kate , Alan ]
        8 tokens in 1 forward = 8.00 tokens per forward, eos
        >>> out.text
        ['[ Omar , Kate , Alan ]']
    """
    from rich.console import Console
    from rich.live import Live

    console = console or Console()
    with Live(console=console, auto_refresh=False) if console.is_terminal else contextlib.nullcontext() as live:
        for out in outputs:
            if live is None:
                continue
            shown = time.monotonic()
            live.update(_canvases(out, tokenizer, prompts, console.height), refresh=True)
            time.sleep(max(0.0, PACE - (time.monotonic() - shown)))
    for row, prompt in enumerate(prompts):
        drawn = path(out, row, tokenizer=tokenizer, prompt=prompt)
        if live is None:
            watch(drawn, console=console)
        else:
            console.print(summary(drawn), style="dim", highlight=False)
    return out


def _canvases(out: Any, tokenizer: Any, prompts: Sequence[str], height: int):
    """The canvas of each row that fits the screen, and how far it is."""
    from rich.console import Group
    from rich.panel import Panel

    panels = []
    for row, prompt in enumerate(prompts[: max(1, height // 4)]):
        drawn = path(out, row, tokenizer=tokenizer, prompt=prompt)
        done = drawn.status != str(Status.RUNNING)
        title = f"{drawn.status} after forward {drawn.forwards}" if done else f"forward {drawn.forwards}"
        drawn = _head(drawn) if done else drawn
        panels.append(Panel(frame(drawn, drawn.forwards, open_=not done), title=title, title_align="left"))
    return Group(*panels)


def _head(drawn: Path) -> Path:
    """The columns up to the first end of text: what follows is filler, and would hide the answer."""
    end = drawn.tokens
    confidence = None if drawn.confidence is None else drawn.confidence[:end]
    return dataclasses.replace(
        drawn, pieces=drawn.pieces[:end], control=drawn.control[:end], step=drawn.step[:end], confidence=confidence
    )


def summary(drawn: Path) -> str:
    """forwards, tokens and tokens per forward in one line.

    Examples:
        >>> import jaxdlm as jd
        >>> out = jd.decode(jd.load("tiny"), ["reverse : [ Alan , Kate , Omar ]"], max_new=16, block=16)
        >>> jd.viz.summary(jd.viz.path(out))
        '8 tokens in 1 forward = 8.00 tokens per forward, eos'
    """
    forwards = "1 forward" if drawn.forwards == 1 else f"{drawn.forwards} forwards"
    return f"{drawn.tokens} tokens in {forwards} = {drawn.tokens_per_forward:.2f} tokens per forward" + (
        f", {drawn.status}" if drawn.status else ""
    )


def frame(drawn: Path, step: int, *, open_: bool = False):
    """The canvas after `step` forwards as rich Text: what was written before stands in colour, the rest is masked.

    Once every forward is done, control tokens are left out; open_: more forwards will come.

    Examples:
        >>> import jaxdlm as jd
        >>> out = jd.decode(jd.load("tiny"), ["reverse : [ Alan , Kate , Omar ]"], max_new=16, block=16)
        >>> print(jd.viz.frame(jd.viz.path(out), 1))
        [ Omar , Kate , Alan ]
    """
    from rich.text import Text

    text = Text()
    done = step >= drawn.forwards and not open_
    for piece, control, written, shade in zip(drawn.pieces, drawn.control, drawn.step, shades(drawn)):
        if not done and (written < 0 or written >= step):
            text.append(" " + HIDDEN, style="grey50")
        elif not control:
            fresh = written == step - 1 and not done
            text.append(piece, style=f"{'bold ' if fresh else ''}{_colour(shade)}")
        elif not done:
            text.append(" ·", style="grey50")
    return text


def shades(drawn: Path) -> list[float]:
    """0..1 per column: its confidence (rescaled if the scores are no probabilities), else how early it was written.

    Examples:
        >>> import jaxdlm as jd
        >>> out = jd.decode(jd.load("tiny"), ["reverse : [ Alan , Kate , Omar ]"], max_new=16, block=16)
        >>> [round(shade, 2) for shade in jd.viz.shades(jd.viz.path(out))[:4]]
        [1.0, 1.0, 1.0, 0.91]
    """
    if drawn.confidence is None:
        last = max(drawn.forwards - 1, 1)
        return [1 - step / last if step >= 0 else 0.0 for step in drawn.step]
    known = [score for score in drawn.confidence if np.isfinite(score)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    span = (high - low) or 1.0
    return [float(np.clip((score - low) / span, 0, 1)) if np.isfinite(score) else 0.0 for score in drawn.confidence]


def _colour(shade: float) -> str:
    """Red to green by way of yellow, legible on light and dark ground."""
    red, green = min(1.0, 2 * (1 - shade)), min(1.0, 2 * shade)
    return f"rgb({int(60 + 150 * red)},{int(60 + 110 * green)},60)"


def _panel(drawn: Path, step: int):
    from rich.panel import Panel

    return Panel(frame(drawn, step), title=f"forward {step} of {drawn.forwards}", title_align="left")


def write_html(paths: Sequence[Path], file: str | pathlib.Path, *, title: str = "jaxdlm") -> pathlib.Path:
    """One self-contained page for some rows: text with the step and confidence of every token, and a step slider.

    Nothing is loaded from elsewhere.

    Raises:
        InputError: the file cannot be written.

    Examples:
        >>> import jaxdlm as jd
        >>> out = jd.decode(jd.load("tiny"), ["reverse : [ Alan , Kate , Omar ]"], max_new=16, block=16)
        >>> jd.viz.write_html([jd.viz.path(out)], "denoising.html").name
        'denoising.html'
    """
    rows = [
        {
            "prompt": drawn.prompt,
            "status": drawn.status,
            "forwards": drawn.forwards,
            "tokens": drawn.tokens,
            "pieces": drawn.pieces,
            "control": drawn.control,
            "step": drawn.step,
            "shade": [round(shade, 3) for shade in shades(drawn)],
            "confidence": None if drawn.confidence is None else [_finite(score) for score in drawn.confidence],
        }
        for drawn in paths
    ]
    data = json.dumps(rows, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    page = PAGE.read_text(encoding="utf-8")
    filled = {"%TITLE%": html.escape(title), "%ROWS%": data}  # at once: what is filled in may look like a marker
    target = pathlib.Path(file)
    try:
        target.write_text(re.sub("%(TITLE|ROWS)%", lambda match: filled[match.group()], page), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file} cannot be written ({error.strerror}): choose another file") from None
    return target


def _finite(score: float) -> float | None:
    return score if np.isfinite(score) else None
