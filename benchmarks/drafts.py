"""Target forwards that drafters without a model need for texts that a real model wrote: each is run against the known text.

    python benchmarks/drafts.py --policies "lookup,k=8" "aded,search=best,depth=8,backoff=0.1" aggressive
    python benchmarks/drafts.py --each 1 --verify --policies aggressive

The model answers the prompts once, greedily, and the texts are kept in --texts. Greedy drafting is lossless, so that a policy's
rounds follow from the text alone: draft, keep what the text reads, add one token. --verify decodes by the policy as well, and
exits with 1 where its tokens or its forwards differ from that.
"""

import argparse
import collections
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxdlm as jd
from jaxdlm.eval import prompts
from jaxdlm.speculative import loop
from jaxdlm.speculative.state import Rows, Verdict


class Text(NamedTuple):
    kind: str
    prompt: list[int]
    answer: list[int]


def texts(lm: Any, each: int, max_new: int, rows: int, file: pathlib.Path | None) -> list[Text]:
    """Greedy answers to the first `each` prompts of each kind, by length."""
    if file is not None and file.is_file():
        return [Text(*fields) for fields in json.loads(file.read_text())]
    asked = sorted(
        ((p.kind, list(lm.tokenizer.encode_prompt(p.messages))) for p in prompts.of_each(each)),
        key=lambda each: len(each[1]),
    )
    made = []
    for at in range(0, len(asked), rows):
        part = asked[at : at + rows]
        out = jd.decode(lm, [prompt for _, prompt in part], "autoregressive", max_new=max_new, save="none")
        for (kind, prompt), answer, count in zip(part, out.tokens, out.forwards, strict=True):
            made.append(Text(kind, prompt, answer[: int(count)].tolist()))
    if file is not None:
        file.write_text(json.dumps(made))
    return made


def replay(policy: Any, part: Sequence[Text], max_new: int) -> np.ndarray:
    """Rounds of each row."""
    drafter, count = policy.drafter, len(part)
    columns = max(len(text.prompt) for text in part) + max_new
    full = np.zeros((count, columns), np.int32)
    start = np.array([len(text.prompt) for text in part])
    stop = start + np.array([min(len(text.answer), max_new) for text in part])
    for row, text in enumerate(part):
        full[row, : stop[row]] = [*text.prompt, *text.answer][: stop[row]]
    blank, length, rounds = jnp.zeros(count, jnp.int32), start.copy(), np.zeros(count, int)

    def rows() -> Rows:
        known = np.where(np.arange(columns)[None] < length[:, None], full, 0)
        sizes = (jnp.asarray(each, jnp.int32) for each in (length, start, stop))
        return Rows(jnp.asarray(known), *sizes, jax.random.split(jax.random.key(0), count), blank > 0, *[blank] * 5)

    propose, observe = jax.jit(drafter.propose), jax.jit(drafter.observe)
    state = jax.jit(drafter.init, static_argnums=1)(rows(), columns - max_new)
    while (live := length < stop).any():
        now = rows()
        proposal, drafting = propose(state, now, loop.stage_keys(now, loop.DRAFT))
        path, taken = walk(loop.bounded(proposal, now), full, length)
        bonus = full[np.arange(count), np.minimum(length + taken, columns - 1)]
        verdict = Verdict(*map(jnp.asarray, (path, taken, bonus, np.ones(count, bool))))
        state = observe(drafting, now, proposal, verdict)
        rounds += live
        length = np.where(live, np.minimum(length + taken + 1, stop), length)
    return rounds


def walk(proposal: Any, full: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(path, nodes of it) of each row, as far as its draft reads as the text."""
    token, valid = np.asarray(proposal.token), np.asarray(proposal.valid)
    static = proposal.parent is None
    parent = np.broadcast_to(np.asarray(proposal.tree.parent if static else proposal.parent), token.shape)
    path, taken = np.zeros((len(length), proposal.tree.depth), np.int32), np.zeros(len(length), np.int32)
    for row, at in enumerate(length):
        node = -1
        while at + taken[row] < full.shape[1] and taken[row] < path.shape[1]:
            here = np.flatnonzero(valid[row] & (parent[row] == node) & (token[row] == full[row, at + taken[row]]))
            if not here.size:
                break
            node = path[row, taken[row]] = here[0]
            taken[row] += 1
    return path, taken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--policies", nargs="+", default=["lookup,k=8", "aded", "aggressive"])
    for name, value in (("max-new", 48), ("each", 8), ("rows", 16)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--texts", type=pathlib.Path, metavar="FILE", help="where the answers are, or go to")
    parser.add_argument("--verify", action="store_true", help="decode by each policy, too")
    args = parser.parse_args()
    lm = jd.load(args.model, dtype="float32") if args.verify or not (args.texts and args.texts.is_file()) else None
    known = texts(lm, args.each, args.max_new, args.rows, args.texts)
    kinds, wrong = sorted({text.kind for text in known}), 0
    print(
        f"tokens per target forward, {len(known)} prompts, max_new {args.max_new}\n\n| policy | all | {' | '.join(kinds)} |"
    )
    print("|---|" + "--:|" * (1 + len(kinds)))
    for words in args.policies:
        policy, sums = jd.policies.read(words), collections.defaultdict(lambda: np.zeros(2, int))
        for at in range(0, len(known), args.rows):
            part = known[at : at + args.rows]
            rounds = replay(policy, part, args.max_new)
            for text, count in zip(part, rounds, strict=True):
                for kind in (text.kind, "all"):
                    sums[kind] += [min(len(text.answer), args.max_new), count]
            if args.verify:
                out = jd.decode(lm, [text.prompt for text in part], policy, max_new=args.max_new, save="none")
                for text, row, forwards, count in zip(part, out.tokens, out.forwards, rounds, strict=True):
                    wrong += row[: len(text.answer)].tolist() != text.answer or int(forwards) != count
        shown = [f"{sums[kind][0] / sums[kind][1]:.2f}" for kind in ("all", *kinds)]
        print(f"| `{words}` | {' | '.join(shown)} |", flush=True)
    if args.verify:
        print(f"\n{wrong} rows differ in tokens or forwards from what `decode` does")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
