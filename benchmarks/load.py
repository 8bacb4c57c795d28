"""Time of `jaxdlm.load`, weights and tokenizer, against `transformers` on the same folder in one run.

    python -m benchmarks.load --rounds 5
    python -m benchmarks.load --rounds 5 --model smollm2

Without --model the folder is made: 0.54 GB of random bfloat16 weights with a byte-level tokenizer of 262,144 tokens, whose
tokenizer.json has 20 MB (that of Gemma 3 has 33). With it, a Hub folder, or smollm2 or a GGUF file, which is
exported to one. What the converter makes of the folder is loaded, too. Every load is in a process of its own, in turns;
the clock starts behind the imports (of `transformers` the model's and the tokenizer's modules, too) and the start of the
device, and stops when every weight was read. The page cache is warm for all. Medians of the rounds; ratios within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

from jaxdlm.checkpoint.safetensors import SafetensorsWriter

WORDS, WIDTH, HIDDEN, HEADS, LAYERS = 262_144, 640, 2048, 10, 18
OURS = """
import sys, time
import jax, tokenizers, jaxdlm as jd
import jaxdlm._load, jaxdlm.checkpoint.restore, jaxdlm.chat, orbax.checkpoint
jd.load, jax.numpy.zeros(1).block_until_ready()
begin, used = time.perf_counter(), time.process_time()
lm = jd.load(sys.argv[1])
jax.block_until_ready(lm.params)
assert lm.tokenizer is not None
print(time.perf_counter() - begin, time.process_time() - used)
"""
THEIRS = """
import sys, time
import torch, transformers
config = transformers.AutoConfig.from_pretrained(sys.argv[1])
transformers.AutoModelForCausalLM._model_mapping[type(config)], transformers.PreTrainedTokenizerFast
begin, used = time.perf_counter(), time.process_time()
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
total = sum(float(weight.detach().view(torch.int16)[..., 0].sum()) for weight in model.parameters())
print(time.perf_counter() - begin, time.process_time() - used)
"""


def make(folder: Path) -> None:
    """A checkpoint of Llama's class with many words."""
    shapes = {"model.embed_tokens.weight": (WORDS, WIDTH), "model.norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        names = {
            "input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,), "mlp.gate_proj": (HIDDEN, WIDTH),
            "mlp.up_proj": (HIDDEN, WIDTH), "mlp.down_proj": (WIDTH, HIDDEN),
            **{f"self_attn.{name}_proj": (WIDTH, WIDTH) for name in "qkvo"},
        }  # fmt: skip
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in names.items()}
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "vocab_size": WORDS,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 1e5, "tie_word_embeddings": True,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "torch_dtype": "bfloat16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    kind = np.dtype(ml_dtypes.bfloat16)
    noise = np.random.default_rng(0).standard_normal(WORDS * WIDTH, dtype=np.float32).astype(kind)
    with SafetensorsWriter(
        folder / "model.safetensors", {name: (kind, shape) for name, shape in shapes.items()}
    ) as file:
        for name, shape in shapes.items():
            file.write(name, noise[: int(np.prod(shape))].reshape(shape))
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary(), ensure_ascii=False, indent=2))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def vocabulary() -> dict[str, object]:
    """tokenizer.json of a byte-level BPE: every new token joins two that were there, and has a merge for each such pair."""
    from tokenizers.pre_tokenizers import ByteLevel

    special, random = ["<s>", "</s>"], np.random.default_rng(0)
    tokens = sorted(ByteLevel.alphabet())
    known, merges = set(tokens), []
    while len(tokens) < WORDS - len(special):
        for one, two in random.integers(min(len(tokens), 1000), size=(1000, 2)).tolist():
            token = tokens[one] + tokens[two]
            if token not in known and len(tokens) < WORDS - len(special):
                known.add(token)
                tokens.append(token)
                halves = ((token[:at], token[at:]) for at in range(1, len(token)))
                merges += [list(pair) for pair in halves if known.issuperset(pair)]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    unset = dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"))
    flags = {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    words = {token: number for number, token in enumerate([*special, *tokens])}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": number, "content": token, **plain} for number, token in enumerate(special)],
        "normalizer": None, "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {"type": "BPE", **unset, **flags, "vocab": words, "merges": merges},
    }  # fmt: skip


def folders(model: str | None, work: Path) -> tuple[Path, Path]:
    """(a Hub folder, what the converter makes of it)."""
    from checkpoints_convert.__main__ import main as convert

    hub, converted = work / "hub", work / "converted"
    if model is None:
        hub.mkdir()
        make(hub)
    elif Path(model).is_dir():
        hub = Path(model)
    source = str(hub) if hub.exists() else str(model)
    if convert([source, str(converted), "--quiet"]) or not (
        hub.exists() or not convert([str(converted), str(hub), "--export"])
    ):
        raise SystemExit(f"{model} was not converted")
    return hub, converted


def seconds(program: str, folder: Path) -> tuple[float, float]:
    """(seconds, processor seconds) that a fresh process measures."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", program, str(folder)], env=environment, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(run.stderr)
    wall, used = map(float, run.stdout.split()[-2:])
    return wall, used


def rounds(count: int, hub: Path, converted: Path) -> Iterator[np.ndarray]:
    """[our times of the Hub folder, of the converted one, theirs of the Hub folder] of each round, wall and processor."""
    for number in range(-1, count):  # the first fills the page cache
        found = seconds(OURS, hub), seconds(OURS, converted), seconds(THEIRS, hub)
        if number >= 0:
            yield np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", help="a Hub folder, a GGUF file, or smollm2; default: one that is made here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        hub, converted = folders(args.model, Path(work))
        table = (hub / "tokenizer.json").stat().st_size
        weights = sum(path.stat().st_size for path in hub.glob("*.safetensors"))
        print(f"weights {weights / 1e9:.3f} GB, tokenizer.json {table / 1e6:.1f} MB")
        times = np.array(list(rounds(args.rounds, hub, converted)))
    ratios = np.median(times / times[:, 2:], axis=0)
    for name, (wall, used), (one, two) in zip(
        ("jaxdlm, Hub folder", "jaxdlm, converted", "transformers"), np.median(times, axis=0), ratios
    ):
        print(f"{name}: {wall:.2f} s, ratio {one:.2f} (goal 1.0); processor {used:.2f} s, ratio {two:.2f}")


if __name__ == "__main__":
    main()
