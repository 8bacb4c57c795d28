r"""MATH (arXiv 2103.03874): competition problems with `\boxed` answers, from its folders of JSON, Parquet files or MATH-500.

Four worked examples, the first of the training files, as turns of a chat. Answers are compared as normalised text; where the
extra `math` is installed, also by math_verify, which knows that two forms are one number. The tables say which of both.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdlm import argument, distribution
from jaxdlm.errors import InputError
from jaxdlm.eval.suites._base import ENDS, Asked, Item, Reading, Request, Suite, chat, exactly
from jaxdlm.eval.suites._files import limited, needed, only, rows, worked
from jaxdlm.eval.tasks.base import Score
from jaxdlm.registry import suite

SHOTS, COLUMNS = 4, 512
SCHEMA = {"problem": argument.text, "solution": argument.text}
FINAL = re.compile(r"[Ff]inal [Aa]nswer is:?(.*?)(?:\.?\s*I hope it is correct|\n|$)", re.DOTALL)
UNITS = ("degrees", "cm", "meters", "inches", "feet", "dollars", "square", "units", "cents", "percent")
DROPPED = (r"\left", r"\right", r"\!", r"\,", r"\;", r"\:", r"\$", r"\%", "$", "%", r"^\circ", r"^{\circ}", " ")


def boxed(text: str) -> str | None:
    r"""What the last `\boxed{...}` or `\fbox{...}` holds, braces balanced; None where there is none."""
    starts = [match.end() for match in re.finditer(r"\\f?boxed?\s*\{", text)]
    if not starts:
        return None
    depth = 1
    for place in range(starts[-1], len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[starts[-1] : place].strip()
    return None


def normal(text: str) -> str:
    """One way to write an answer: no units, no spaces, no thousands, `frac12` as `frac{1}{2}`."""
    text = text.strip().removesuffix(".")
    text = re.sub(r"\\(?:text|mbox|textbf|mathrm)\s*\{([^{}]*)\}", lambda m: _unit(m[1]), text)
    text = re.sub(rf"\b(?:{'|'.join(UNITS)})\b", "", text)
    for piece in DROPPED:
        text = text.replace(piece, "")
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    text = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac(\d)\{", r"\\frac{\1}{", text)
    text = re.sub(r"\\sqrt(\w)", r"\\sqrt{\1}", text)
    text = re.sub(r"^[a-zA-Z]=", "", text)
    if re.fullmatch(r"-?\d{1,3}(,\d{3})+(\.\d+)?", text):
        text = text.replace(",", "")
    return "0" + text if text.startswith(".") else text


def _unit(words: str) -> str:
    return "" if words.strip() in UNITS else words


def extract(text: str) -> tuple[str | None, str | None]:
    """(what stands behind "the final answer is", the last boxed answer or else that)."""
    stated = FINAL.findall(text)
    final = stated[-1].strip().strip("$") if stated else None
    in_box = boxed(text)
    return final, in_box if in_box is not None else final


def verifies() -> bool:
    return importlib.util.find_spec("math_verify") is not None


def equal(answer: str, gold: str) -> bool:
    """The same text when normalised, or the same to math_verify where it is installed."""
    if normal(answer) == normal(gold):
        return True
    if not verifies():
        return False
    from math_verify import parse, verify

    return bool(verify(parse(f"${gold}$"), parse(f"${answer}$")))


def grade(payload: Mapping[str, Any], text: str) -> Score:
    """Right: the boxed answer, or else the stated one, equals the solution's; strict: as normalised text."""
    _, answer = extract(text)
    if answer is None:
        return exactly(False, False, False)
    return exactly(equal(answer, payload["answer"]), normal(answer) == normal(payload["answer"]), True)


def _asked(row: Mapping[str, Any]) -> str:
    return f"Problem: {row['problem']}\nEnd with the answer in \\boxed{{}}."


def read(request: Request) -> Reading:
    """The test problems, all subjects together."""
    only(request, ("math",))
    count = SHOTS if request.shots is None else request.shots
    values = _all(request, ("test", "*/test", "test/*/*", "test/*", "MATH/test/*/*"))
    shots = worked(count, ("train", "*/train", "train/*/*", "train/*", "MATH/train/*/*"), request, SCHEMA)
    items = []
    for index, row in enumerate(limited(values, request)):
        gold = row["answer"] if isinstance(row.get("answer"), str) else boxed(row["solution"])
        if gold is None:
            raise InputError(
                f"--data {request.data}: test problem {index + 1} solution has no \\boxed answer: copy it again"
            )
        messages = chat([(_asked(shot), shot["solution"]) for shot in shots], _asked(row))
        items.append(Item(f"math-{index}", messages, row["solution"], {"answer": gold}))
    how = (
        "math_verify"
        if verifies()
        else f"normalised text alone; math_verify, which knows more forms: {distribution.install('math')}"
    )
    return Reading([Asked("math", items, COLUMNS, grade, ("Problem:", *ENDS))], {}, [f"answers are compared by {how}"])


def _all(request: Request, names: Sequence[str]) -> list[dict[str, Any]]:
    return [row for path in needed(request, names) for row in rows(path, SCHEMA)]


SUITE = suite(
    Suite(
        "math", "2103.03874", "competition problems with a boxed answer",
        "`test/SUBJECT/*.json`, `SUBJECT/test` in Parquet, or MATH-500's `test.jsonl`; `train` likewise", read,
        shots=SHOTS, order=40,
    )
)  # fmt: skip
