"""A real model, SmolLM2-135M-Instruct in float32, beside transformers on the same weights (extras: smollm2, convert, eval).

    taskset -c 1 python benchmarks/real.py --parts speed
    python benchmarks/real.py --parts likelihood

speed: greedy answers to our own prompts by our cached loop and lookup, and by `transformers.generate` plain and with
prompt lookup. They take turns on every batch of prompts; a ratio is the median over batches and rounds of ratios on one
batch in one round. Whole calls, prefill and all, compiled before. likelihood: every log-likelihood of two local tasks of
lm-evaluation-harness by our model for it and by its own.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from contest import clock, in_turns

import jaxdlm as jd
from jaxdlm._load import packaged
from jaxdlm.eval import harness, metrics, prompts
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
    """`count` prompts, one kind after the other, by length, in full batches."""
    every = [list(lm.tokenizer.encode_prompt(p.messages)) for p in prompts.of_each()]
    chosen = [every[(i % len(prompts.KINDS)) * prompts.EACH + i // len(prompts.KINDS)] for i in range(count)]
    chosen.sort(key=len)
    return [chosen[i : i + rows] for i in range(0, count - rows + 1, rows)]


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


def contestants(lm: Any, model: Any, pad: int, rows: int, given: argparse.Namespace) -> dict[str, Callable[..., Any]]:
    """Name -> prompts -> tokens. Prompt lookup of transformers takes one row at a time."""
    max_new, k = given.max_new, given.k
    decode = lambda asked, policy: jd.decode(lm, asked, policy, max_new=max_new, save="none").tokens  # noqa: E731
    found = {
        OURS: lambda asked: decode(asked, "autoregressive"),
        f"jaxdlm lookup k={k}": lambda asked: decode(asked, f"lookup,k={k}"),
        THEIRS: lambda asked: generate(model, asked, pad, max_new),
    }
    if rows == 1:
        found[f"transformers prompt lookup, {k} tokens"] = lambda asked: generate(
            model, asked, pad, max_new, prompt_lookup_num_tokens=k
        )
    return found


def speed(lm: Any, given: argparse.Namespace) -> bool:
    """Whether the answers of our loop are those of transformers; the goal is printed beside what was reached."""
    model, tokenizer = oracle()
    ends, pad, watch = lm.config.tokens.eos, tokenizer.pad_token_id, Forwards(model)
    load = os.getloadavg()[0]
    print(f"cores: {len(os.sched_getaffinity(0))}; load when it began: {load:.1f}; max_new {given.max_new}\n")
    print("| rows | contestant | tokens per second | time / transformers greedy | tokens per forward | equal |")
    print("|--:|---|--:|--:|--:|--:|")
    agreed = True
    for rows in given.rows:
        works, groups = contestants(lm, model, pad, rows, given), batches(lm, given.prompts, rows)
        times, tokens, equal = defaultdict(list), defaultdict(int), defaultdict(int)
        forwards: dict[str, int] = defaultdict(int)
        warmed: set[int] = set()
        for asked in groups:
            bucket = bucket_of(max(map(len, asked)))
            if bucket not in warmed:
                warmed.add(bucket)
                for work in works.values():
                    work(asked)
            outs = {}
            for name in in_turns(works, given.rounds):
                before = watch.count
                times[name].append(clock(lambda: outs.__setitem__(name, works[name](asked))))
                forwards[name] += watch.count - before
            answers = {name: cut(out, ends) for name, out in outs.items()}
            for name, answer in answers.items():
                tokens[name] += sum(map(len, answer))
                equal[name] += sum(a == b for a, b in zip(answer, answers[THEIRS], strict=True))
        for name in works:
            ratio = statistics.median(a / b for a, b in zip(times[name], times[THEIRS], strict=True))
            each = given.rounds * tokens[name] / rows
            per = f"{each / forwards[name]:.2f}" if rows == 1 and forwards[name] else ""
            rate = given.rounds * tokens[name] / sum(times[name])
            print(f"| {rows} | {name} | {rate:.1f} | {ratio:.3f} | {per} | {equal[name]} of {len(groups) * rows} |")
            agreed &= equal[name] == len(groups) * rows
            if name == OURS:
                print(f"|   | goal | | {GOAL} {'reached' if ratio <= GOAL else 'not reached'} | | |", flush=True)
    return agreed


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


def likelihood(lm: Any, given: argparse.Namespace) -> bool:
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
            made = tasks(pathlib.Path(folder), given.examples)
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
    given = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1"}
    lm = jd.load(NAME, dtype="float32")
    agreed = [PARTS[part](lm, given) for part in given.parts]  # every part runs, whatever the first one finds
    return int(not all(agreed))


if __name__ == "__main__":
    raise SystemExit(main())
