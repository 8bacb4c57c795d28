"""`open_folder`: a checkpoint as a configuration and lazily readable leaves, whatever wrote it.

Four kinds: "hub" (a Hugging Face folder of a known family), "gguf" (a file of llama.cpp's, read as the Hub folder that it
was made from), "native" (our own safetensors, leaves named by tree path) and "converted" (written by checkpoints_convert).
Nothing but headers and JSON is read; no code from the checkpoint runs.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxdlm import argument
from jaxdlm.checkpoint import strict_json
from jaxdlm.checkpoint.errors import CheckpointError, DtypeUnsupported, HeaderInvalid, ShapeMismatch, TensorsMismatch
from jaxdlm.checkpoint.gguf.model import read_gguf
from jaxdlm.checkpoint.leaf import FLOATS, AsIs, LeafSpec, Piece
from jaxdlm.checkpoint.packed.schemes import floats, open_packed
from jaxdlm.checkpoint.packed.weight import KEY
from jaxdlm.checkpoint.quantised import CODES, Dequantised, Layout, read_layout, weight_dtype
from jaxdlm.checkpoint.spec import SPEC, StoredLeaf, read_spec
from jaxdlm.checkpoint.stored import stored_tensors
from jaxdlm.checkpoint.tensors import SHOWN, Tensors, compare_names, float_dtype, ignored, open_tensors, share
from jaxdlm.checkpoint.vocabulary import beyond, read_vocabulary, vocabulary_of, without_table
from jaxdlm.errors import InputError
from jaxdlm.models.config import BLOCK, ModelConfig
from jaxdlm.models.hub_config import Hints, read_generation
from jaxdlm.models.params import named_specs
from jaxdlm.models.registry import detect, family_named
from jaxdlm.models.table import Family, TensorMap

CALLED_IDLM = re.compile(r"i-?dlm|introspective", re.IGNORECASE)


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint.

    folder: of gguf the file; kind: "hub", "gguf", "native" or "converted"; family: the table used (hub and gguf);
    ignored: tensor -> rule that ignored it; notes: defaults applied, conflicts and dropped tied heads, for the manifest;
    documents: name -> contents of the JSON files that a folder would have, None where there is a folder; dtype: what the
    leaves are loaded in by default, None for each as it is stored.
    """

    folder: Path
    kind: str
    config: ModelConfig
    leaves: tuple[LeafSpec, ...]
    tensors: Tensors = field(repr=False)
    raw: Mapping[str, Any] = field(repr=False)
    family: Family | None = field(default=None, repr=False)
    maps: tuple[TensorMap, ...] = field(default=(), repr=False)
    ignored: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    documents: Mapping[str, Any] | None = field(default=None, repr=False)
    dtype: str | None = None

    def leaf(self, path: str) -> LeafSpec:
        """The leaf of that path."""
        return next(leaf for leaf in self.leaves if leaf.path == path)


def open_folder(
    path: str | Path, *, family: str = "auto", mask: int | None = None, block_size: int | None = None,
    attention: str | None = None, tensors: Tensors | None = None, tokenizer: Mapping[str, Any] | None = None,
) -> Checkpoint:  # fmt: skip
    """Open a checkpoint: a folder, or a GGUF file.

    Args: family: a family name where config.json does not tell; mask, block_size, attention: facts that some
    releases leave out of config.json; tensors: other storage than the folder's safetensors; tokenizer: its tokenizer.json,
    where it was read already.
    Raises: CheckpointError, InputError (unknown or unsupported configuration), each naming file and key.
    """
    folder = argument.path(path, "checkpoint")
    try:
        folder = folder.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be opened ({error}); give an existing folder or GGUF file") from None
    block_size = argument.whole(1, BLOCK, none=True)(block_size, "block_size")
    mask = argument.whole(none=True)(mask, "mask")
    if not folder.is_dir():
        return _gguf(folder, family, Hints(folder.stem, block_size, attention, mask))
    converted = (folder / SPEC).is_file()
    raw = {} if converted else strict_json.read_object(folder / "config.json", folder)
    if converted or raw.get("model_type") == "jaxdlm":
        source = _converted(folder) if converted else _native(folder, raw)
        own = source.config
        _agree(family=(None if family in ("auto", "jaxdlm") else family, own.family))
        config = _as_stated(own, mask=mask, block_size=block_size, attention=attention)
        return dataclasses.replace(source, config=config)
    layout = raw.pop(KEY, None)  # of quantised weights
    vocabulary = read_vocabulary(folder, tokenizer)
    hints = Hints(
        source=folder.name, block_size=block_size, attention=attention, mask=mask, generation=generation(folder),
        added_tokens=vocabulary.added, tokenizer_size=vocabulary.size,
    )  # fmt: skip
    table = _family(raw, family, folder / "config.json")
    if family == "auto" and table.name == "sdar" and CALLED_IDLM.search(folder.name):
        raise InputError(
            f"{folder}: config.json names the architecture of SDAR, and the folder I-DLM, which is another network with the "
            f"same name: state family='idlm' or family='sdar'"
        )
    config = _as_stated(table.read_config(raw, hints), mask=mask, block_size=block_size, attention=attention)
    hints.notes.extend(beyond(vocabulary, config.vocab_size))
    hints.notes.extend(note for note in [without_table(folder)] if note)
    tensors = open_tensors(folder) if tensors is None else tensors
    if not layout:
        return _hub(folder, raw, table, config, hints, floats(tensors))
    tensors, note = open_packed(layout, tensors)
    hints.notes.append(f"{note}, and loaded as {config.param_dtype} unless another type is asked for")
    return _in_dtype(_hub(folder, raw, table, config, hints, tensors), config.param_dtype)


