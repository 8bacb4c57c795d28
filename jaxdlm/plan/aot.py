"""Compiles the whole decode for TPU chips that are not here; weights are shapes with shardings and never made."""

import dataclasses
import functools
import importlib.util
import os
import pathlib
import re
import tempfile
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdlm import _decode, distribution, layout, policies, resolve
from jaxdlm._load import EMBEDDED, LM, PACKAGED, SHAPE, describe
from jaxdlm.batch import slots
from jaxdlm.command import without_tpu
from jaxdlm.core import ending, loop
from jaxdlm.core.cache import Cache
from jaxdlm.core.rule import Decoding
from jaxdlm.errors import InputError
from jaxdlm.layout import Batch
from jaxdlm.models import Backbone, ModelConfig
from jaxdlm.models.params import abstract_params, path_name
from jaxdlm.models.registry import RELEASED, released_config
from jaxdlm.plan.chips import GIB, chip_of
from jaxdlm.sharding import batch_sharding, laid, make_mesh, param_shardings, striped
from jaxdlm.speculative import loop as loop_of_pairs
from jaxdlm.speculative.decode import generate
from jaxdlm.speculative.pair import check as check_pair
from jaxdlm.speculative.policy import Decoding as PairDecoding
from jaxdlm.speculative.policy import Speculation
from jaxdlm.stops import ends_wanted, read_stops
from jaxdlm.typing import PyTree


@dataclasses.dataclass(frozen=True)
class Job:
    """The shape of a decode: `prompt` columns (rounded up to a bucket) and `max_new` more, for `batch` rows at once.

    model: a released one, one that loads by its name, a folder or a GGUF file, or a configuration. A draft that the
    policy names is looked up the same way; of both there are shapes alone.
    """

    model: str | ModelConfig
    batch: int
    prompt: int
    max_new: int
    block: int | None = None
    policy: Any = None
    cache: Any = "none"
    dtype: str | None = "bfloat16"
    name: str | None = None  # of the model, where a configuration is given

    @functools.cached_property
    def config(self) -> ModelConfig:
        return configured(self.model, self.dtype)

    @functools.cached_property
    def lm(self) -> LM:
        """The model without weights."""
        name = self.model if isinstance(self.model, str) else self.name or self.model.family
        return LM(Backbone(self.config), None, None, name)

    @functools.cached_property
    def method(self) -> Any:
        """The policy, a rule or a `Speculation`, a draft's weights as shapes."""

        def shapes(name: str) -> LM:
            config = configured(name, self.dtype)
            return LM(Backbone(config), abstract_params(config), None, name)

        return resolve.resolve_method(policies.default(self.config) if self.policy is None else self.policy, shapes)

    @functools.cached_property
    def kept(self) -> Cache:
        """The cache of a diffusion model."""
        return resolve.resolve_cache(self.cache)

    @functools.cached_property
    def layout(self) -> Batch:
        """The rows as `decode` would lay them out; raises InputError for what it would refuse."""
        resolve.check(self.lm, self.method, self.kept)
        prompts = [[0] * self.prompt] * self.batch
        return layout.lay_out(self.lm, prompts, max_new=self.max_new, block=self.block, seed=0, ids=None)

    @functools.cached_property
    def pair(self) -> tuple[Any, int]:
        """(rows, columns of the prompt bucket) of an autoregressive model; raises InputError as `decode` would."""
        check_pair(self.lm, self.method, self.max_new, self.prompt)
        prompts = [[0] * self.prompt] * self.batch
        stops = [read_stops(self.lm, True).sequences] * self.batch
        return layout.lay_out_rows(self.lm, prompts, max_new=self.max_new, seed=0, ids=None, raw=True, stops=stops)

    @property
    def autoregressive(self) -> bool:
        return isinstance(self.method, Speculation)

    @property
    def columns(self) -> tuple[int, int]:
        """(columns of the prompt, columns that a forward may write: a block, or a draft and one more)."""
        if isinstance(self.method, Speculation):
            return self.pair[1], self.method.drafter.tree.depth + 1
        return self.layout.geometry.prompt, self.layout.geometry.block

    @property
    def decoder(self) -> Any:
        """The model as the loop sees it."""
        return self.lm.model if self.autoregressive else resolve.blocked(self.lm.model, self.layout.geometry.block)


