"""HumanEval (arXiv 2107.03374): functions from their heads and descriptions, run against tests; pass@1 with one answer.

An answer is the text of its first fence behind the problem's own lines, of which the longest part that parses is kept, and
of that what the function needs. The wording of the request is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxdlm import argument
from jaxdlm.errors import InputError
from jaxdlm.eval.suites import _code
from jaxdlm.eval.suites._base import Asked, Item, Reading, Request, Suite, chat
from jaxdlm.eval.suites._files import limited, needed, only, rows
from jaxdlm.eval.tasks.base import Score
from jaxdlm.registry import suite

COLUMNS = 256
SCHEMA = dict.fromkeys(("task_id", "prompt", "entry_point", "test", "canonical_solution"), argument.text)
ASK = (
    "Write the rest of this Python function. Answer with the whole function in a ```python block.\n\n```python\n{}\n```"
)


def program(payload: Mapping[str, Any], text: str) -> str:
    """The function of an answer: behind the problem's own lines, since an answer may begin with the body."""
    whole = payload["prompt"].rstrip() + "\n" + _code.fenced(text)
    return _code.reached(_code.longest(whole), payload["entry_point"])


def grade(payload: Mapping[str, Any], text: str) -> Score:
    return _code.grade(program(payload, text), f"{payload['test']}\ncheck({payload['entry_point']})")


def read(request: Request) -> Reading:
    """The problems in their order."""
    only(request, ("humaneval",))
    if request.shots:
        raise InputError("--shots: HumanEval has no training problems; leave it out")
    names = ("HumanEval", "human-eval*", "data/HumanEval", "test", "openai_humaneval/test")
    values = [row for path in needed(request, names) for row in rows(path, SCHEMA)]
    items = []
    for row in limited(values, request):
        payload = {name: row[name] for name in ("prompt", "entry_point", "test")}
        messages = chat([], ASK.format(row["prompt"].rstrip()))
        items.append(Item(row["task_id"], messages, row["canonical_solution"], payload))
    return Reading([Asked("humaneval", items, COLUMNS, grade)])


SUITE = suite(
    Suite(
        "humaneval", "2107.03374", "functions from their heads, run against tests",
        "`HumanEval.jsonl.gz`, or `test` in Parquet", read, shots=0, runs_code=True, order=50,
    )
)  # fmt: skip