def _gguf(path: Path, family: str, hints: Hints) -> Checkpoint:
    file = read_gguf(path)
    raw = file.documents["config.json"]
    vocabulary = vocabulary_of(file.documents.get("tokenizer.json", {}), path)
    hints = dataclasses.replace(hints, added_tokens=vocabulary.added, tokenizer_size=vocabulary.size)
    table = _family(raw, family, path)
    try:
        config = table.read_config(raw, hints)
    except InputError as error:
        reason = str(error).removeprefix("config.json: ")
        raise type(error)(f"{path}, its metadata as config.json: {reason}") from None
    config = _as_stated(config, mask=hints.mask, block_size=hints.block_size, attention=hints.attention)
    tensors = file.tensors(config, table.tensors(config))
    if file.dtype is not None:
        hints.notes.append(f"quantised tensors are loaded as {file.dtype} unless another type is asked for")
    source = _hub(path, raw, table, config, hints, tensors)
    source = source if file.dtype is None else _in_dtype(source, file.dtype)
    return dataclasses.replace(source, kind="gguf", documents=file.documents)


def _in_dtype(source: Checkpoint, dtype: str) -> Checkpoint:
    """The same, loaded in that type by default: what is dequantised has none of its own."""
    return dataclasses.replace(source, config=dataclasses.replace(source.config, param_dtype=dtype), dtype=dtype)


def _as_stated(config: ModelConfig, *, mask: int | None, block_size: int | None, attention: str | None) -> ModelConfig:
    """The configuration with what the caller stated. Raises InputError where the model has it otherwise, or not at all."""
    _agree(mask=(mask, config.tokens.mask), attention=(attention, config.attention))
    return config if block_size in (None, config.block_size) else config.in_blocks(block_size)


def _agree(**stated: tuple[Any, Any]) -> None:
    """Raises InputError for a stated fact, name -> (as stated, as the checkpoint has it), that nothing can change."""
    for name, (value, own) in stated.items():
        if value not in (None, own):
            raise InputError(
                f"{name}={argument.shown(value)}: this checkpoint has {own!r}, which is fixed: leave {name} out"
            )


def leaf_dtype(config: ModelConfig, path: str, stored: np.dtype, requested: str | None) -> np.dtype:
    """The dtype of a leaf under a request: float32 where the model insists; small float32 leaves keep float32."""
    spec = _specs(config)[path]
    if spec.dtype is not None:
        return FLOATS[spec.dtype]
    if requested is None:
        return np.dtype(stored)
    if requested not in FLOATS:
        raise InputError(f"dtype {requested!r} is unknown; one of {', '.join(FLOATS)}")
    small = spec.kind in ("norm", "scale", "layer_scalar") or path.endswith("/router")
    return np.dtype(stored) if small and stored == np.float32 else FLOATS[requested]


def _specs(config: ModelConfig) -> dict[str, Any]:
    if config not in _SPECS:
        _SPECS.clear()
        _SPECS[config] = dict(named_specs(config))
    return _SPECS[config]


_SPECS: dict[ModelConfig, dict[str, Any]] = {}  # of the model in hand: thousands of leaves ask one after another


def _family(raw: Mapping[str, Any], family: str, file: Path) -> Family:
    try:
        return detect(raw) if family == "auto" else family_named(family)
    except InputError as error:
        raise type(error)(f"{file}: {error}") from None


def generation(folder: Path) -> Mapping[str, Any]:
    """generation_config.json; empty where there is none. Raises InputError that names a field of another kind."""
    path = folder / "generation_config.json"
    return read_generation(strict_json.read_object(path, folder)) if path.is_file() else {}