def configured(model: str | ModelConfig, dtype: str | None) -> ModelConfig:
    """The configuration of a released size (with or without "shape:"), of an embedded or packaged model, a folder or a GGUF file.

    dtype None: of the weights as they are stored. Raises InputError for an unknown name.
    """
    if isinstance(model, ModelConfig):
        config = model
    elif model.removeprefix(SHAPE) in RELEASED or not (
        model in (*EMBEDDED, *PACKAGED) or pathlib.Path(model).expanduser().exists()
    ):
        config = released_config(model.removeprefix(SHAPE))
    else:
        config = describe(model).config
    return config if dtype is None else dataclasses.replace(config, param_dtype=dtype)


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes per chip of a compiled decode.

    rows: tokens, keys and the trace, in and out. cache: stored keys and values. temporaries: the compiler's own account
    of everything else, activations and relaid weights; where a cache is updated in place it may be counted here, too.
    """

    weights: int
    cache: int
    rows: int
    temporaries: int
    program: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.rows + self.temporaries + self.program


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A decode that the compiler accepted: it fits."""

    memory: Memory
    text: str  # the optimised program
    seconds: float


class DoesNotFit(Exception):
    """The compiler refused: `needed` bytes per chip (as far as it says) of `available`."""

    def __init__(self, needed: int | None, available: int | None) -> None:
        super().__init__(f"{needed} of {available} bytes")
        self.needed, self.available = needed, available


def prepare() -> None:
    """Raises InputError without libtpu; keeps this process off real chips: the compiler needs none, and another process
    may have them."""
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            f"planning needs the TPU compiler and libtpu is not installed: {distribution.install('tpu-aot')} (Linux)"
        )
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # the lock is for chips
    without_tpu(chips=())  # topologies are named
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # a program that is found there is not printed again


def slice_mesh(topology: str, axes: dict[str, int]) -> Mesh:
    """A mesh over the described chips, e.g. {"data": 2, "tensor": -1}."""
    from jax.experimental import topologies

    chip_of(topology)
    return make_mesh(axes, topologies.get_topology_desc(topology, "tpu").devices)


def weights(job: Job, mesh: Mesh) -> PyTree:
    """The parameters as shapes with shardings, in the order in which the chips read them."""
    put = lambda path, shape, place: placed(shape, laid(path_name(path), place))  # noqa: E731
    return jax.tree_util.tree_map_with_path(put, abstract_params(job.config), param_shardings(job.config, mesh))


def trace_decode(job: Job, mesh: Mesh) -> Any:
    """`jaxdlm.decode` on the mesh, traced for weights that are shapes with shardings."""
    params = weights(job, mesh)
    rows = jax.tree.map(lambda x: placed(x, batch_sharding(mesh)), job.layout.rows)
    whole = NamedSharding(mesh, PartitionSpec())
    rule = jax.tree.map(lambda x: placed(np.asarray(x, np.float32), whole), job.method)
    cache = jax.tree.map(lambda x: placed(np.asarray(x, np.int32), whole), job.kept)
    decoding = Decoding(striped(job.decoder, params), params, rule, cache, job.layout.geometry)
    return jax.jit(per_group(mesh)).trace(rows, decoding)


