"""A trained embedded model as a folder that `jaxdlm.load` reads: weights, tokenizer, and how it was made."""

import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from jaxdlm.checkpoint.spec import TOKENIZER_FILES
from jaxdlm.eval import task as tasks
from jaxdlm.eval.tasks import vocab
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.params import path_name
from jaxdlm.train.data import PROMPT_LENGTHS
from jaxdlm.train.step import Recipe, State
from jaxdlm.typing import PyTree

CHAT_TEMPLATE = (
    "<bos>{% for message in messages %}"
    "{% if message['role'] == 'user' %} <user> {{ message['content'] }}"
    "{% elif message['role'] == 'system' %} <sys> {{ message['content'] }} <eot>"
    "{% else %} <asst> {{ message['content'] }} <eot>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} <asst>{% endif %}"
)
# operators of several characters first; then single marks, so that `f(x)` and `reverse: [Ann, Bob]` split too
MARKS = r"####|->|==|!=|<=|>=|\*\*|//|[\[\](){}<>,.:;?!/|+\-*%='\"]"


def tokenizer_json() -> str:
    """tokenizer.json: a closed word-level vocabulary; numbers split into digits, newline and indent are tokens."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel(dict(vocab.IDS), unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Split(Regex(f"^{vocab.INDENT}(?! )"), "isolated"),
            # every run of spaces but an indent; a text between control tokens starts and ends with one
            pre_tokenizers.Split(Regex(r"^ {1,3}(?! )|^ {5,}|(?<=[^ ]) +"), "removed"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex(MARKS), "isolated"),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in vocab.SPECIAL])
    return tokenizer.to_str(pretty=False)


def tokenizer_config(examples: list[str]) -> dict[str, Any]:
    """tokenizer_config.json, with the library's own keys for fixed prompt lengths and joining words."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
        "chat_template": CHAT_TEMPLATE,
        "model_max_length": 2048,
        "jaxdlm_prompt_lengths": list(PROMPT_LENGTHS),
        "jaxdlm_join": "words",
        "jaxdlm_examples": examples,
    }


def data_hash(recipe: Recipe) -> str:
    """sha256 of the first 30 training batches (tokens before noise, loss weights left out): what it learned from."""
    digest = hashlib.sha256()
    for step in range(30):
        digest.update(recipe.batch_at(recipe.seed, step)["target"].astype("<i4").tobytes())
    return digest.hexdigest()[:16]


def flat(params: Any) -> dict[str, np.ndarray]:
    """Parameter leaves by their path, rounded to bfloat16."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {path_name(path): np.asarray(leaf).astype(ml_dtypes.bfloat16) for path, leaf in leaves}


def rounded(params: PyTree) -> PyTree:
    """Parameters as they come back from the exported file: rounded to bfloat16, kept as float32."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), params)


def curve_picture(curve: Path) -> str:
    """The loss over tokens as an SVG line, logarithmic in the loss."""
    rows = [json.loads(line) for line in curve.read_text().splitlines()]
    if not rows:
        return '<svg xmlns="http://www.w3.org/2000/svg"/>'
    most = max(row["tokens"] for row in rows)
    high, low = math.log(max(row["loss"] for row in rows)), math.log(min(row["loss"] for row in rows))
    points = " ".join(
        f"{50 + 540 * row['tokens'] / most:.1f},{20 + 250 * (high - math.log(row['loss'])) / max(high - low, 1e-9):.1f}"
        for row in rows
    )
    label = '<text x="{}" y="{}" font-family="sans-serif" font-size="12" fill="#444">{}</text>'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 620 300">'
        '<rect width="620" height="300" fill="white"/><path d="M50 20V270H590" fill="none" stroke="#999"/>'
        + label.format(4, 26, f"{math.exp(high):.2f}")
        + label.format(4, 272, f"{math.exp(low):.3f}")
        + label.format(440, 290, f"{most / 1e6:.1f} M tokens")
        + label.format(60, 16, "loss (log scale)")
        + f'<polyline points="{points}" fill="none" stroke="#1f5fa8" stroke-width="2"/></svg>\n'
    )


def export_params(
    config: ModelConfig,
    params: PyTree,
    folder: Path,
    source: Path | None = None,
    gates: Mapping[str, bool] | None = None,
    names: Mapping[str, str] | None = None,
) -> None:
    """Writes config.json, model.safetensors (bfloat16, named by path), tokenizer files and generation_config.json.

    source: the folder or GGUF file of the checkpoint that was trained on, whose tokenizer files are copied or written as
    its metadata have them; None: the benchmark's. gates: which tasks the model has learned; its examples are of these.
    names: special tokens that the checkpoint did not have, such as {"mask_token": "<mask>"}.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(flat(params), str(folder / "model.safetensors"), metadata={"format": "jaxdlm"})
    _write(
        folder / "config.json",
        {"architectures": ["JaxDLM"], "model_type": "jaxdlm", "torch_dtype": "bfloat16", "jaxdlm": config.to_json()},
    )
    if source is not None:
        _tokenizer_of(source, folder, names or {})
        return
    (folder / "tokenizer.json").write_text(tokenizer_json() + "\n")
    learned = [name for name, passed in (gates or {}).items() if passed]
    _write(folder / "tokenizer_config.json", tokenizer_config(tasks.examples(12, learned=learned or None)))
    _write(
        folder / "generation_config.json",
        {"bos_token_id": vocab.BOS, "eos_token_id": vocab.EOS, "pad_token_id": vocab.PAD, "max_new_tokens": 128},
    )


def _tokenizer_of(source: Path, folder: Path, names: Mapping[str, str]) -> None:
    """The tokenizer files of a checkpoint, with more special tokens named."""
    if source.is_dir():
        for name in TOKENIZER_FILES:
            if (source / name).exists():
                shutil.copy(source / name, folder / name)
    else:
        from jaxdlm.checkpoint.gguf.model import read_gguf

        for name, contents in read_gguf(source).documents.items():
            if name in TOKENIZER_FILES:
                _write(folder / name, contents)
    config = folder / "tokenizer_config.json"
    if names and (folder / "tokenizer.json").exists():
        settings: dict[str, Any] = json.loads(config.read_text()) if config.exists() else {}
        _write(config, {**settings, **names})


def export(
    recipe: Recipe, state: State, folder: Path, *, accuracy: Any = None, gates: Any = None, notes: str = ""
) -> None:
    """Writes config.json, model.safetensors (bfloat16), tokenizer files, generation_config.json and recipe.json."""
    export_params(recipe.model.config, state.params, folder, gates=gates)
    _write(
        folder / "recipe.json",
        {
            "recipe": recipe.name,
            "command": f"python scripts/train.py --recipe {recipe.name} --steps {int(state.step)} --output DIR",
            "seed": recipe.seed,
            "steps": int(state.step),
            "tokens": int(state.tokens),
            "parameters": int(sum(leaf.size for leaf in jax.tree.leaves(state.params))),
            "data": data_hash(recipe),
            "notes": notes,
            "gate_passed": gates or {},
            "accuracy": accuracy or {},
        },
    )


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")
