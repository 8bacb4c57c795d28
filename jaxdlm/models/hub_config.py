"""Reading a released config.json: its schema, recorded defaults, both dialects of rope, special ids, refusals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxdlm.argument import Kind, flag, listed, real, record, refuse, shown, table, text, whole
from jaxdlm.errors import ConfigUnsupported, InputError
from jaxdlm.models.config import (
    BLOCK,
    EXPERTS,
    HEAD_DIM,
    HEADS,
    LAYERS,
    POSITIONS,
    WIDTH,
    WORDS,
    RopeConfig,
    TokenIds,
)

_REQUIRED: Any = object()
FACTOR = real(above=0, high=10**6)
BASE = real(above=0, high=10**15)


def one_id(value: Any, name: str) -> Any:
    """A whole number; what is no id of the model, and so means that there is none, is sorted out where it is read."""
    return _ids(value, name, [value], "an id")


def ids(value: Any, name: str) -> Any:
    """One or several."""
    several = isinstance(value, list | tuple)
    return _ids(value, name, value if several else [value], "an id or a list of ids")


def _ids(value: Any, name: str, numbers: Sequence[Any], wanted: str) -> Any:
    if any(isinstance(number, bool) or not isinstance(number, int) for number in numbers):
        refuse(value, name, wanted)
    return value


IDS: dict[str, Kind] = {
    "mask_token_id": one_id, "pad_token_id": one_id, "bos_token_id": one_id, "eos_token_id": ids,
}  # fmt: skip
# Every key of config.json that is read, in whichever family and at whichever depth, but for those that a family brings
# (`Family.keys`). 0 means "as another key has it"
# where a release or its configuration class has it so.
CONFIG: dict[str, Kind] = IDS | {
    "architectures": listed(text), "model_type": text, "torch_dtype": text, "dtype": text,
    "jaxdlm": table, "text_config": table, "rope_parameters": table, "rope_scaling": table, "per_layer_config": table,
    # sizes
    "vocab_size": whole(1, WORDS), "embedding_size": whole(0, WORDS),
    "num_hidden_layers": whole(1, LAYERS), "n_layers": whole(1, LAYERS),
    "hidden_size": whole(1, WIDTH), "d_model": whole(1, WIDTH),
    "intermediate_size": whole(0, WIDTH), "mlp_hidden_size": whole(0, WIDTH), "mlp_ratio": FACTOR,
    "num_attention_heads": whole(1, HEADS), "n_heads": whole(1, HEADS),
    "num_key_value_heads": whole(0, HEADS), "n_kv_heads": whole(0, HEADS), "multi_query_attention": flag,
    "num_global_key_value_heads": whole(0, HEADS), "head_dim": whole(0, HEAD_DIM), "global_head_dim": whole(1, HEAD_DIM),
    "max_position_embeddings": whole(1, POSITIONS), "max_sequence_length": whole(1, POSITIONS),
    "tie_word_embeddings": flag, "weight_tying": flag,
    # layers
    "rms_norm_eps": real(above=0, high=1), "use_qk_norm": flag, "qk_norm": flag, "attention_bias": flag,
    "hidden_act": text, "hidden_activation": text,
    "query_pre_attn_scalar": FACTOR, "final_logit_softcapping": FACTOR,
    "layer_types": listed(text), "sliding_window": whole(1, POSITIONS), "use_sliding_window": flag,
    "max_window_layers": whole(0, LAYERS), "sliding_window_pattern": whole(1, LAYERS),
    "block_size": whole(1, BLOCK), "bd_size": whole(1, BLOCK), "canvas_length": whole(1, BLOCK),
    # rotary embedding
    "rope_theta": BASE, "rope_local_base_freq": BASE, "rope_type": text, "type": text,
    "partial_rotary_factor": real(above=0, high=1), "rotary_dim": whole(0, HEAD_DIM), "rope_full_precision": flag,
    "factor": FACTOR, "low_freq_factor": FACTOR, "high_freq_factor": FACTOR,
    "original_max_position_embeddings": whole(1, POSITIONS), "beta_fast": FACTOR, "beta_slow": FACTOR,
    "attention_factor": FACTOR, "llama_4_scaling_beta": real(0, 10**6),
    "mscale": real(0, 10**6), "mscale_all_dim": real(0, 10**6), "truncate": flag,
    # experts
    "num_experts": whole(1, EXPERTS), "num_local_experts": whole(1, EXPERTS), "num_shared_experts": whole(0, 64),
    "num_experts_per_tok": whole(1, EXPERTS), "top_k_experts": whole(1, EXPERTS),
    "moe_intermediate_size": whole(1, WIDTH), "expert_intermediate_size": whole(1, WIDTH),
    "first_k_dense_replace": whole(0, LAYERS), "moe_layer_freq": listed(whole(0, 1)),
    "expert_capacity": whole(0, EXPERTS),
    "n_group": whole(1, EXPERTS), "topk_group": whole(1, EXPERTS), "score_function": text, "norm_topk_prob": flag,
    "routed_scaling_factor": FACTOR, "moe_router_enable_expert_bias": flag,
}  # fmt: skip
# generation_config.json
GENERATION: dict[str, Kind] = IDS | {"max_new_tokens": whole(1), "block_length": whole(1, BLOCK)}


def _grown(factor: float, scale: float = 1.0) -> float:
    """What yarn multiplies cos and sin with, so that attention stays as sharp over `factor` times the positions."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def read_generation(values: Mapping[str, Any]) -> dict[str, Any]:
    """generation_config.json, whose fields are what they should be."""
    return record(values, "generation_config.json", GENERATION, dot=": ")


