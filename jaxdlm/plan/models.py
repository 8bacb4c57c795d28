"""The models that there are: how large, which chips hold them, and how to decode them; all of it derived."""

import functools
from typing import Any, NamedTuple

from jax.sharding import AbstractMesh

from jaxdlm import policies
from jaxdlm._load import EMBEDDED, describe
from jaxdlm.checkpoint.placement import leaves_of
from jaxdlm.checkpoint.room import per_device
from jaxdlm.errors import InputError
from jaxdlm.models.config import DTYPES, ModelConfig
from jaxdlm.models.params import named_specs
from jaxdlm.models.registry import HUB, RELEASED, released_config
from jaxdlm.plan.chips import CHIPS, TOPOLOGIES, device_count
from jaxdlm.plan.search import ROOM
from jaxdlm.registry import caches
from jaxdlm.resolve import check, resolve_cache, resolve_method
from jaxdlm.sharding import partition
from jaxdlm.speculative.policy import Speculation

HOST = (1, 2, 4, 8)  # devices that hold one copy of the weights


class Entry(NamedTuple):
    """A model. bytes: of its weights by dtype; chips: of each generation, how many hold a copy in bfloat16 (None: no host
    does); policy, cache: the default, and the cache that changes no answer; hub: its id there; plan, measure: commands that
    tell what it needs, and how good and how fast it is with these."""

    name: str
    family: str
    weights: int
    bytes: dict[str, int]
    chips: dict[str, int | None]
    policy: str
    cache: str
    hub: str | None
    plan: str | None
    measure: str


def entries() -> list[Entry]:
    """All models: those that come along, then the released ones of each family."""
    own = [entry(name, describe(name).config) for name in EMBEDDED]
    return own + [entry(name, released_config(name)) for name in RELEASED]


def entry(name: str, config: ModelConfig) -> Entry:
    """What is known of a model by its configuration."""
    policy, cache = policies.default(config), exact_cache(name, config)
    with_cache = "" if cache in ("none", "") else f" --cache {cache}"
    released = name in RELEASED
    devices = {each: fewest(config, each.hbm) for each in CHIPS.values()}
    chips = {each.generation: count and -(-count // each.devices) for each, count in devices.items()}
    plan = f"jaxdlm plan --model {name} --topology {slice_of(chips)}{with_cache}" if released else None
    tasks = " --tasks prompts" if released else ""
    measure = f"jaxdlm eval --model {name} --policies {policy}{with_cache}{tasks} --output results"
    weights = sum(functools.reduce(int.__mul__, spec.shape, 1) for _, spec in named_specs(config))
    sizes = {dtype: per_device(leaves_of(config, dtype)) for dtype in DTYPES}
    return Entry(name, config.family, weights, sizes, chips, policy, cache, HUB.get(name), plan, measure)


def exact_cache(name: str, config: ModelConfig) -> str:
    """The cache that changes no answer of a model: one made for its attention, else none; "" where left to right."""
    from jaxdlm._load import LM
    from jaxdlm.models import Backbone

    policy = resolve_method(policies.default(config))
    if isinstance(policy, Speculation):
        return ""
    lm = LM(Backbone(config), None, None, name)
    for each in caches():
        cache = resolve_cache(each)
        if cache.attention != config.attention:
            continue
        try:
            check(lm, policy, cache)
        except InputError:
            continue
        return each
    return "none"


def fewest(config: ModelConfig, hbm: int, dtype: str = "bfloat16") -> int | None:
    """Devices of one host, a power of two, that hold a copy of the weights with room beside them; None: it takes more."""
    for count in HOST:
        mesh = AbstractMesh((count,), ("tensor",))
        if held(config, mesh, dtype) <= ROOM * hbm:
            return count
    return None


def slice_of(chips: dict[str, int | None]) -> str:
    """The smallest slice that holds a copy, of the first generation that has one on a host; else the largest."""
    for generation, count in chips.items():
        for topology in TOPOLOGIES:
            if (
                count
                and topology.startswith(generation)
                and device_count(topology) == count * CHIPS[generation].devices
            ):
                return topology
    return TOPOLOGIES[-1]


def held(config: ModelConfig, mesh: Any, dtype: str) -> int:
    """Bytes of the weights on one device of a mesh."""
    places = {path: _Split(partition(spec, mesh), mesh) for path, spec in named_specs(config)}
    return per_device(leaves_of(config, dtype), places)


class _Split(NamedTuple):
    """A sharding of chips that are not here."""

    spec: Any
    mesh: Any

    def shard_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        sizes = [1 if axis is None else self.mesh.shape[axis] for axis in self.spec]
        return tuple(size // share for size, share in zip(shape, sizes, strict=True))