def _hub(
    folder: Path, raw: Mapping[str, Any], family: Family, config: ModelConfig, hints: Hints, tensors: Tensors
) -> Checkpoint:
    present = set(tensors.infos)
    skipped = ignored(present, family.ignore)
    maps = tuple(family.tensors(config, present))
    expected = {name for entry in maps for name in entry.sources}
    shared, tied = _second_names(family, config, maps, tensors, present - set(skipped) - expected, expected - present)
    if shared or tied:
        hints.notes.append(f"tied, so that one of each pair is read: {_some({**shared, **tied})}")
    tensors, present, skipped = share(tensors, shared), present | set(shared), skipped | tied
    if not config.tie_embeddings and (head := next((name for name in family.heads if name in expected - present), "")):
        raise TensorsMismatch(
            "is missing, and config.json does not tie it to the embedding", file=folder, tensor=head,
            hint=f"set {family.tie_key} to true in config.json if the release ties them",
        )  # fmt: skip
    compare_names(expected, present - set(skipped), folder)
    _check_sources(maps, tensors)
    notes = (*hints.notes, *tensors.warnings)
    leaves = tuple(_leaves(config, maps, tensors))
    config = dataclasses.replace(config, param_dtype=_param_dtype(leaves))
    return Checkpoint(folder, "hub", config, leaves, tensors, raw, family, maps, skipped, notes)


