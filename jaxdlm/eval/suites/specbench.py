"""Spec-Bench (arXiv 2401.07851): 480 questions in six kinds for draft methods; nothing is graded.

Read from `question.jsonl`. Chats of two turns go on from what one token per forward wrote, under every method.
"""

from __future__ import annotations

from typing import Any

from jaxdlm import argument
from jaxdlm.errors import InputError
from jaxdlm.eval.suites._base import Asked, Item, Reading, Request, Suite, user
from jaxdlm.eval.suites._files import limited, needed, only, rows
from jaxdlm.registry import suite

CHAT = "multi_turn"
OF_CHATS = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
KINDS = (CHAT, "translation", "summarization", "qa", "math_reasoning", "rag")
COLUMNS = 1024  # new tokens of the paper
SCHEMA = {"category": argument.one_of(*OF_CHATS, *KINDS[1:]), "turns": argument.listed(argument.text)}


def read(request: Request) -> Reading:
    """The questions of each kind, in the order of the file."""
    if request.shots is not None:
        raise InputError("--shots means nothing for specbench: its questions stand alone")
    by_kind: dict[str, list[Item]] = {name: [] for name in KINDS}
    for path in needed(request, ("question", "data/spec_bench/question")):
        for number, value in enumerate(rows(path, SCHEMA), 1):
            if not value["turns"]:
                raise InputError(f"{path}: line {number} turns is empty: copy the file again")
            kind = CHAT if value["category"] in OF_CHATS else value["category"]
            by_kind[kind].append(_item(kind, len(by_kind[kind]), value))
    tasks = [Asked(name, limited(by_kind[name], request), COLUMNS) for name in only(request, KINDS) if by_kind[name]]
    left_out = {name: "the file has no question of this kind" for name in only(request, KINDS) if not by_kind[name]}
    return Reading(tasks, left_out)


def _item(kind: str, index: int, value: dict[str, Any]) -> Item:
    first, *later = value["turns"]
    return Item(f"{kind}-{index}", (user(first),), "", {}, tuple(later))


SUITE = suite(
    Suite(
        "specbench",
        "2401.07851",
        "tokens per target forward and drafts accepted, by kind of question",
        "`question.jsonl` of hemingkx/Spec-Bench; or its checkout",
        read,
        drafts=True,
        order=20,
    )
)
