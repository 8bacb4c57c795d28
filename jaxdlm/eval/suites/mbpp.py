"""MBPP (arXiv 2108.07732): short programs from a sentence and three tests, run against these; pass@1 with one answer.

Problems 11 to 510 are the test set; three worked examples are 2, 3 and 4. The sanitized file is read too. The wording of the
request is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdlm import argument
from jaxdlm.errors import InputError
from jaxdlm.eval.suites import _code
from jaxdlm.eval.suites._base import ENDS, Asked, Item, Reading, Request, Suite, chat, cut
from jaxdlm.eval.suites._files import found, limited, needed, only, rows
from jaxdlm.eval.tasks.base import Score
from jaxdlm.registry import suite

SHOTS, COLUMNS = 3, 256
TEST, SHOWN = range(11, 511), range(2, 11)  # problems by number
DONE = "[DONE]"
SCHEMA = {"task_id": argument.whole(0), "code": argument.text, "test_list": argument.listed(argument.text)}
ASK = "{}\nThe code must pass these tests:\n{}\nAnswer with the program in a ```python block."


def program(text: str) -> str:
    return _code.longest(_code.fenced(cut(text, (DONE,))))


def grade(payload: Mapping[str, Any], text: str) -> Score:
    return _code.grade(program(text), payload["tests"])


def _asked(row: Mapping[str, Any], where: str) -> str:
    said = row.get("text") or row.get("prompt")
    if not isinstance(said, str):
        raise InputError(f"{where}: task {row['task_id']} has no text: copy the file again")
    return ASK.format(said.strip(), "\n".join(row["test_list"]))


def _tests(row: Mapping[str, Any]) -> str:
    """What is imported or set up for the tests, then these."""
    setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or ())
    return "\n".join([setup, *row["test_list"]])


def read(request: Request) -> Reading:
    """The test problems in their order."""
    only(request, ("mbpp",))
    count = SHOTS if request.shots is None else request.shots
    names = ("mbpp", "sanitized-mbpp", "test", "full/test", "sanitized/test")
    paths = needed(request, names)
    values = [row for path in paths for row in rows(path, SCHEMA)]
    more = [row for path in found(request, ("prompt", "full/prompt", "sanitized/prompt")) for row in rows(path, SCHEMA)]
    where = str(paths[0])
    shots = _shots(count, [*values, *more], where)
    asked = [row for row in values if row["task_id"] in TEST]
    if not asked:
        raise InputError(f"{where} has none of the problems {TEST.start} to {TEST.stop - 1}: give the whole file")
    items = [
        Item(f"mbpp-{row['task_id']}", chat(shots, _asked(row, where)), row["code"], {"tests": _tests(row)})
        for row in limited(asked, request)
    ]
    return Reading([Asked("mbpp", items, COLUMNS, grade, (DONE, *ENDS))])


def _shots(count: int, values: Sequence[Mapping[str, Any]], where: str) -> list[tuple[str, str]]:
    shown = sorted((row for row in values if row["task_id"] in SHOWN), key=lambda row: row["task_id"])
    if len(shown) < count:
        raise InputError(
            f"--shots {count}: {where} and prompt.* have {len(shown)} of the problems {SHOWN.start} to {SHOWN.stop - 1}, which "
            f"are the worked examples: add them, or --shots {len(shown)}"
        )
    return [(_asked(row, where), f"```python\n{row['code'].strip()}\n```") for row in shown[:count]]


SUITE = suite(
    Suite(
        "mbpp", "2108.07732", "short programs from a sentence and three tests",
        "`mbpp.jsonl`, `sanitized-mbpp.json`, or `full/test`, `full/prompt` in Parquet", read, shots=SHOTS,
        runs_code=True, order=60,
    )
)  # fmt: skip
