"""`smollm2-block`: an autoregressive chat model made a block diffusion model, on answers that it writes itself.

As Fast-dLLM v2 (arXiv 2509.26328) adapts Qwen2.5: blocks from position 0, block-causal attention, the shifted prediction
of the autoregressive model kept, every sample seen under two complementary masks, and earlier blocks clean. A reserved
control token becomes the mask. Only a low-rank update and the mask's embedding learn, so that what is trained is what
ships (`jaxdlm.train.delta`).

Four phases, each of which goes on where it was cut: data (batch jobs), train (Orbax checkpoint), export, figures.
"""

import dataclasses
import functools
import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import _decode, resolve
from jaxdlm._load import LM, describe, load
from jaxdlm.batch.cli import read_policies
from jaxdlm.batch.options import Options
from jaxdlm.batch.run import job
from jaxdlm.core.model import with_config
from jaxdlm.errors import InputError
from jaxdlm.eval import likelihood, metrics
from jaxdlm.eval.run import check
from jaxdlm.eval.task import TASKS as BENCHMARK
from jaxdlm.eval.task import make
from jaxdlm.models.config import ModelConfig
from jaxdlm.sharding import make_mesh
from jaxdlm.train import delta, lora
from jaxdlm.train.export import curve_picture
from jaxdlm.train.instructions import instructions
from jaxdlm.train.losses import block_diffusion
from jaxdlm.train.recipes._samples import Pool, batches, bits_per_token, pool
from jaxdlm.train.step import Budget, Recipe, accumulated, adamw, train
from jaxdlm.typing import Array, PyTree