def _second_names(
    family: Family, config: ModelConfig, maps: Iterable[TensorMap], tensors: Tensors, extra: set[str], missing: set[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """(missing name -> the stored name of the same tensor, stored name that is not read -> why).

    Savers keep one name of a tensor that has several, and not always the same one. The file's metadata says which name
    went; where it does not, the architecture says what it ties. Where both are stored, they must be equal.
    """
    shared = {name: stored for name, stored in tensors.dropped.items() if name in missing}
    tied = {stored: f"tied to {name}" for name, stored in shared.items() if stored in extra}
    for second, first in _ties(family, config, maps, extra).items():
        if first in missing:
            shared.setdefault(first, second)
        elif shared.get(first) != second:
            _check_equal(second, first, share(tensors, shared), family.tie_key)
        tied[second] = f"tied to {first}"
    return shared, tied


def _ties(family: Family, config: ModelConfig, maps: Iterable[TensorMap], extra: set[str]) -> dict[str, str]:
    """Stored name that no leaf asks for -> the name that the same tensor has in the table, by the architecture."""
    if not config.tie_embeddings:
        return {}
    embed = next(entry.sources[0] for entry in maps if entry.path == ("embed",))
    ties = {head: embed for head in family.heads if head in extra}
    if family.twins is not None:
        names = {name for entry in maps for name in entry.sources}
        second, first = family.twins
        twins = {name: first + name.removeprefix(second) for name in extra if name.startswith(second)}
        ties |= {name: twin for name, twin in twins.items() if twin in names}
    return ties


def _check_equal(second: str, first: str, tensors: Tensors, tie_key: str) -> None:
    a, b = tensors.infos[second], tensors.infos[first]
    same = (a.dtype, a.shape) == (b.dtype, b.shape)
    count = a.shape[0] if a.shape else 1
    step = max(1, 2**26 // max(1, a.nbytes // max(1, count)))
    for start in range(0, count, step) if same else ():
        rows = (start, min(start + step, count)) if a.shape else None
        parts = (np.atleast_1d(tensors.read(name, rows)).view(np.uint8) for name in (second, first))
        same = same and bool(np.array_equal(*parts))
    if not same:
        raise ShapeMismatch(
            f"differs from {first}, but config.json ties them", file=tensors.file(second), tensor=second,
            hint=f"set {tie_key} to false in config.json",
        )  # fmt: skip


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:SHOWN]) + (f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else "")


def _check_sources(maps: Iterable[TensorMap], tensors: Tensors) -> None:
    pieces: dict[tuple[str, Any], tuple] = {}
    for entry in maps:
        for name in entry.sources:
            info = tensors.infos[name]
            if float_dtype(info) is None or info.dtype == "F64":
                raise DtypeUnsupported(
                    f"holds {info.dtype}", file=tensors.file(name), tensor=name,
                    hint="use a release in float32, bfloat16 or float16",
                )  # fmt: skip
            if info.shape != tuple(entry.source_shape):
                raise ShapeMismatch(
                    "has a shape that config.json does not give", file=tensors.file(name), tensor=name,
                    expected=tuple(entry.source_shape), got=info.shape,
                    hint="check hidden_size, heads, head_dim and the feed-forward sizes in config.json",
                )  # fmt: skip
            key = (name, entry.op.piece)
            if pieces.setdefault(key, entry.path) != entry.path:
                raise CheckpointError(
                    f"feeds both {pieces[key]} and {entry.path}", tensor=name, hint="report the table"
                )


def _leaves(config: ModelConfig, maps: Iterable[TensorMap], tensors: Tensors) -> Iterable[LeafSpec]:
    by_path: dict[str, list[TensorMap]] = {}
    for entry in maps:
        by_path.setdefault("/".join(map(str, entry.path)), []).append(entry)
    for path, spec in _specs(config).items():
        entries = sorted(by_path.get(path, ()), key=lambda entry: entry.layer or 0)
        stacked = bool(entries) and entries[0].layer is not None
        layers = [entry.layer for entry in entries]
        if layers != (list(range(spec.shape[0])) if stacked else [None]):
            raise CheckpointError(f"leaf {path} is filled by layers {layers}, not once each", hint="report the table")
        kinds = {float_dtype(tensors.infos[name]) for entry in entries for name in entry.sources}
        widest = max((kind for kind in kinds if kind is not None), key=lambda kind: (kind.itemsize, str(kind)))
        pieces = tuple(Piece(entry.sources, entry.op) for entry in entries)
        yield LeafSpec(path, spec.shape, leaf_dtype(config, path, widest, None), pieces, stacked, tensors)


def _param_dtype(leaves: Iterable[LeafSpec]) -> str:
    return next(str(leaf.dtype) for leaf in leaves if leaf.path == "embed")


def _config_of(values: object, path: Path) -> ModelConfig:
    if not isinstance(values, dict):
        raise HeaderInvalid("has no object `jaxdlm`", file=path, hint="write the checkpoint again")
    try:
        return ModelConfig.from_json(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _native(folder: Path, raw: Mapping[str, Any]) -> Checkpoint:
    config = _config_of(raw.get("jaxdlm"), folder / "config.json")
    tensors = open_tensors(folder, slashes=True)
    specs = _specs(config)
    compare_names(set(specs), set(tensors.infos), folder)
    leaves = []
    for path, spec in specs.items():
        info = tensors.infos[path]
        kind = float_dtype(info)
        if kind is None or str(kind) not in FLOATS:
            raise DtypeUnsupported(f"holds {info.dtype}", file=tensors.file(path), tensor=path, hint="use bfloat16")
        if info.shape != spec.shape:
            raise ShapeMismatch(
                "has another shape than config.json says", file=tensors.file(path), tensor=path, expected=spec.shape,
                got=info.shape, hint="config.json and the weights do not belong together",
            )  # fmt: skip
        leaves.append(
            LeafSpec(path, spec.shape, leaf_dtype(config, path, kind, None), (Piece((path,), AsIs()),), False, tensors)
        )
    config = dataclasses.replace(config, param_dtype=_param_dtype(leaves))
    return Checkpoint(folder, "native", config, tuple(leaves), tensors, raw)


def _converted(folder: Path) -> Checkpoint:
    spec = read_spec(folder)
    tensors = stored_tensors(folder, spec)
    specs, stored = _specs(spec.config), {leaf.path: leaf for leaf in spec.leaves}
    layouts = {path: read_layout(path, how, specs, stored, folder) for path, how in spec.quantised.items()}
    arrays = {f"{layout.path}/{name}" for layout in layouts.values() for name in layout.arrays}
    compare_names(set(specs), (set(stored) - arrays) | set(layouts), folder / SPEC)
    leaves = []
    for path, expected in specs.items():
        if path in layouts:
            leaves.append(_quantised_leaf(layouts[path], stored[f"{path}/{CODES}"], tensors))
            continue
        leaf = stored[path]
        if leaf.shape != expected.shape or leaf.dtype not in FLOATS:
            raise ShapeMismatch(
                "has another shape than its configuration says", file=folder / SPEC, tensor=leaf.path,
                expected=expected.shape, got=f"{leaf.dtype}{leaf.shape}", hint="convert the checkpoint again",
            )  # fmt: skip
        pieces = tuple(Piece((leaf.name(number),), AsIs()) for number in range(len(leaf.groups)))
        leaves.append(LeafSpec(leaf.path, leaf.shape, FLOATS[leaf.dtype], pieces, leaf.split, tensors))
    return Checkpoint(folder, "converted", spec.config, tuple(leaves), tensors, {})


def _quantised_leaf(layout: Layout, codes: StoredLeaf, tensors: Tensors) -> LeafSpec:
    """The leaf as its weights: what is read of it is dequantised."""
    weights = Dequantised(tensors, layout, codes.split)
    pieces = tuple(Piece((name,), AsIs()) for name in weights.infos)
    return LeafSpec(layout.path, layout.shape, weight_dtype(layout.how), pieces, codes.split, weights)
