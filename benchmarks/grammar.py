"""Time to compile grammars for a vocabulary as wide as LLaDA's, fresh and from the folder of caches.

    python benchmarks/grammar.py --rounds 5

The vocabulary, a byte-level BPE of up to 126,464 tokens, is trained here on the source of Python's own library (about a
minute). Prints a JSON object: the tokens, the seconds in which their bytes are read off the tokenizer (once per process),
and per grammar its states, classes and live entries, these by pairs of states and members of their groups, the seconds fresh
and from its file (medians of the rounds, nothing in memory), their ratio, and the seconds from memory.
"""

import argparse
import json
import os
import statistics
import sysconfig
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from jaxdlm import grammar, text
from jaxdlm.grammar import spelling, store
from jaxdlm.models.config import TokenIds

FIELDS = {
    "name": {"type": "string", "maxLength": 40}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
    "city": {"type": "string"}, "active": {"type": "boolean"}, "kind": {"enum": ["person", "company", "other"]},
    "tags": {"type": "array", "items": {"type": "string"}},
}  # fmt: skip
SIX = {"type": "object", "properties": FIELDS, "required": list(FIELDS)}
TWENTY = {
    "type": "object",
    "properties": {f"field_{i}": list(FIELDS.values())[1 + i % 5] for i in range(20)},
    "required": [f"field_{i}" for i in range(20)],
}
GRAMMARS: dict[str, Callable[[Any], grammar.Grammar]] = {
    "4 choices": lambda lm: grammar.choices(["positive", "negative", "neutral", "not sure"], lm),
    "5,000 choices": lambda lm: grammar.choices(map(str, range(5000)), lm),
    "date-time": lambda lm: grammar.json_schema({"type": "string", "format": "date-time"}, lm),
    "schema, 6 fields, one maxLength 40": lambda lm: grammar.json_schema(SIX, lm),
    "schema, 20 fields": lambda lm: grammar.json_schema(TWENTY, lm),
    "JSON, depth 1": lambda lm: grammar.json(lm, 1),
    "JSON, depth 3": lambda lm: grammar.json(lm, 3),
    "JSON, depth 5": lambda lm: grammar.json(lm, 5),
    "maxLength 400": lambda lm: grammar.json_schema({"type": "string", "maxLength": 400}, lm),
}


def source() -> Iterator[str]:
    """The text of Python's own library."""
    for file in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" not in file.parts:
            yield file.read_text(errors="ignore")


def model(size: int, folder: Path) -> Any:
    """A byte-level tokenizer trained on that, in a model without weights."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size - 2, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(source(), trainer)
    tokenizer.add_special_tokens([AddedToken(each, special=True) for each in ("<mask>", "<eos>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>", "mask_token": "<mask>"}))
    made = text.Tokenizer.from_folder(folder)
    assert made is not None
    config = types.SimpleNamespace(vocab_size=size, tokens=TokenIds(eos=made.eos, mask=tokenizer.token_to_id("<mask>")))
    return types.SimpleNamespace(tokenizer=made, config=config)


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    made = work()
    return time.perf_counter() - begin, made


def measured(make: Callable[[], grammar.Grammar], rounds: int) -> dict[str, Any]:
    """Fresh, from the file and from memory."""
    fresh, kept = [], []
    for _ in range(rounds):
        for file in (store.folder() or Path()).glob("*.npz"):
            file.unlink()
        store.forget()
        fresh.append(seconds(make)[0])
        store.forget()
        kept.append(seconds(make)[0])
    again, made = seconds(make)
    fresh_s, kept_s = statistics.median(fresh), statistics.median(kept)
    return {
        "states": made.states, "classes": made.number_of_classes, "live": int((made.next > 0).sum()),
        "pairs": made.arcs.source.size, "members": made.arcs.symbol.size,
        "fresh_s": round(fresh_s, 3), "file_s": round(kept_s, 4), "file/fresh": round(kept_s / fresh_s, 4),
        "memory_s": round(again, 5),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Time to compile grammars.")
    parser.add_argument("--vocab", type=int, default=126_464)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAXDLM_COMPILE_CACHE"] = folder
        store.folder()  # brings JAX, which is no part of what is measured
        lm = model(args.vocab, Path(folder))
        letters, _ = seconds(lambda: spelling.spelling_of(lm))
        report = {"tokens": lm.tokenizer.size, "vocabulary": args.vocab, "letters_s": round(letters, 2)}
        report["grammars"] = {
            name: measured(lambda make=make: make(lm), args.rounds) for name, make in GRAMMARS.items()
        }
        print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
