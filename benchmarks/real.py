"""A real model, SmolLM2-135M-Instruct in float32, beside transformers on the same weights (extras: smollm2, convert, eval).

    taskset -c 1 python benchmarks/real.py --parts speed
    python benchmarks/real.py --parts likelihood

speed: greedy answers to our own prompts by our cached loop and lookup, and by `transformers.generate` plain and with
prompt lookup. They take turns on every batch of prompts; a ratio is the median over batches and rounds of ratios on one
batch in one round. Whole calls, prefill and all, compiled before; beside them a call for one token, so that the prompt and
the tokens behind it have ratios of their own (of processor time). Held to one core, a process that others keep waiting has
the processor time of a quiet machine, more or less. likelihood: every log-likelihood of two local tasks of
lm-evaluation-harness by our model for it and by its own.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from contest import clock, in_turns

import jaxdlm as jd
from jaxdlm._load import packaged
from jaxdlm.eval import harness, metrics, plots, prompts
from jaxdlm.eval.task import make
from jaxdlm.layout import bucket_of

NAME = "smollm2"
OURS, THEIRS = "jaxdlm autoregressive", "transformers greedy"
GOAL = 0.6  # of the time of transformers
CLOSE = 1e-3  # nats
CLOZE = pathlib.Path(__file__).with_name("cloze.jsonl")


def oracle() -> tuple[Any, Any]:
    """(model, tokenizer) as transformers reads them from the same file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    file = packaged(NAME)
    model = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)


def batches(lm: Any, count: int, rows: int) -> list[list[list[int]]]:
    """`count` prompts, one kind after the other, in full batches of one bucket each: as `jaxdlm batch` groups them, and as one
    program of `decode` has them."""
    every = [list(lm.tokenizer.encode_prompt(p.messages)) for p in prompts.of_each()]
    groups: dict[int, list[list[int]]] = {}
    for i in range(len(every)):
        prompt = every[(i % len(prompts.KINDS)) * prompts.EACH + i // len(prompts.KINDS)]
        groups.setdefault(bucket_of(len(prompt)), []).append(prompt)
    full = [group[i : i + rows] for group in groups.values() for i in range(0, len(group) - rows + 1, rows)]
    return full[: max(1, count // rows)]


def generate(model: Any, asked: Sequence[list[int]], pad: int, max_new: int, **more: Any) -> np.ndarray:
    """New tokens of transformers, padded behind a row's end."""
    import torch

    width = max(map(len, asked))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in asked])
    seen = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in asked])
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=seen, max_new_tokens=max_new, do_sample=False, pad_token_id=pad, **more
        )
    return np.asarray(out)[:, width:]


class Forwards:
    """Calls of a module while it is watched."""

    def __init__(self, module: Any) -> None:
        self.count = 0
        module.register_forward_hook(self._called)

    def _called(self, *_: Any) -> None:
        self.count += 1


def contestants(lm: Any, model: Any, pad: int, rows: int, args: argparse.Namespace) -> dict[str, Callable[..., Any]]:
    """Name -> (prompts, new tokens) -> tokens. Prompt lookup of transformers takes one row at a time."""
    k = args.k
    decode = lambda asked, policy, new: jd.decode(lm, asked, policy, max_new=new, save="none").tokens  # noqa: E731
    found = {
        OURS: lambda asked, new: decode(asked, "autoregressive", new),
        f"jaxdlm lookup k={k}": lambda asked, new: decode(asked, f"lookup,k={k}", new),
        THEIRS: lambda asked, new: generate(model, asked, pad, new),
    }
    if rows == 1:
        found[f"transformers prompt lookup, {k} tokens"] = lambda asked, new: generate(
            model, asked, pad, new, prompt_lookup_num_tokens=k
        )
    return found


class Times(NamedTuple):
    """Of one contestant: seconds of every call by the clock and of the processor, processor seconds of a call for one token
    in the same turn, its tokens and forwards, and which rows are as transformers'."""

    seconds: list[float]
    busy: list[float]
    first: list[float]
    tokens: list[int]
    forwards: list[int]
    equal: list[bool]


