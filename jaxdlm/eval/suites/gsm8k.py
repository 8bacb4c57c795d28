"""GSM8K (arXiv 2110.14168): word problems with a number as the answer, from `test.jsonl` or the Parquet files.

Five worked examples, the first of the training file, as turns of a chat. strict: the first `#### n`; right: the last number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jaxdlm import argument
from jaxdlm.errors import InputError
from jaxdlm.eval.suites._base import ENDS, Asked, Item, Reading, Request, Suite, chat, exactly
from jaxdlm.eval.suites._files import limited, needed, only, rows, worked
from jaxdlm.eval.tasks.base import Score
from jaxdlm.registry import suite

SHOTS, COLUMNS = 5, 256
STRICT = re.compile(r"#### (-?[0-9.,]+)")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
SCHEMA = {"question": argument.text, "answer": argument.text}


def number(text: str) -> str:
    """Digits as they are compared: without `,`, `$` and a final `.`."""
    return re.sub(r"[,$]", "", text).removesuffix(".")


def extract(text: str) -> tuple[str | None, str | None]:
    """(number after the first `####`, last number of the text)."""
    strict, flexible = STRICT.search(text), FLEXIBLE.findall(text)
    last = next(filter(None, flexible[-1])) if flexible else None
    return strict and number(strict[1]), None if last is None else number(last)


def grade(payload: Mapping[str, Any], text: str) -> Score:
    """Right: the last number is the answer; strict: the one after `####` is."""
    strict, flexible = extract(text)
    return exactly(flexible == payload["answer"], strict == payload["answer"], flexible is not None)


def _asked(row: Mapping[str, Any]) -> str:
    return f"Question: {row['question']}\nAnswer:"


def read(request: Request) -> Reading:
    """The test problems."""
    only(request, ("gsm8k",))
    count = SHOTS if request.shots is None else request.shots
    values = [row for path in needed(request, ("test", "main/test")) for row in rows(path, SCHEMA)]
    shots = [(_asked(row), row["answer"]) for row in worked(count, ("train", "main/train"), request, SCHEMA)]
    items = []
    for index, row in enumerate(limited(values, request)):
        _, mark, gold = row["answer"].rpartition("####")
        if not mark:
            raise InputError(f"--data {request.data}: test row {index + 1} answer has no ####: copy the file again")
        items.append(Item(f"gsm8k-{index}", chat(shots, _asked(row)), row["answer"], {"answer": number(gold.strip())}))
    return Reading([Asked("gsm8k", items, COLUMNS, grade, ("Question:", "Q:", *ENDS))])


SUITE = suite(
    Suite(
        "gsm8k", "2110.14168", "word problems with a number as the answer",
        "`test`, `train` (also below `main/`), as JSON lines or Parquet", read, shots=SHOTS, order=30,
    )
)  # fmt: skip