def trace_batch(job: Job, mesh: Mesh) -> tuple[Any, int]:
    """The program of `jaxdlm batch` on the mesh, traced for weights that are shapes, and the bytes per chip that it stores
    of columns: a queue through the slots of every replica, or a whole batch of an autoregressive model."""
    params = weights(job, mesh)
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    if job.autoregressive:
        rows = jax.tree.map(lambda x: placed(x, batch_sharding(mesh)), job.pair[0])
        policy = jax.tree.map(lambda x: placed(x if hasattr(x, "dtype") else np.float32(x), whole), job.method)
        traced = generate.trace(rows, PairDecoding(job.lm.model, params, policy), job.pair[1], job.max_new, "none")
        return traced, pair_bytes(job, mesh)
    rule = jax.tree.map(lambda x: placed(np.asarray(x, np.float32), whole), job.method)
    cache = jax.tree.map(lambda x: placed(np.asarray(x, np.int32), whole), job.kept)
    replicas, columns = mesh.shape["data"], job.batch * loop.width(job.method, job.layout.geometry)
    model = striped(job.decoder, params, columns // replicas)
    decoding = Decoding(model, params, rule, cache, job.layout.geometry)
    count = job.batch // replicas
    ends = ending.shape([read_stops(job.lm, ends_wanted(job.method, True)).sequences])
    ready = slots.start.lower(decoding, slots=count, mesh=mesh, sides=slots.Sides(ends)).compile()
    pool = jax.tree.map(placed, ready.out_info, ready.output_shardings)

    def numbers(*shape: int, dtype: Any = np.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((replicas, *shape), dtype, sharding=split)

    one = numbers(count)
    queue = slots.Queue(
        numbers(count, job.layout.geometry.length), one, one, one, one, numbers(count, dtype=np.uint32), one, None,
        None if ends is None else numbers(count, *ends),
    )  # fmt: skip
    drain = placed(np.asarray(True), whole)
    return slots.advance.trace(pool, queue, numbers(), drain, decoding, mesh=mesh), bytes_per_chip(pool.cache)


def pair_bytes(job: Job, mesh: Mesh) -> int:
    """Bytes per chip of the keys and values that target and draft store."""
    decoding = PairDecoding(job.lm.model, abstract_params(job.config), job.method)
    stored = jax.eval_shape(
        lambda rows, decoding: loop_of_pairs.init(rows, decoding, job.pair[1], job.max_new, "none"),
        job.pair[0],
        decoding,
    )
    tensor = mesh.shape.get("tensor", 1)
    heads = tensor if job.config.num_kv_heads % tensor == 0 else 1
    own, drafted = (
        sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(part)) for part in (stored.kv, stored.drafter)
    )
    return (own // heads + drafted) // mesh.shape["data"]


def compile_decode(job: Job, mesh: Mesh, *, text: bool = True) -> Compiled:
    """The program of `jaxdlm batch` on the mesh; `text`: to be read. Raises DoesNotFit where memory is too small."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        # the program itself cannot be printed where it uses instructions that only libtpu's own printer knows (v5p, v6e)
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True} if text else None
        try:
            traced, stored = trace_batch(job, mesh)
            program = traced.lower().compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            raise (overflow(str(error)) or error) from None
        printed = [file.read_text() for file in pathlib.Path(folder).glob("*.after_optimizations.txt")]
    memory = account(program, weights_per_chip(job, mesh), stored)
    return Compiled(memory, printed[0] if text else "", time.perf_counter() - start)


def weights_per_chip(job: Job, mesh: Mesh) -> int:
    """Bytes of the weights that one chip holds, its whole draft included; nothing is compiled."""
    drafts = [x for x in jax.tree.leaves(job.method) if hasattr(x, "dtype")] if job.autoregressive else []
    return bytes_per_chip(weights(job, mesh)) + sum(x.size * x.dtype.itemsize for x in drafts)


def per_group(mesh: Mesh) -> Any:
    """One decode: the groups of chips along `data` run loops of their own and share no collective."""

    def run(rows: Any, decoding: Decoding) -> Any:
        return _decode._run.__wrapped__(rows, decoding, "commit")

    if mesh.shape.get("data", 1) == 1:
        return run

    def one(*inputs: Any) -> Any:
        carry = run(*inputs)
        return carry._replace(loops=carry.loops[None])

    split, whole = PartitionSpec("data"), PartitionSpec()
    return jax.shard_map(one, mesh=mesh, in_specs=(split, whole), out_specs=split, axis_names={"data"}, check_vma=False)


def account(program: Any, weights: int, stored: int) -> Memory:
    """Splits the compiler's figures by what the bytes are. What is stored is an argument (a pool), or a temporary."""
    stats = program.memory_analysis()
    output, rest = stats.output_size_in_bytes - stats.alias_size_in_bytes, stats.argument_size_in_bytes - weights
    inside = stored if rest < stored else 0
    return Memory(
        weights=weights,
        cache=stored,
        rows=max(rest - (stored - inside), 0) + max(output, 0),
        temporaries=max(stats.temp_size_in_bytes - inside, 0),
        program=stats.generated_code_size_in_bytes,
    )


def bytes_per_chip(tree: PyTree) -> int:
    """Bytes of the shards that one chip holds, without padding."""
    leaves = jax.tree.leaves(tree)
    return sum(int(np.prod(x.sharding.shard_shape(x.shape), dtype=np.int64)) * x.dtype.itemsize for x in leaves)


def overflow(message: str) -> DoesNotFit | None:
    """The error for a compiler's message about too little memory; None for another message."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    match = re.search(r"\(([\d.]+)G\) exceeds available \w+ \(([\d.]+)G\)", message)
    match = match or re.search(r"Used ([\d.]+)G of ([\d.]+)G", message)
    if match is None:
        return DoesNotFit(None, None)
    needed, available = (int(float(size) * GIB) for size in match.groups())
    return DoesNotFit(needed, available)


def placed(shape: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)
