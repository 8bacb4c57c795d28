"""Draft and target on the embedded pair: speed against cached autoregressive decoding, acceptance, and equality.

    taskset -c 1 python benchmarks/speculative.py --parts speed spectr exact
    XLA_FLAGS=--xla_force_host_platform_device_count=2 python benchmarks/speculative.py --parts pearl

Contestants take turns within each round; a speed-up is the median over rounds of ratios inside one round, so that a busy
machine disturbs both sides alike. "decode" is the loop alone, "whole" with the prefill of the prompts.
"""

import argparse
import json
import pathlib
import random
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from contest import contest, ratio

import jaxdlm as jd
from jaxdlm import speculative as S
from jaxdlm.core.compiled import compiled
from jaxdlm.eval.task import make
from jaxdlm.layout import lay_out_rows
from jaxdlm.speculative import loop
from jaxdlm.speculative.decode import begin, generate
from jaxdlm.speculative.policy import Decoding
from jaxdlm.speculative.warp import Warp

ASSETS = pathlib.Path(jd.__file__).parent / "assets"
TIE = 1e-4  # gap of the two best logits under which a difference counts as a numerical tie


def tasks(model: str) -> list[str]:
    """Tasks that the model has learned."""
    gates = json.loads((ASSETS / model / "recipe.json").read_text())["gate_passed"]
    return [name for name, passed in gates.items() if passed]