PHASES = ("data", "train", "export", "figures")
PART = 4096  # rows of one batch job; between two of them the data phase looks at its clock
PART_NAME, HELD_OUT = "part-{:03d}", "held-out"
TASKS = ("copy", "reverse", "sort", "add", "couple", "gsm")
SHOWN = ("low_confidence", "threshold", "fast_dllm_v2")  # policies whose tokens per forward are counted
SAMPLES = 6


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the result, besides the time that phases may take. Another run in the same folder must say the same.

    model: as in `jaxdlm.load`; mask: a token of its vocabulary that no prompt or answer holds. canvas: tokens of an
    answer; prompt: columns of the longest prompt that is used. rows: answers to write; batch: of them in a step;
    accumulate: steps whose gradients move the weights once. slots: answers that are written at the same time. prompts:
    SHA-256 of the prompts that were given, empty for `instructions`.
    """

    model: str = "smollm2"
    mask: str = "<empty_output>"
    teacher: str = "autoregressive,temperature=0.8"
    block: int = 32
    prompt: int = 128
    canvas: int = 192
    rows: int = 15 * PART
    held_out: int = 512
    slots: int = 512
    rank: int = 64
    batch: int = 64
    accumulate: int = 2
    peak_lr: float = 5e-4
    seed: int = 0
    prompts: str = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int and field.name != "seed" and (not isinstance(value, int) or value < 1):
                raise InputError(f"{field.name}={value!r}: must be a whole number, at least 1")

    def agree(self, folder: Path) -> None:
        """Writes folder/run.json, or compares with it. Raises InputError that names the first difference."""
        path, own = folder / "run.json", dataclasses.asdict(self)
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(own, indent=1) + "\n")
            return
        other = json.loads(path.read_text())
        for name in own:
            if own[name] != other.get(name):
                raise InputError(
                    f"{folder} belongs to a run with {name}={other.get(name)!r}, not {own[name]!r}: use another folder, or "
                    "the same settings"
                )


# ------------------------------------------------------------------------------------------------------------- data


def write_answers(lm: LM, settings: Settings, texts: Sequence[str | list[int]], folder: Path, name: str) -> None:
    """The model's answers as one batch job, folder/name.jsonl -> folder/name; one that is complete is left alone.

    A row's id holds the job's name, so that no two parts draw alike. Exits with the job's status if a signal cut it: what
    is finished is saved.
    """
    source, output = folder / f"{name}.jsonl", folder / name
    if (output / "_SUCCESS").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    lines = (
        json.dumps({"id": f"{name}/{number}", "prompt" if isinstance(text, str) else "tokens": text})
        for number, text in enumerate(texts)
    )
    source.write_text("\n".join(lines) + "\n")
    options = Options(
        input=str(source), output=str(output), policy=settings.teacher, max_new=settings.canvas, seed=settings.seed,
        slots=settings.slots,
    )  # fmt: skip
    mesh = make_mesh({"data": 1, "tensor": 1, "expert": 1}, devices=jax.local_devices()[:1])
    status = job(options, lm, read_policies(settings.teacher), resolve.resolve_cache("none"), mesh).run()
    if status:
        sys.exit(status)


def read_answers(lm: LM, folder: Path, name: str) -> Iterator[tuple[list[int], list[int]]]:
    """(prompt ids, answer ids) of a finished job; the answer ends with its end of text, where it has one."""
    assert lm.tokenizer is not None
    ends = set(lm.config.tokens.eos)
    asked = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    files = sorted((folder / name).glob("rows-*.jsonl"))
    rows = (json.loads(line) for file in files for line in file.read_text().splitlines())
    for question, row in zip(asked, rows, strict=True):
        if row["status"] == "error":
            continue
        tokens = row["tokens"]
        end = next((at for at, token in enumerate(tokens) if token in ends), len(tokens) - 1)
        prompt = question["tokens"] if "tokens" in question else lm.tokenizer.encode_prompt(question["prompt"])
        yield prompt, tokens[: end + 1]


def data(
    settings: Settings, folder: Path, minutes: float | None, texts: Sequence[str | list[int]] | None = None
) -> dict[str, Any]:
    """Answers of the held-out prompts, then of the others part by part, until `minutes` are over; DIR/data.json says how
    many parts there are, and from then on it stays so."""
    done = folder / "data.json"
    if done.exists():
        return json.loads(done.read_text())
    begin, lm = time.time(), load(settings.model, dtype=compute_dtype())
    asked: Sequence[str | list[int]] = instructions(settings.rows, settings.seed)
    held: Sequence[str | list[int]] = instructions(settings.held_out, settings.seed, "test")
    if texts is not None:
        size = min(settings.held_out, max(1, len(texts) // 50))
        asked, held = texts[size:][: settings.rows], texts[:size]
        if not asked:
            raise InputError("--prompts: needs at least two prompts, since one of fifty is held out")
    write_answers(lm, settings, held, folder / "data", HELD_OUT)
    parts = 0
    for first in range(0, len(asked), PART):
        if parts and minutes is not None and time.time() - begin > 60 * minutes:
            break
        write_answers(lm, settings, asked[first : first + PART], folder / "data", PART_NAME.format(parts))
        parts += 1
    counts = {"parts": parts, "rows": min(len(asked), parts * PART), "held_out": len(held)}
    done.write_text(json.dumps(counts) + "\n")
    return counts


# --------------------------------------------------------------------------------------------------------- training


def compute_dtype() -> str:
    """bfloat16 on an accelerator; float32 on a CPU, which has no fast 16 bits."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def mask_id(lm: LM, text: str) -> int:
    """The id of the token that becomes the mask. Raises InputError for one that is unknown, or ends or begins texts."""
    known = {} if lm.tokenizer is None else lm.tokenizer.words
    tokens = lm.config.tokens
    if text not in known:
        raise InputError(f"--mask {text!r}: {lm.name} has no such token; give a control token that texts never hold")
    if known[text] in (tokens.bos, tokens.pad, *tokens.eos):
        raise InputError(
            f"--mask {text!r} begins, ends or pads texts of {lm.name}: give a control token that no text holds"
        )
    return known[text]


def possible(settings: Settings) -> None:
    """Raises InputError for what cannot be done, before any weight is loaded."""
    lm = describe(settings.model)
    config = block_config(lm.config, settings.block, mask_id(lm, settings.mask))
    delta.check_size(config, settings.rank)
    longest = settings.prompt + settings.canvas + settings.block
    if longest > config.max_position:
        raise InputError(
            f"prompts of {settings.prompt} and answers of {settings.canvas} tokens, in whole blocks, are more than the "
            f"{config.max_position} positions of {lm.name}: lower --canvas"
        )


def block_config(config: ModelConfig, block: int, mask: int) -> ModelConfig:
    """The configuration of the block diffusion model: same weights, block-causal, masks, the prediction as it was."""
    if config.attention != "causal" or config.noise != "none":
        raise InputError(f"family {config.family} is no autoregressive model: there is nothing to adapt")
    tokens = dataclasses.replace(config.tokens, mask=mask)
    return dataclasses.replace(config, attention="block_causal", block_size=block, noise="mask", tokens=tokens)


def block_model(lm: LM, settings: Settings) -> Any:
    """The model's functions with block-causal attention."""
    config = block_config(lm.config, settings.block, mask_id(lm, settings.mask))
    return with_config(lm.model, config)