def speed(lm: Any, args: argparse.Namespace) -> bool:
    """Whether every answer is that of transformers; times and the goal are printed beside each other."""
    model, tokenizer = oracle()
    watch = Forwards(model)
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"cores: {cores}; load when it began: {load:.1f}; {args.prompts} prompts, max_new {args.max_new}\n")
    print(
        "| rows | contestant | tokens per second | time / transformers greedy | processor time | the prompt | a token "
        "| per forward | equal |"
    )
    print("|--:|---|--:|--:|--:|--:|--:|--:|--:|")
    agreed, reached, drawn = True, [], {}
    for rows in args.rows:
        works = contestants(lm, model, tokenizer.pad_token_id, rows, args)
        found = in_turn(lm, works, batches(lm, args.prompts, rows), watch, args.rounds, args.max_new)
        slow = found[THEIRS]
        ratios = {name: median_ratio(t.seconds, slow.seconds) for name, t in found.items()}
        for name, t in found.items():
            per = f"{sum(t.tokens) / sum(t.forwards):.2f}" if rows == 1 and sum(t.forwards) else ""
            rate = sum(t.tokens) / sum(t.seconds)
            equal = f"{sum(t.equal)} of {len(t.equal)}"
            busy, prompt = median_ratio(t.busy, slow.busy), median_ratio(t.first, slow.first)
            token = tokens_apart(t) / tokens_apart(slow)
            shown = f"{ratios[name]:.3f} | {busy:.3f} | {prompt:.3f} | {token:.3f} | {per} | {equal}"
            print(f"| {rows} | {name} | {rate:.1f} | {shown} |", flush=True)
        agreed &= all(all(t.equal) for t in found.values())
        each = tokens_apart(found[OURS]) / tokens_apart(slow)
        reached.append(f"{each:.3f} at {rows} row{'s' * (rows > 1)}")
        drawn[f"{rows} row{'s' * (rows > 1)}"] = ratios
    print(f"\na token of {OURS} / {THEIRS}: {', '.join(reached)} (goal: at most {GOAL})")
    if args.chart:
        chart = plots.bars("time, relative to transformers greedy", drawn, base=1.0)
        pathlib.Path(args.chart).write_text(plots.svg(chart))
    return agreed


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def tokens_apart(times: Times) -> float:
    """Processor seconds of all calls without those of a call for one token: of the tokens behind the first."""
    return sum(times.busy) - sum(times.first)


def in_turn(
    lm: Any, works: dict[str, Callable[..., Any]], groups: Sequence[Any], watch: Forwards, rounds: int, max_new: int
) -> dict[str, Times]:
    """Every batch by every contestant, `rounds` times in turns, all compiled and warmed for the batch's shape before."""
    found, warmed = {name: Times([], [], [], [], [], []) for name in works}, set()
    for asked in groups:
        bucket = bucket_of(max(map(len, asked)))
        for work in works.values() if bucket not in warmed else ():
            work(asked, 1), work(asked, max_new)
        warmed.add(bucket)
        outs = {}
        for name in in_turns(works, rounds):
            busy = time.process_time()
            works[name](asked, 1)
            found[name].first.append(time.process_time() - busy)
            before, busy = watch.count, time.process_time()
            found[name].seconds.append(clock(lambda: outs.__setitem__(name, works[name](asked, max_new))))
            found[name].busy.append(time.process_time() - busy)
            found[name].forwards.append(watch.count - before)
            found[name].tokens.append(sum(map(len, cut(outs[name], lm.config.tokens.eos))))
        answers = {name: cut(out, lm.config.tokens.eos) for name, out in outs.items()}
        for name, answer in answers.items():
            found[name].equal.extend(a == b for a, b in zip(answer, answers[THEIRS], strict=True))
    return found


def cut(out: np.ndarray, ends: Sequence[int]) -> list[list[int]]:
    lengths = metrics.tokens_to_end(out, ends)
    return [row[:length].tolist() for row, length in zip(out, lengths)]


