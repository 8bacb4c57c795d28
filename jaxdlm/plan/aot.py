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

from jaxdlm import _decode, distribution, layout
from jaxdlm._load import LM
from jaxdlm.command import without_tpu
from jaxdlm.core.model import Model
from jaxdlm.errors import InputError
from jaxdlm.models import Backbone, ModelConfig
from jaxdlm.models.params import abstract_params
from jaxdlm.models.registry import released_config
from jaxdlm.plan.chips import GIB, chip_of
from jaxdlm.sharding import batch_sharding, make_mesh, param_shardings, striped
from jaxdlm.typing import PyTree


@dataclasses.dataclass(frozen=True)
class Job:
    """What is decoded: `prompt` columns (rounded up to a bucket) and `max_new` more, for `batch` rows at once.

    model: a released one by its name, or a configuration.
    """

    model: str | ModelConfig
    batch: int
    prompt: int
    max_new: int
    block: int | None = None
    policy: Any = "threshold"
    cache: Any = "none"
    dtype: str = "bfloat16"

    @functools.cached_property
    def config(self) -> ModelConfig:
        config = released_config(self.model) if isinstance(self.model, str) else self.model
        return dataclasses.replace(config, param_dtype=self.dtype)

    @functools.cached_property
    def layout(self) -> _decode.Batch:
        """The rows as `decode` would lay them out; raises InputError for what it would refuse."""
        lm = LM(Backbone(self.config), None, None, self.model if isinstance(self.model, str) else self.model.family)
        rule, cache = _decode.resolve_policy(self.policy), _decode.resolve_cache(self.cache)
        _decode.check(lm, rule, cache)
        prompts = [[0] * self.prompt] * self.batch
        return layout.lay_out(lm, prompts, max_new=self.max_new, block=self.block, seed=0, ids=None)

    @property
    def decoder(self) -> Any:
        """The model as the loop sees it."""
        return _decode.blocked(Backbone(self.config), self.layout.geometry.block)


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


def slice_mesh(topology: str, axes: dict[str, int]) -> Mesh:
    """A mesh over the described chips, e.g. {"data": 2, "tensor": -1}."""
    from jax.experimental import topologies

    chip_of(topology)
    return make_mesh(axes, topologies.get_topology_desc(topology, "tpu").devices)


def weights(job: Job, mesh: Mesh) -> PyTree:
    """The parameters as shapes with shardings."""
    return jax.tree.map(placed, abstract_params(job.config), param_shardings(job.config, mesh))


def trace_decode(job: Job, mesh: Mesh) -> Any:
    """`jaxdlm.decode` on the mesh, traced for weights that are shapes with shardings."""
    params = weights(job, mesh)
    rows = jax.tree.map(lambda x: placed(x, batch_sharding(mesh)), job.layout.rows)
    whole = NamedSharding(mesh, PartitionSpec())
    rule = jax.tree.map(lambda x: placed(np.asarray(x, np.float32), whole), _decode.resolve_policy(job.policy))
    cache = jax.tree.map(lambda x: placed(np.asarray(x, np.int32), whole), _decode.resolve_cache(job.cache))
    return jax.jit(per_group(job, mesh, striped(job.decoder, params))).trace(rows, params, rule, cache)


def compile_decode(job: Job, mesh: Mesh) -> Compiled:
    """The program of `jaxdlm.decode` on the mesh. Raises DoesNotFit where the chips' memory is too small."""
    start = time.perf_counter()
    lowered = trace_decode(job, mesh).lower()
    with tempfile.TemporaryDirectory() as folder:
        # the program itself cannot be printed where it uses instructions that only libtpu's own printer knows (v5p, v6e)
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        try:
            program = lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            raise (overflow(str(error)) or error) from None
        (text,) = (file.read_text() for file in pathlib.Path(folder).glob("*.after_optimizations.txt"))
    return Compiled(account(program, weights(job, mesh)), text, time.perf_counter() - start)


def per_group(job: Job, mesh: Mesh, model: Model) -> Any:
    """The decode of `jaxdlm batch`: the groups of chips along `data` run loops of their own and share no collective."""

    def run(rows: Any, params: PyTree, rule: Any, cache: Any) -> Any:
        return _decode._run.__wrapped__(rows, model, params, rule, cache, job.layout.geometry, "commit", 0)

    if mesh.shape.get("data", 1) == 1:
        return run

    def one(*inputs: Any) -> Any:
        carry = run(*inputs)
        return carry._replace(loops=carry.loops[None])

    split, whole = PartitionSpec("data"), PartitionSpec()
    return jax.shard_map(
        one, mesh=mesh, in_specs=(split, whole, whole, whole), out_specs=split, axis_names={"data"}, check_vma=False
    )


def account(program: Any, params: PyTree) -> Memory:
    """Splits the compiler's figures by what the bytes are."""
    stats = program.memory_analysis()
    stored = jax.tree.map(placed, program.out_info.cache, program.output_shardings.cache)
    weights, cache = bytes_per_chip(params), bytes_per_chip(stored)
    output = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return Memory(
        weights=weights,
        cache=cache,
        rows=max(stats.argument_size_in_bytes - weights, 0) + max(output - cache, 0),
        temporaries=stats.temp_size_in_bytes,
        program=stats.generated_code_size_in_bytes,
    )


def bytes_per_chip(tree: PyTree) -> int:
    """Bytes of the shards that one chip holds, without padding."""
    leaves = jax.tree.leaves(tree)
    return sum(int(np.prod(x.sharding.shard_shape(x.shape), dtype=np.int64)) * x.dtype.itemsize for x in leaves)


def overflow(message: str) -> DoesNotFit | None:
    """What the compiler says about memory that is too small; None where its complaint is another."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    found = re.search(r"\(([\d.]+)G\) exceeds available \w+ \(([\d.]+)G\)", message)
    found = found or re.search(r"Used ([\d.]+)G of ([\d.]+)G", message)
    if found is None:
        return DoesNotFit(None, None)
    needed, available = (int(float(size) * GIB) for size in found.groups())
    return DoesNotFit(needed, available)


def placed(shape: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)