def prompts(lm: Any, count: int, seed: int = 0) -> list[list[int]]:
    """Held-out problems, one task after the other, as token ids."""
    names = tasks("tiny-ar")
    each = -(-count // len(names))
    made = [make(name, each, seed=seed) for name in names]
    texts = [made[i % len(names)][i // len(names)].prompt for i in range(count)]
    return [list(lm.tokenizer.encode_prompt(text)) for text in texts]


@compiled()
def _advance(carry: Any, decoding: Decoding) -> Any:
    return loop.run(carry, 2**30, decoding)


def methods(draft: Any) -> dict[str, Any]:
    return {
        "autoregressive": S.autoregressive(),
        "speculative k=3": S.speculative(draft, k=3),
        "speculative k=5": S.speculative(draft, k=5),
        "lookup k=4": S.lookup(k=4),
        "lookup k=8": S.lookup(k=8),
        "easyspec k=4": S.easyspec(draft, k=4, group=2),
        "pearl chunk=3": S.pearl(draft, chunk=3),
    }


def speed(lm: Any, draft: Any, args: argparse.Namespace) -> None:
    """Wall speed-up, acceptance and equality of every method at several batch sizes."""
    print(f"tasks: {', '.join(tasks('tiny-ar'))}; max_new {args.max_new}; {args.rounds} rounds\n")
    print(
        "| rows | method | decode | whole | accepted per forward | forwards per token | draft forwards per token | equal |"
    )
    print("|--:|---|--:|--:|--:|--:|--:|--:|")
    for rows in args.batches:
        many = prompts(lm, rows * max(1, args.prompts // rows))
        groups = [many[i : i + rows] for i in range(0, len(many), rows)]
        laid = [lay_out_rows(lm, group, max_new=args.max_new, seed=0, ids=None, raw=True) for group in groups]
        bucket = max(size for _, size in laid)
        laid = [(r._replace(tokens=jnp.pad(r.tokens, ((0, 0), (0, bucket - size)))), bucket) for r, size in laid]
        whole, begun, results = {}, {}, {}
        chosen = {name: p for name, p in methods(draft).items() if not args.methods or name in args.methods}
        for name, policy in ({"autoregressive": S.autoregressive()} | chosen).items():
            decoding = Decoding(lm.model, lm.params, policy)
            carries = [begin(r, decoding, size, args.max_new, "none") for r, size in laid]
            begun[name] = lambda c=carries, d=decoding: [_advance(x, d) for x in c]
            whole[name] = lambda d=decoding: [generate(r, d, n, args.max_new, "none") for r, n in laid]
            results[name] = jax.device_get([x.rows._replace(key=()) for x in begun[name]()])
        fast = contest(begun, args.rounds)
        slow = fast if args.decode_only else contest(whole, args.rounds)
        base = results["autoregressive"]
        for name, out in results.items():
            tokens = sum(int((r.length - r.start).sum()) for r in out)
            forwards, drafts = sum(int(r.step.sum()) for r in out), sum(int(r.draft_step.sum()) for r in out)
            equal = np.mean(np.concatenate([(a.tokens == b.tokens).all(1) for a, b in zip(out, base, strict=True)]))
            accepted = sum(int(r.accepted.sum()) for r in out) / forwards
            whole_ratio = "" if args.decode_only else f"{ratio(slow, 'autoregressive', name):.2f}"
            print(
                f"| {rows} | {name} | {ratio(fast, 'autoregressive', name):.2f} | {whole_ratio} "
                f"| {accepted:.2f} | {forwards / tokens:.3f} | {drafts / tokens:.2f} | {equal:.3f} |",
                flush=True,
            )


def spectr(lm: Any, draft: Any, args: argparse.Namespace) -> None:
    """Block efficiency (tokens per target forward) of K drafts at equal L, temperature 1."""
    many = prompts(lm, 64)
    temperature = jnp.float32(args.temperature)
    print(f"\ntokens per target forward, T = {args.temperature}, {len(many)} prompts\n")
    print("| L | K = 1 (vanilla) | K = 2 | K = 4 |\n|--:|--:|--:|--:|")
    for depth in (2, 4):
        row = []
        for width in (1, 2, 4):
            policy = S.speculative(draft, k=depth, temperature=temperature)
            if width > 1:
                policy = S.spectr(draft, width=width, depth=depth, temperature=temperature)
            outs = [
                jd.decode(lm, many, policy, max_new=args.max_new, seed=seed, save="none") for seed in range(args.seeds)
            ]
            forwards = sum(int(out.forwards.sum()) for out in outs)
            accepted = sum(float((out.accepted * out.forwards).sum()) for out in outs)
            row.append(1 + accepted / forwards)
        print(f"| {depth} | " + " | ".join(f"{x:.3f}" for x in row) + " |", flush=True)


def exact_methods(draft: Any) -> dict[str, Any]:
    """Those whose text is that of plain sampling, token by token."""
    hot = {"temperature": jnp.float32(0)}
    return {
        "lookup": S.lookup(k=3, **hot), "aded": S.aded(paths=6, simulations=30, **hot),
        "aded best": S.aded(paths=12, depth=6, search="best", backoff=0.1, **hot),
        "aded once": S.aded(paths=4, search="best", recount=False, **hot), "aggressive": S.aggressive(k=7, **hot),
        "sjd shared": S.sjd(6, noise="shared", **hot),
    }  # fmt: skip


def at(policy: Any, temperature: float) -> Any:
    """The policy at another temperature, of target and draft."""
    hot = jnp.float32(temperature)
    change = lambda part: part.replace(temperature=hot) if isinstance(part, Warp) else part  # noqa: E731
    return jax.tree.map(change, policy, is_leaf=lambda part: isinstance(part, Warp))


def exact(lm: Any, draft: Any, args: argparse.Namespace) -> int:
    """Random (prompt, batch, draft, temperature) cases against autoregressive decoding: rows, ties, mismatches.

    What draws by the noise of plain sampling is held to it at the temperatures 0, 0.7 and 1, the others at 0.
    """
    rng = random.Random(0)
    zero, rows, cases, ties, wrong = jnp.float32(0), 0, 0, 0, 0
    matched = exact_methods(draft)
    policies = {
        "spectr": S.spectr(draft, width=2, depth=3, temperature=zero), "sjd": S.sjd(6, temperature=zero),
        **{f"speculative k={k}": S.speculative(draft, k=k) for k in (1, 4, 7)}, "pearl": S.pearl(draft, chunk=3),
        "easyspec": S.easyspec(draft, k=3, group=2), **matched,
    }  # fmt: skip
    policies = {name: policy for name, policy in policies.items() if not args.methods or name in args.methods}
    while rows < args.cases:
        count = rng.choice((1, 8))
        # one bucket of prompt columns, so that few programs are compiled; three in ten prompts are noise
        every = [
            [rng.randrange(8, 500) for _ in range(rng.randrange(17 if i == 0 else 1, 33))]
            if i == 0 or rng.random() < 0.3
            else prompt
            for i, prompt in enumerate(prompts(lm, count, seed=rng.randrange(10**6)))
        ]
        temperature = rng.choice((0.0, 0.7, 1.0))
        want = {
            t: jd.decode(lm, every, S.autoregressive(jnp.float32(t)), max_new=24, save="none")
            for t in {0.0, temperature}
        }
        for name, policy in policies.items():
            t = temperature if name in matched else 0.0
            got = jd.decode(lm, every, at(policy, t) if name in matched else policy, max_new=24, save="none")
            cases += 1
            for prompt, a, b in zip(every, want[t].tokens, got.tokens, strict=True):
                rows += 1
                if (a != b).any():
                    first = int(np.argmax(a != b))
                    top = np.sort(np.asarray(lm.logits([prompt + a[:first].tolist()])[0, -1]))
                    tie = t == 0 and top[-1] - top[-2] < TIE
                    ties, wrong = ties + int(tie), wrong + int(not tie)
    print(f"\nexact: {rows} rows in {cases} batches, {wrong} mismatches, {ties} numerical ties (gap < {TIE})")
    return wrong


def pearl(lm: Any, draft: Any, args: argparse.Namespace) -> None:
    """PEARL on two devices against vanilla on one, and the clock of two devices that share nothing."""
    if jax.device_count() < 2:
        print("pearl: start with XLA_FLAGS=--xla_force_host_platform_device_count=2")
        return
    one, two = jax.devices()[:2]
    print("\n| rows | contestant | against vanilla k |\n|--:|---|--:|")
    for rows in (1, 8):
        laid, size = lay_out_rows(lm, prompts(lm, rows), max_new=args.max_new, seed=0, ids=None, raw=True)
        sizes = {"prompt": size, "max_new": args.max_new, "save": "none"}
        works: dict[str, Callable[[], Any]] = {}
        for k in (2, 3, 4):
            vanilla, chunked = S.speculative(draft, k=k), S.pearl(draft, chunk=k)
            works[f"vanilla {k}"] = lambda p=vanilla: generate(laid, Decoding(lm.model, lm.params, p), **sizes)
            works[f"pearl {k}, one device"] = lambda p=chunked: generate(
                laid, Decoding(lm.model, lm.params, p), **sizes
            )
            works[f"pearl {k}, two devices"] = lambda p=chunked: S.generate_on_two(
                laid, lm.model, lm.params, p, target=one, draft=two, **sizes
            )
        times = contest(works, args.rounds)
        best = min((f"vanilla {k}" for k in (2, 3, 4)), key=lambda name: statistics.median(times[name]))
        for name in works:
            print(f"| {rows} | {name} | {ratio(times, best, name):.2f} × {best} |", flush=True)


PARTS = {"speed": speed, "spectr": spectr, "exact": exact, "pearl": pearl}


def main() -> int:
    parser = argparse.ArgumentParser(description="Draft and target on the embedded pair.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["speed", "spectr", "exact"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8, 16])
    for name, value in (("rounds", 5), ("prompts", 16), ("max-new", 32), ("cases", 1000), ("seeds", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="those of the table only")
    parser.add_argument("--decode-only", action="store_true", help="leave the column with the prefill empty")
    parser.add_argument("--temperature", type=float, default=1.0)
    args = parser.parse_args()
    lm, draft = jd.load("tiny-ar"), jd.load("tiny-draft")
    return int(any(PARTS[part](lm, draft, args) for part in args.parts))


if __name__ == "__main__":
    raise SystemExit(main())