def low_rank_loss(model: Any, params: PyTree, batch: dict[str, Any], *, dtype: Any) -> Array:
    """`block_diffusion` of the frozen weights plus the low-rank update, and the mask's own embedding, in `dtype`."""
    return block_diffusion(model, lora.tuned(params, rows=(model.config.tokens.mask,), dtype=dtype), batch)


def adaptation(lm: LM, samples: Pool, settings: Settings, steps: int, dtype: str | None = None) -> Recipe:
    """The training recipe of an autoregressive model loaded in float32, whose weights it takes over; dtype: of its
    products, default `compute_dtype`.

    The mask's embedding starts as the mean of all, since a token that no text held has learned nothing.
    """
    model = block_model(lm, settings)

    def init(seed: int) -> PyTree:
        mean = jnp.mean(lm.params["embed"].astype(jnp.float32), axis=0, keepdims=True)
        return {"base": lm.params, "lora": lora.init(lm.config, settings.rank, jax.random.key(seed)), "rows": mean}

    return Recipe(
        name="smollm2-block",
        model=model,
        init=init,
        loss_fn=functools.partial(low_rank_loss, dtype=dtype or compute_dtype()),
        batch_at=batches(samples, settings.batch, settings.block),
        optimizer=accumulated(adamw(), settings.accumulate),
        steps=steps,
        peak_lr=settings.peak_lr,
        warmup=max(1, steps // 20),
        trainable="lora/.*|rows",
        seed=settings.seed,
    )


def usable(lm: LM, settings: Settings, folder: Path, names: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """(prompt, answer) of finished jobs, without prompts of more than `settings.prompt` columns and answers that hold the
    mask. Raises InputError if nothing is left."""
    mask, longest = mask_id(lm, settings.mask), settings.prompt
    pairs = [pair for name in names for pair in read_answers(lm, folder / "data", name)]
    short = [(p, a) for p, a in pairs if len(p) <= longest and a and mask not in a]
    if not short:
        raise InputError(f"none of {len(pairs)} samples has an answer and a prompt of at most {longest} tokens")
    return short


def fit(settings: Settings, folder: Path, steps: int, minutes: float | None) -> dict[str, Any]:
    """Trains, or goes on from folder/checkpoint; writes folder/delta.safetensors."""
    lm = load(settings.model, dtype="float32")
    names = [PART_NAME.format(number) for number in range(json.loads((folder / "data.json").read_text())["parts"])]
    config = block_config(lm.config, settings.block, mask_id(lm, settings.mask))
    samples = pool(usable(lm, settings, folder, names), config, settings.canvas)
    recipe = adaptation(lm, samples, settings, steps)
    state = train(recipe, folder, Budget(steps, minutes), resume=True, every=max(1, min(20, steps // 10)))
    record = {
        "recipe": "smollm2-block", "settings": dataclasses.asdict(settings), "steps": int(state.step),
        "columns": int(state.tokens), "samples": len(samples.tokens), "answer_tokens": int(samples.length.sum()),
    }  # fmt: skip
    base = load(settings.model, dtype="float32")
    delta.save(
        folder / "delta.safetensors", base.params, recipe.model.config, state.params["lora"],
        (mask_id(lm, settings.mask),), state.params["rows"], record,
    )  # fmt: skip
    return record


# ---------------------------------------------------------------------------------------------------------- figures


class Answers(NamedTuple):
    """The greedy answers of one model with one policy: per question the tokens, the text, and forwards."""

    tokens: np.ndarray
    text: list[str]
    forwards: np.ndarray


def answers(lm: LM, questions: Sequence[Sequence[int]], policy: str, columns: int, batch: int = 64) -> Answers:
    """Every question answered, block diffusion models with their exact cache. Batches hold questions of about one length
    and are filled up to one number of rows, so that few programs are compiled."""
    cache = "none" if lm.config.tokens.mask is None else "block_exact"
    order = sorted(range(len(questions)), key=lambda at: len(questions[at]))
    batch = min(batch, len(order))
    tokens, forwards = np.zeros((len(order), columns), np.int32), np.zeros(len(order), np.int64)
    text = [""] * len(order)
    for first in range(0, len(order), batch):
        part = order[first : first + batch]
        rows = [questions[at] for at in part] + [questions[part[-1]]] * (batch - len(part))
        out = _decode.decode(lm, rows, policy, cache, max_new=columns, save="none")
        tokens[part], forwards[part] = out.tokens[: len(part)], out.forwards[: len(part)]
        for at, answer in zip(part, out.text or []):
            text[at] = answer
    return Answers(tokens, text, forwards)


def figures(settings: Settings, folder: Path, measure: int) -> dict[str, Any]:
    """Of the exported model beside the one it was made of, on held-out prompts and the benchmark's test problems: bits per
    token, tokens per forward, right answers, samples. measure: prompts, and problems per task."""
    base, lm = load(settings.model, dtype=compute_dtype()), load(folder / "model", dtype=compute_dtype())
    assert base.tokenizer is not None
    pairs = usable(base, settings, folder, [HELD_OUT])[:measure]
    exact = likelihood.score(base, [likelihood.Pair(tuple(p), tuple(a)) for p, a in pairs])
    bits = -sum(each.value for each in exact) / (math.log(2) * sum(len(a) for _, a in pairs))
    problems = [example for task in TASKS for example in make(task, measure, "test")]
    questions = [p for p, _ in pairs] + [base.tokenizer.encode_prompt(problem.prompt) for problem in problems]
    result: dict[str, Any] = {
        "delta_bytes": (folder / "delta.safetensors").stat().st_size,
        "texts": len(pairs),
        "bits_per_token": {
            "base": round(bits, 4),
            "bound": bits_per_token(lm.model, lm.params, pool(pairs, lm.config, settings.canvas)),
        },
        "decoding": {},
        "shown": [{"prompt": base.tokenizer.decode(_words(base, p))} for p, _ in pairs[:SAMPLES]],
    }
    for policy in ("autoregressive", *SHOWN):
        answered = answers(base if policy == "autoregressive" else lm, questions, policy, settings.canvas)
        count = len(pairs)
        right = [
            check(base, BENCHMARK, each, answered.tokens[at], answered.text[at]).correct
            for at, each in enumerate(problems, start=count)
        ]
        length = metrics.tokens_to_end(answered.tokens[:count], lm.config.tokens.eos)
        result["decoding"][policy] = {
            "tokens_per_forward": round(float(length.sum() / max(1, answered.forwards[:count].sum())), 3),
            **{task: round(sum(right[n * measure : (n + 1) * measure]) / measure, 4) for n, task in enumerate(TASKS)},
        }
        for row, text in zip(result["shown"], answered.text):
            row[policy] = text
    return result


def _words(lm: LM, prompt: Sequence[int]) -> list[int]:
    """A prompt without the ends of its turns, at which `decode` would stop."""
    return [token for token in prompt if token not in lm.config.tokens.eos]


def run(
    folder: Path,
    *,
    texts: Sequence[str | list[int]] | None = None,
    steps: int = 1400,
    minutes: float | None = 4.5,
    data_minutes: float | None = 2.0,
    measure: int = 100,
    until: str = PHASES[-1],
    **settings: Any,
) -> dict[str, Any]:
    """All phases up to `until`; the same call goes on in a folder where it was cut. Returns what the last one found.

    texts: prompts, of which one in fifty is held out; None: `instructions`. steps, minutes: of training, whichever ends
    first; data_minutes: after which no further part of the data is begun; measure: as in `figures`.
    Writes folder/{run.json, data, data.json, curve.jsonl, checkpoint, delta.safetensors, model, figures.json}.
    """
    if until not in PHASES:
        raise InputError(f"--until {until!r}: one of {', '.join(PHASES)}")
    if measure < 1 or steps < 1:
        raise InputError(f"--steps {steps} and --measure {measure} must be at least 1; --until export measures nothing")
    if texts is not None:
        settings["prompts"] = hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]
    chosen = Settings(**settings)
    possible(chosen)
    chosen.agree(folder)
    wanted = PHASES[: PHASES.index(until) + 1]
    result = _timed("data", data, chosen, folder, data_minutes, texts)
    if "train" in wanted:
        result = _timed("train", fit, chosen, folder, steps, minutes)
    if "export" in wanted:
        _timed("export", delta.export, chosen.model, folder / "delta.safetensors", folder / "model")
        (folder / "model" / "curve.svg").write_text(curve_picture(folder / "curve.jsonl"))
    if "figures" in wanted:
        result = result | _timed("figures", figures, chosen, folder, measure)
        (folder / "figures.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def _timed(name: str, phase: Any, *arguments: Any) -> Any:
    begin = time.time()
    result = phase(*arguments)
    print(f"# {name}: {time.time() - begin:.0f} s", file=sys.stderr, flush=True)
    return result
