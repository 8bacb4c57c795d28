"""Reading a released config.json: typed keys, recorded defaults, both dialects of rope, special ids, refusals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxdlm.errors import ConfigUnsupported, InputError
from jaxdlm.models.config import RopeConfig, TokenIds

_REQUIRED: Any = object()


@dataclass(frozen=True)
class Hints:
    """What is known besides config.json. `mask`, `block_size` and `attention` are the caller's word and win.

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
    """config.json of one family. Every read names the key in its error; a default that was needed is noted.

    defaults: what the family's configuration class fills in (`jaxdlm.models.defaults`).
    """

    values: Mapping[str, Any]
    family: str
    hints: Hints
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def get(self, key: str, default: Any = _REQUIRED) -> Any:
        """The value; of an absent key what the class fills in, else `default`. null asks for `default` where there is one."""
        value = self.values.get(key)
        if value is not None:
            return value
        filled = self.defaults.get(key)
        if filled is not None and (key not in self.values or default is _REQUIRED):
            self.hints.notes.append(f"config.json has no {key}; {self.family} default {filled!r}")
            return filled
        if default is _REQUIRED:
            raise InputError(f"config.json of family {self.family} has no {key}; add it")
        return default

    def integer(self, key: str, default: Any = _REQUIRED) -> int:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"config.json: {key} must be an integer, got {value!r}")
        return value

    def real(self, key: str, default: Any = _REQUIRED) -> float:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"config.json: {key} must be a number, got {value!r}")
        return float(value)

    def flag(self, key: str, default: Any = _REQUIRED) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise InputError(f"config.json: {key} must be true or false, got {value!r}")
        return value

    def refuse(self, **allowed: Any) -> None:
        """ConfigUnsupported unless each key is absent, null or the given value (one of them, for a tuple)."""
        for key, expected in allowed.items():
            value = self.values.get(key)
            choices = expected if isinstance(expected, tuple) else (expected,)
            if value is not None and value not in choices:
                raise ConfigUnsupported(
                    f"{self.family}: {key}={value!r} is not supported (only {choices[0] if choices else None!r})"
                )

    def common(self) -> None:
        """Refusals that hold for every family."""
        self.refuse(quantization_config=False, quantization=False, use_sliding_window=False)

    def activation(self, key: str = "hidden_act") -> str:
        names = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
        value = self.get(key, "silu")
        if value not in names:
            raise ConfigUnsupported(f"{self.family}: {key}={value!r} is not supported (one of {', '.join(names)})")
        return names[value]

    def dtype(self) -> str:
        value = self.values.get("dtype") or self.values.get("torch_dtype") or "bfloat16"
        name = str(value).removeprefix("torch.")
        if name not in ("float32", "bfloat16", "float16"):
            raise ConfigUnsupported(f"{self.family}: torch_dtype={value!r} is not supported")
        return name

    def heads(self) -> dict[str, int]:
        """num_heads, num_kv_heads (0 or absent: num_heads) and head_dim (absent: hidden / heads)."""
        heads = self.integer("num_attention_heads")
        hidden = self.integer("hidden_size")
        head_dim = self.integer("head_dim", 0)
        if not head_dim:
            if heads <= 0 or hidden % heads:
                raise InputError(f"config.json: hidden_size {hidden} is no multiple of num_attention_heads {heads}")
            head_dim = hidden // heads
        kv_heads = self.integer("num_key_value_heads", 0) or heads
        return {"num_heads": heads, "num_kv_heads": kv_heads, "head_dim": head_dim}

    def rope(self, head_dim: int, layer_type: str | None = None, base: str = "rope_theta") -> RopeConfig:
        """RopeConfig from `rope_parameters` (flat, or keyed by layer type), under `rope_scaling`, as transformers reads them.

        What neither says stands in keys of its own or in the class: `base` is the key of theta. `rope_scaling` is of the
        layers with `rope_theta`.
        """
        nested = self._object("rope_parameters")
        keyed = any(isinstance(part, Mapping) for part in nested.values())
        values = dict(nested.get(layer_type or "") or {} if keyed else nested)
        if base == "rope_theta":
            values |= self._object("rope_scaling")
        if values.get("rope_theta") is None:
            values["rope_theta"] = self.real(base)
        if values.get("partial_rotary_factor") is None:
            values["partial_rotary_factor"] = self.get("partial_rotary_factor", None)
        return self._rope(values, head_dim, "rope_parameters" if nested else "rope_scaling")

    def _object(self, key: str) -> Mapping[str, Any]:
        value = self.get(key, {})
        if not isinstance(value, Mapping):
            raise InputError(f"config.json: {key} must be an object, got {value!r}")
        return value

    def _rope(self, values: Mapping[str, Any], head_dim: int, key: str) -> RopeConfig:
        kind = values.get("rope_type") or values.get("type") or "default"
        numbers = Fields(values, self.family, self.hints)
        theta = numbers.real("rope_theta")
        portion = numbers.real("partial_rotary_factor", 1.0)
        if kind == "proportional":
            return RopeConfig(theta=theta, kind=kind, proportion=portion)
        rotary = None if portion == 1.0 else int(head_dim * portion)
        if kind == "default":
            return RopeConfig(theta=theta, rotary_dim=rotary)
        if kind == "linear":
            return RopeConfig(theta=theta, kind=kind, rotary_dim=rotary, factor=numbers.real("factor"))
        if kind == "llama3":
            return RopeConfig(
                theta=theta,
                kind=kind,
                rotary_dim=rotary,
                factor=numbers.real("factor"),
                low_freq_factor=numbers.real("low_freq_factor"),
                high_freq_factor=numbers.real("high_freq_factor"),
                original_max_position=numbers.integer("original_max_position_embeddings"),
            )
        raise ConfigUnsupported(f"{self.family}: {key} of type {kind!r} is not supported (default, linear, llama3)")

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
        """What generation_config.json and then config.json say of a key, each id once; the default if neither does.

        An id below 0 says that there is none, as -1 does for the pad of some releases; so does one of `size` or more:
        the embedding has no row for it.
        """
        found: dict[str, tuple[int, ...]] = {}
        for file, values in (("generation_config.json", self.hints.generation), ("config.json", self.values)):
            numbers = special_ids(values, key, file)
            missing = [number for number in numbers if number < 0 or (size is not None and number >= size)]
            if missing:
                self.hints.notes.append(f"{file}: {key} {missing} is no id of this model and means that there is none")
            found[file] = tuple(number for number in numbers if number not in missing)
        told, written = found.values()
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
    several = key == "eos_token_id" and isinstance(value, list | tuple)
    numbers: list[Any] = [] if value is None else [*value] if several else [value]
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        raise InputError(f"{file}: {key} must be an id{' or a list of ids' if several else ''}, got {value!r:.80}")
    return tuple(numbers)