def tasks(folder: pathlib.Path, count: int) -> list[dict[str, Any]]:
    """Two tasks of lm_eval on local files: our benchmark as multiple choice, and endings of sentences."""
    rng, choices = random.Random(0), []
    for name in ("reverse", "sort", "add"):
        for example in make(name, count):
            right = example.answer.split()
            wrong = [rng.sample(right, len(right)) for _ in range(2)]
            options = [" ".join(words) for words in (right, *wrong)]
            choices.append({"question": example.prompt, "choices": options})
    return [
        _task(
            folder, "minibench_choice", choices, doc_to_text="{{question}} answer:", doc_to_target="0",
            doc_to_choice="{{choices}}", output_type="multiple_choice", metric_list=[{"metric": "acc"}],
        ),
        _task(
            folder, "cloze", [json.loads(line) for line in CLOZE.read_text().splitlines()], doc_to_text="{{context}}",
            doc_to_target="{{ending}}", target_delimiter="", output_type="loglikelihood",
            metric_list=[{"metric": "perplexity"}, {"metric": "acc"}],
        ),
    ]  # fmt: skip


def _task(folder: pathlib.Path, name: str, documents: Sequence[Any], **config: Any) -> dict[str, Any]:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    files = {"data_files": {"test": str(path)}, "cache_dir": str(folder / "cache")}
    return {
        "task": name, "dataset_path": "json", "dataset_kwargs": files, "test_split": "test", "num_fewshot": 0,
        "metadata": {"version": 1}, **config,
    }  # fmt: skip


def likelihood(lm: Any, args: argparse.Namespace) -> bool:
    """Whether every log-likelihood is that of lm_eval's own model, and whether its greedy marks are."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model, tokenizer = oracle()
    contest = {
        "transformers": HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, device="cpu"),
        "jaxdlm": harness.register()(model=NAME, dtype="float32", policy="autoregressive", batch_size=4, greedy=True),
    }
    found, fixed = {}, {"bootstrap_iters": 0, "log_samples": True, "verbosity": "ERROR"}
    with tempfile.TemporaryDirectory() as folder:
        for name, each in contest.items():
            known = TaskManager(include_defaults=False)
            made = tasks(pathlib.Path(folder), args.examples)
            found[name] = lm_eval.simple_evaluate(each, tasks=made, task_manager=known, **fixed)
    print("| task | likelihoods | largest difference, nats | greedy marks that differ | jaxdlm | transformers |")
    print("|---|--:|--:|--:|---|---|")
    agreed = True
    for task in found["jaxdlm"]["results"]:
        ours, theirs = (_answers(found[name]["samples"][task]) for name in ("jaxdlm", "transformers"))
        worst = max(abs(a - b) for (a, _), (b, _) in zip(ours, theirs, strict=True))
        marks = sum(a != b for (_, a), (_, b) in zip(ours, theirs, strict=True))
        shown = [_metrics(found[name]["results"][task]) for name in ("jaxdlm", "transformers")]
        print(f"| {task} | {len(ours)} | {worst:.1e} | {marks} | {' | '.join(shown)} |", flush=True)
        agreed &= worst <= CLOSE
    return agreed


def _answers(samples: Sequence[Any]) -> list[tuple[float, bool]]:
    ordered = sorted(samples, key=lambda sample: sample["doc_id"])
    return [(float(value), str(same) == "True") for sample in ordered for ((value, same),) in sample["resps"]]


def _metrics(results: dict[str, Any]) -> str:
    shown = {key.removesuffix(",none"): value for key, value in results.items() if key.endswith(",none")}
    return ", ".join(f"{key} {value:.4f}" for key, value in shown.items() if "stderr" not in key)


PARTS = {"speed": speed, "likelihood": likelihood}


def main() -> int:
    parser = argparse.ArgumentParser(description="A real model beside transformers.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4], help="batch sizes of speed")
    for name, value in (("prompts", 8), ("rounds", 2), ("max-new", 32), ("k", 8), ("examples", 4)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--chart", metavar="FILE", help="an SVG of the times of speed")
    args = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1"}
    lm = jd.load(NAME, dtype="float32")
    agreed = [PARTS[part](lm, args) for part in args.parts]  # every part runs, whatever the first one finds
    return int(not all(agreed))


if __name__ == "__main__":
    raise SystemExit(main())
