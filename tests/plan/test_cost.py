"""The arithmetic of a plan, against numbers worked out by hand."""

import math

import jax
import pytest

from jaxdlm.models.params import count_params
from jaxdlm.models.registry import released_config
from jaxdlm.plan import cost
from jaxdlm.plan.aot import Job
from jaxdlm.plan.chips import CHIPS, device_count
from jaxdlm.plan.collectives import Collective
from jaxdlm.policies import CACHES, read
from jaxdlm.sharding import make_mesh

V5E = CHIPS["v5e"]


def job(**changes):
    return Job(**({"model": "llada-8b", "batch": 8, "prompt": 256, "max_new": 256, "block": 32} | changes))


def mesh(**axes):
    return make_mesh(axes, jax.devices()[: math.prod(axes.values())])


def test_work_of_llada_8b_on_one_chip():
    """2 · weights · tokens, and 4 · layers · heads · head size · tokens · keys, with the head on one block of columns."""
    work = cost.work(job(batch=2), mesh(data=1), refresh=True)
    table = 126464 * 4096
    layers = count_params(released_config("llada-8b")) - 2 * table
    norms = (2 * 32 + 1) * 4096
    attention = 4 * 32 * 32 * 128 * 2 * 512 * 512
    assert work.flops == pytest.approx(2 * (layers - norms) * 2 * 512 + 2 * table * 2 * 32 + attention, rel=1e-12)
    assert work.weight_bytes == 2 * (layers - norms + table)
    assert work.cache_bytes == 0


def test_work_is_split_over_the_mesh():
    whole = cost.work(job(), mesh(data=1), refresh=True)
    for axes in ({"data": 1, "tensor": 4}, {"data": 2, "tensor": 2}):
        split = cost.work(job(), mesh(**axes), refresh=True)
        assert split.flops == pytest.approx(whole.flops / 4)
        assert split.weight_bytes == pytest.approx(whole.weight_bytes / axes["tensor"])


def test_heads_that_the_mesh_does_not_divide_are_computed_twice():
    """Dream has 28 heads and 4 of keys: 8 chips leave the attention whole."""
    from jax.sharding import AbstractMesh

    four, eight = (AbstractMesh((1, size), ("data", "tensor")) for size in (4, 8))
    share = cost.work(job(model="dream-7b"), eight, refresh=True).flops
    assert share > 0.55 * cost.work(job(model="dream-7b"), four, refresh=True).flops


def test_experts_are_read_as_far_as_tokens_choose_them():
    config = released_config("llada2-mini")
    few = cost.work(job(model="llada2-mini", batch=1, cache="block_exact", block=4), mesh(data=1), refresh=False)
    many = cost.work(job(model="llada2-mini", batch=64), mesh(data=1), refresh=True)
    experts = (config.num_layers - 1) * 3 * config.num_experts * config.hidden_size * config.expert_size * 2
    saved = many.weight_bytes - few.weight_bytes
    assert saved == pytest.approx(experts * (1 - 8 / 256) ** 4, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "refresh", "columns", "stored"),
    [
        ({}, True, 512, 0),
        ({"cache": "dual"}, True, 512, 0),
        ({"cache": "dual"}, False, 32, 512),
        ({"cache": "dual", "model": "dream-7b"}, False, 33, 512),
        ({"cache": "prefix"}, False, 256, 512),
        ({"cache": "block_exact", "model": "sdar-8b", "block": 4}, False, 4, 512 + 4),
        ({"cache": "block_exact", "model": "sdar-8b", "block": 4}, True, 8, 512 + 4),
    ],
)
def test_work_of_a_forward_with_a_cache(changes, refresh, columns, stored):
    """Columns through the layers as the cache calls the model, and what it stores is read once."""
    one = job(**changes)
    config, width = one.config, one.layout.geometry.block
    found = cost.work(one, mesh(data=1), refresh=refresh)
    table = config.vocab_size * config.hidden_size
    inside = count_params(config) - 2 * table
    matrices = 2 * inside * one.batch * columns
    pairs = 4 * config.num_layers * config.num_heads * config.head_dim * one.batch * columns * (stored + columns)
    assert found.flops == pytest.approx(matrices + 2 * table * one.batch * width + pairs, rel=1e-3), "norms and biases"
    column = 2 * config.num_layers * config.num_kv_heads * config.head_dim * 2
    assert found.cache_bytes == column * one.batch * stored


