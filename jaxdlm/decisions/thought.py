"""Text that the model writes about a row before it is asked: the questions are then put behind it."""

from collections.abc import Sequence
from typing import Any

from jaxdlm._decode import decode
from jaxdlm.decisions.questions import Question
from jaxdlm.decisions.render import is_ids, put, words
from jaxdlm.errors import InputError

THINK = "Before you answer, say in a few sentences what speaks for which answer."


def think(
    lm: Any, states: Sequence[Any], questions: Sequence[Sequence[Question]], tokens: int, *, seed: int, ids: Sequence[int],
    batch: int,
) -> tuple[list[Any], list[str]]:  # fmt: skip
    """(what is decided about, the thoughts): up to so many tokens for each row, by the model's own policy, in programs of
    `batch` rows, so that a thought depends on its row alone; all readings and draws of a row share it. A row whose thought
    is empty stays as it is.

    Raises InputError for token ids, and for what `decode` refuses.
    """
    asked = []
    for row, (state, own) in enumerate(zip(states, questions, strict=True)):
        if is_ids(state):
            raise InputError(f"row {row} is token ids, and think= writes text: pass text or a chat")
        parts = [] if lm.tokenizer is None or lm.tokenizer.closed else [*(words(q.instructions) for q in own), THINK]
        asked.append(put(state, lambda text, parts=parts: "\n\n".join(filter(None, [text, *parts])), f"row {row}"))
    out = decode(lm, asked, max_new=tokens, seed=seed, ids=ids, save="none", rows_per_program=batch)
    thoughts = [text.strip() for text in out.text or ()]
    pairs = zip(states, asked, thoughts, strict=True)
    return [_behind(lm, question, thought) if thought else state for state, question, thought in pairs], thoughts


def _behind(lm: Any, asked: Any, thought: str) -> Any:
    """A chat in which the model has said so, or one text."""
    if isinstance(asked, str) and lm.tokenizer.template is None:
        return f"{asked}\n{thought}"
    chat = [{"role": "user", "content": asked}] if isinstance(asked, str) else list(asked)
    return [*chat, {"role": "assistant", "content": thought}]