@dataclass(frozen=True)
class Hints:
    """Facts known besides config.json. `mask`, `block_size` and `attention` are the caller's word and win.

    source: hub id or folder name; generation: generation_config.json; added_tokens: content -> id of the tokenizer;
    notes collects one line per default applied and per conflict found, for the manifest.
    """

    source: str = ""
    block_size: int | None = None
    attention: str | None = None
    mask: int | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    added_tokens: Mapping[str, int] = field(default_factory=dict)
    tokenizer_size: int | None = None
    notes: list[str] = field(default_factory=list, compare=False)


@dataclass(frozen=True)
class Fields:
    """config.json of one family. Every read is held against `CONFIG` and named in its error; a default that was needed
    is noted.

    defaults: what the family's configuration class fills in. keys: kinds of keys that only this family has. where: the
    object of the file that the values are from, and a dot.
    """

    values: Mapping[str, Any]
    family: str
    hints: Hints
    defaults: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, Kind] = field(default_factory=dict)
    where: str = ""

    def get(self, key: str, default: Any = _REQUIRED) -> Any:
        """The value; of an absent key what the class fills in, else `default`. null asks for `default` where there is one."""
        value = self.values.get(key)
        if value is not None:
            return (self.keys.get(key) or CONFIG[key])(value, f"config.json: {self.where}{key}")
        filled = self.defaults.get(key)
        if filled is not None and (key not in self.values or default is _REQUIRED):
            self.hints.notes.append(f"config.json has no {key}; {self.family} default {filled!r}")
            return filled
        if default is _REQUIRED:
            raise InputError(f"config.json of family {self.family} has no {self.where}{key}; add it")
        return default

    def refuse(self, **allowed: Any) -> None:
        """ConfigUnsupported unless each key is absent, null or the given value (one of them, for a tuple)."""
        for key, expected in allowed.items():
            value = self.values.get(key)
            choices = expected if isinstance(expected, tuple) else (expected,)
            if value is not None and value not in choices:
                raise ConfigUnsupported(
                    f"{self.family}: {key}={shown(value)} is not supported (only {choices[0] if choices else None!r})"
                )

    def common(self) -> None:
        """Refusals that hold for every family."""
        self.refuse(quantization_config=False, quantization=False)

    def activation(self, key: str = "hidden_act") -> str:
        names = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
        value = self.get(key, "silu")
        if value not in names:
            raise ConfigUnsupported(f"{self.family}: {key}={shown(value)} is not supported (one of {', '.join(names)})")
        return names[value]

    def dtype(self) -> str:
        value = self.get("dtype", None) or self.get("torch_dtype", None) or "bfloat16"
        name = value.removeprefix("torch.")
        if name not in ("float32", "bfloat16", "float16"):
            raise ConfigUnsupported(f"{self.family}: torch_dtype={shown(value)} is not supported")
        return name

    def heads(self) -> dict[str, int]:
        """num_heads, num_kv_heads (0 or absent: num_heads) and head_dim (absent: hidden / heads)."""
        heads, hidden, head_dim = self.get("num_attention_heads"), self.get("hidden_size"), self.get("head_dim", 0)
        if not head_dim:
            if hidden % heads:
                raise InputError(f"config.json: hidden_size {hidden} is no multiple of num_attention_heads {heads}")
            head_dim = hidden // heads
        kv_heads = self.get("num_key_value_heads", 0) or heads
        return {"num_heads": heads, "num_kv_heads": kv_heads, "head_dim": head_dim}

    def rope(self, head_dim: int, layer_type: str | None = None, base: str = "rope_theta") -> RopeConfig:
        """RopeConfig from `rope_parameters` (flat, or keyed by layer type), under `rope_scaling`, as transformers reads them.

        What neither says stands in keys of its own or in the class: `base` is the key of theta. `rope_scaling` is of the
        layers with `rope_theta`.
        """
        nested = self._object("rope_parameters")
        keyed = any(isinstance(part, Mapping) for part in nested.values())
        values = self._object("rope_parameters", layer_type or "") if keyed else dict(nested)
        if base == "rope_theta":
            values |= self._object("rope_scaling")
        if values.get("rope_theta") is None:
            values["rope_theta"] = self.get(base)
        if values.get("partial_rotary_factor") is None:
            values["partial_rotary_factor"] = self.get("partial_rotary_factor", None)
        return self._rope(values, head_dim, "rope_parameters" if nested else "rope_scaling")

    def _object(self, key: str, part: str | None = None) -> dict[str, Any]:
        """The object under a key, or a part of it; its own keys are held against the schema, too."""
        where = f"config.json: {self.where}{key}"
        value = record(self.get(key, {}), where, CONFIG)
        return value if part is None else record(value.get(part) or {}, f"{where}.{part}", CONFIG)

    def _rope(self, values: Mapping[str, Any], head_dim: int, key: str) -> RopeConfig:
        kind = values.get("rope_type") or values.get("type") or "default"
        numbers = Fields(values, self.family, self.hints, where=f"{self.where}{key}.")
        theta = numbers.get("rope_theta")
        portion = numbers.get("partial_rotary_factor", 1.0)
        if kind == "proportional":
            return RopeConfig(theta=theta, kind=kind, proportion=portion)
        rotary = None if portion == 1.0 else int(head_dim * portion)
        if kind == "default":
            return RopeConfig(theta=theta, rotary_dim=rotary)
        if kind == "linear":
            return RopeConfig(theta=theta, kind=kind, rotary_dim=rotary, factor=numbers.get("factor"))
        if kind == "llama3":
            return RopeConfig(
                theta=theta,
                kind=kind,
                rotary_dim=rotary,
                factor=numbers.get("factor"),
                low_freq_factor=numbers.get("low_freq_factor"),
                high_freq_factor=numbers.get("high_freq_factor"),
                original_max_position=numbers.get("original_max_position_embeddings"),
            )
        if kind == "yarn":
            return self._yarn(numbers, theta, rotary)
        raise ConfigUnsupported(
            f"{self.family}: {key} of type {shown(kind)} is not supported (default, linear, llama3, yarn)"
        )

    def _yarn(self, numbers: "Fields", theta: float, rotary: int | None) -> RopeConfig:
        stated = self.get("max_position_embeddings", None) or self.get("max_sequence_length", None)
        original = numbers.get("original_max_position_embeddings", stated)
        factor = numbers.get("factor", None if None in (stated, original) else stated / original)
        if original is None or factor is None:
            raise InputError(
                f"config.json of family {self.family}: yarn needs factor and original_max_position_embeddings"
            )
        some, every = numbers.get("mscale", 0), numbers.get("mscale_all_dim", 0)
        grown = _grown(factor, some) / _grown(factor, every) if some and every else _grown(factor)
        return RopeConfig(
            theta=theta,
            kind="yarn",
            rotary_dim=rotary,
            factor=factor,
            original_max_position=original,
            beta_fast=numbers.get("beta_fast", 32.0),
            beta_slow=numbers.get("beta_slow", 1.0),
            truncate=numbers.get("truncate", True),
            attention_factor=numbers.get("attention_factor", grown),
            query_beta=numbers.get("llama_4_scaling_beta", 0.0),
        )

    def positions(self, rope: RopeConfig) -> int:
        """`max_position_embeddings`, or what yarn makes of the original ones where that is more: files of Qwen are told to
        add `rope_scaling` alone."""
        stated = self.get("max_position_embeddings")
        reach = int(rope.original_max_position * rope.factor) if rope.kind == "yarn" else 0
        if reach > stated:
            self.hints.notes.append(f"yarn reaches {reach} positions, config.json states {stated}; the former counts")
        return max(stated, reach)

    def tokens(
        self,
        vocab_size: int,
        *,
        mask: int | None = None,
        mask_text: Sequence[str] = (),
        needs_mask: bool = False,
        pad: int | None = None,
        bos: int | None = None,
        eos: tuple[int, ...] = (),
        turn_end: int | None = None,
    ) -> TokenIds:
        """Special ids; the arguments are the family's defaults, used only where the vocabulary holds them.

        Priority: hint, generation_config.json, config.json, the tokenizer's added token of that text, default. Every
        end that either file names ends a text. A default counts only where the tokenizer, if there is one, has it as an
        added token: under another vocabulary it is a word.
        """

        def fits(number: int | None) -> int | None:
            if number is None or number >= vocab_size:
                return None
            added = self.hints.added_tokens.values()
            return number if self.hints.tokenizer_size is None or number in added else None

        def first(key: str, default: int | None, size: int | None = vocab_size) -> int | None:
            return next(iter(self._ids(key, default, size)), None)

        found_mask = self.hints.mask
        if needs_mask and found_mask is None:
            by_text = next(
                (self.hints.added_tokens[text] for text in mask_text if text in self.hints.added_tokens), None
            )
            known = mask if mask is not None and mask < vocab_size else None
            found_mask = first("mask_token_id", known if by_text is None else by_text, None)
            if found_mask is None:
                raise InputError(f"config.json of family {self.family} has no mask_token_id; state the mask token's id")
        ends = self._ids("eos_token_id", [number for number in map(fits, eos) if number is not None], vocab_size)
        turn_end = fits(turn_end)
        every = (*ends, *(() if turn_end is None else (turn_end,)))
        padding = first("pad_token_id", fits(pad))
        return TokenIds(
            mask=found_mask,
            pad=next(iter(every), 0) if padding is None else padding,
            bos=first("bos_token_id", fits(bos)),
            eos=ends,
            turn_end=turn_end,
            tokenizer_size=self.hints.tokenizer_size,
        )

    def _ids(self, key: str, default: Any, size: int | None) -> tuple[int, ...]:
        """The ids of a key in generation_config.json and then in config.json, each once; the default if neither has it.

        An id below 0 says that there is none, as -1 does for the pad of some releases; so does one of `size` or more:
        the embedding has no row for it.
        """
        by_file: dict[str, tuple[int, ...]] = {}
        for file, values in (("generation_config.json", self.hints.generation), ("config.json", self.values)):
            numbers = special_ids(values, key, file)
            missing = [number for number in numbers if number < 0 or (size is not None and number >= size)]
            if missing:
                self.hints.notes.append(
                    f"{file}: {key} {shown(missing)} is no id of this model and means that there is none"
                )
            by_file[file] = tuple(number for number in numbers if number not in missing)
        told, written = by_file.values()
        if told and written and set(told) != set(written):
            rule = "both end a text" if key == "eos_token_id" else "the first wins"
            one, two = (list(ids) if len(ids) > 1 else ids[0] for ids in (told, written))
            self.hints.notes.append(f"{key}: generation_config.json says {one}, config.json {two}; {rule}")
        if told or written:
            return tuple(dict.fromkeys((*told, *written)))
        if default not in (None, []):
            self.hints.notes.append(f"no {key} in the configuration; {self.family} default {default}")
        return () if default is None else tuple(default) if isinstance(default, list) else (default,)


def special_ids(values: Mapping[str, Any], key: str, file: str) -> tuple[int, ...]:
    """The ids under a key: one, a list of them for the ends of a text, or none. Raises InputError for anything else."""
    value = values.get(key)
    ids = [] if value is None else IDS[key](value, f"{file}: {key}")
    return tuple(ids) if isinstance(ids, list | tuple) else (ids,)