BLOCKS = {"model": "fast-dllm-v2-1.5b"}
ONLY = {  # caches of models with one kind of attention
    "block_exact": BLOCKS, "sub_block": BLOCKS,
    "encoder": {"model": "diffusion-gemma-26b", "policy": "entropy_bound", "block": None},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("cache", CACHES)
def test_every_cache_is_priced(cache):
    one = job(**{"cache": cache} | ONLY.get(cache, {}))
    shares = cost.kinds(one, 4.0)
    works = {kind: cost.work(one, mesh(data=1), refresh=kind != "other") for kind in shares}
    assert sum(shares.values()) == pytest.approx(1) and all(0 < share <= 1 for share in shares.values())
    if cache != "none":
        assert works["other"].flops < works["first"].flops
        assert cost.mean({kind: work.flops for kind, work in works.items()}, shares) < works["first"].flops


@pytest.mark.parametrize(
    ("cache", "share"),
    [
        ("none", None),
        ("dual", 1 / 8),  # 32 columns of a block at four a forward
        ("recap", 1 / 2),
        ("refresh", (8 + 3) / 64),  # a row's first four forwards, too
        ("delayed", 2 / 8),
        ("layer_reuse", 5 / 8),  # ticks 0 1 2 3 5
        ("adaptive", 11 / 64),  # every 7th of 64, and the 50th
    ],
)
def test_shares_follow_the_caches_own_clock(cache, share):
    found = cost.kinds(job(cache=cache), 4.0)
    assert found == ({"every": 1.0} if share is None else pytest.approx({"first": share, "other": 1 - share}))


def pair(policy, **changes):
    return job(**{"model": "qwen3-8b", "policy": read(policy), "block": None} | changes)


def test_an_autoregressive_round_reads_the_weights_once():
    found = cost.work(pair("autoregressive"), mesh(data=1), refresh=True)
    config = released_config("qwen3-8b")
    table = config.vocab_size * config.hidden_size
    assert found.weight_bytes == pytest.approx(2 * (count_params(config) - table), rel=1e-3)
    column = 2 * config.num_layers * config.num_kv_heads * config.head_dim * 2
    assert found.cache_bytes == column * 8 * 512


@pytest.mark.slow
def test_a_draft_is_read_once_for_every_token_of_it():
    """Four tokens: the first forward reads two committed ones, the others one each; the target reads all and the last."""
    one = pair("speculative,draft=qwen3-0.6b,k=4")
    parts = cost.pair_reads(one)
    assert (parts["draft"].passes == 4).all() and (parts["draft"].query == 2 + 3).all() and parts["draft"].head == 4
    assert (parts["model"].passes == 1).all() and (parts["model"].query == 5).all() and parts["model"].head == 5
    config = released_config("qwen3-0.6b")  # its head is its table
    alone = cost.work(pair("lookup,k=4"), mesh(data=1), refresh=True)
    both = cost.work(one, mesh(data=1), refresh=True)
    assert both.weight_bytes - alone.weight_bytes == pytest.approx(4 * 2 * count_params(config), rel=1e-3)
    split = cost.work(one, mesh(data=1, tensor=4), refresh=True)
    held = both.weight_bytes - alone.weight_bytes
    assert split.weight_bytes == pytest.approx(alone.weight_bytes / 4 + held), "a draft lies whole on each chip"


def test_guidance_doubles_the_rows():
    from jaxdlm.policies import RECIPES

    plain = cost.work(job(policy="low_confidence"), mesh(data=1), refresh=True)
    guided = cost.work(job(policy=RECIPES["low_confidence"](cfg_scale=1.5)), mesh(data=1), refresh=True)
    assert guided.flops == pytest.approx(2 * plain.flops)


def test_time_adds_collectives_to_the_slower_of_compute_and_memory():
    reduce = Collective("all-reduce", 4, 2, 200_000_000)
    time = cost.time(cost.Work(197e12, 819e9 / 2, 819e9 / 4), [reduce], V5E)
    assert (time.compute, time.weights, time.cache) == (1.0, 0.5, 0.25)
    ring = 2 * 3 / 4 * 200e6 / 100e9 + 2 * 3 * cost.HOP
    assert time.collectives == pytest.approx(ring)
    assert time.floor == 1.0
    assert time.predicted == pytest.approx(1.0 + ring)
    memory = cost.time(cost.Work(0, 819e9, 819e9), [], V5E)
    assert (memory.floor, memory.predicted) == (1.0, 2.0)


def test_an_all_gather_passes_once_and_a_reduce_scatter_as_often_as_its_pieces():
    gather = cost.time(cost.Work(0, 0, 0), [Collective("all-gather", 4, 0, 100_000_000)], V5E)
    scatter = cost.time(cost.Work(0, 0, 0), [Collective("reduce-scatter", 4, 0, 25_000_000)], V5E)
    assert gather.predicted == pytest.approx(scatter.predicted) == pytest.approx(0.75e-3)


def test_the_mean_weighs_by_share():
    assert cost.mean({"first": 10.0, "other": 1.0}, {"first": 0.25, "other": 0.75}) == 13 / 4


def test_bill():
    bill = cost.bill(0.1, batch=36, chips=8, tokens_per_forward=2.5, tokens=2e6, price=1.2)
    assert bill.tokens_per_second == 900
    assert bill.chip_hours_per_million == pytest.approx(8e6 / 900 / 3600)
    assert bill.chip_hours == pytest.approx(2 * bill.chip_hours_per_million)
    assert bill.price_per_million == pytest.approx(1.2 * bill.chip_hours_per_million)
    assert bill.price == pytest.approx(2 * bill.price_per_million)
    assert cost.bill(0.1, batch=1, chips=1, tokens_per_forward=1, tokens=1, price=None).price is None


def test_device_count():
    assert [device_count(name) for name in ("v5e:1x1", "v5e:16x16", "v5p:2x2x4", "tpu7x:2x2x1")] == [1, 256, 16, 8]
