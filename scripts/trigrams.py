"""Counts which token follows two in a corpus, for the drafts of `aded`; with --longest all n-grams, for `superposed`.

    python scripts/trigrams.py answers.jsonl notes.txt --model smollm2 --output table.safetensors
    jaxdlm generate --model smollm2 --policy aded,table=table.safetensors "..."
    python scripts/trigrams.py notes.txt --model smollm2 --longest 6 --output grams.safetensors
    jaxdlm generate --model smollm2 --policy superposed,table=grams.safetensors --max-new 10 "..."

FILE: text, read as one text; or .jsonl, a text per line, in the field `text`. Texts of the kind that the model writes are
worth most, such as its own answers. The table holds the words of the model's tokenizer, and is refused by any other.
"""

import argparse
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import jaxdlm as jd
from jaxdlm.errors import InputError


def texts(files: list[pathlib.Path]) -> Iterator[str]:
    """The texts of all files. Raises InputError for what cannot be read."""
    from jaxdlm.checkpoint import strict_json

    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{file}: cannot be read as text ({getattr(error, 'strerror', None) or 'no UTF-8'})"
            ) from None
        if file.suffix != ".jsonl":
            yield text
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            row = strict_json.parse(line.encode(), file) if line.strip() else {"text": ""}
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                raise InputError(f"{file}, line {number}: must be an object with a string `text`")
            yield row["text"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--model", required=True, help="a name or folder that jaxdlm.load reads; its tokenizer counts")
    parser.add_argument("--output", required=True, type=pathlib.Path, metavar="TABLE")
    parser.add_argument("--longest", type=int, metavar="N", help="count all n-grams of 2 to N tokens, for `superposed`")
    args = parser.parse_args()
    try:
        made = counted(jd.load(args.model), args)
    except InputError as error:
        print(f"trigrams: {error}", file=sys.stderr)
        return 2
    print(f"{made}, {args.output.stat().st_size} bytes: {args.output}")
    return 0


def counted(lm: Any, args: argparse.Namespace) -> str:
    """What is in the file that is written."""
    if args.longest is not None:
        grams = jd.speculative.count_ngrams(lm, texts(args.files), args.longest)
        grams.save(args.output)
        return f"{grams.grams.token.shape[0]} n-grams"
    table = jd.speculative.count_trigrams(lm, texts(args.files))
    table.save(args.output)
    return f"{table.grams.second.shape[0]} keys, {table.grams.token.shape[0]} successors"


if __name__ == "__main__":
    raise SystemExit(main())
