"""The arithmetic of a plan, against numbers worked out by hand."""

import math

import jax
import pytest

from jaxdlm.models.params import count_params
from jaxdlm.models.registry import released_config
from jaxdlm.plan import cost
from jaxdlm.plan.aot import Job
from jaxdlm.plan.chips import CHIPS, chip_count
from jaxdlm.plan.collectives import Collective
from jaxdlm.sharding import make_mesh

V5E = CHIPS["v5e"]


def job(**changes):
    return Job(**({"model": "llada-8b", "batch": 8, "prompt": 256, "max_new": 256, "block": 32} | changes))


def mesh(**axes):
    return make_mesh(axes, jax.devices()[: math.prod(axes.values())])


def test_work_of_llada_8b_on_one_chip():
    """2 · weights · tokens, and 4 · layers · heads · head size · tokens · keys, with the head on one block of columns."""
    work = cost.work(job(batch=2), mesh(data=1), refresh=True, cache_bytes=10)
    table = 126464 * 4096
    layers = count_params(released_config("llada-8b")) - 2 * table
    norms = (2 * 32 + 1) * 4096
    attention = 4 * 32 * 32 * 128 * 2 * 512 * 512
    assert work.flops == pytest.approx(2 * (layers - norms) * 2 * 512 + 2 * table * 2 * 32 + attention, rel=1e-12)
    assert work.weight_bytes == 2 * (layers - norms + table)
    assert work.cache_bytes == 0


def test_work_is_split_over_the_mesh():
    whole = cost.work(job(), mesh(data=1), refresh=True, cache_bytes=0)
    for axes in ({"data": 1, "tensor": 4}, {"data": 2, "tensor": 2}):
        split = cost.work(job(), mesh(**axes), refresh=True, cache_bytes=0)
        assert split.flops == pytest.approx(whole.flops / 4)
        assert split.weight_bytes == pytest.approx(whole.weight_bytes / axes["tensor"])


def test_heads_that_the_mesh_does_not_divide_are_computed_twice():
    """Dream has 28 heads and 4 of keys: 8 chips leave the attention whole."""
    from jax.sharding import AbstractMesh

    four, eight = (AbstractMesh((1, size), ("data", "tensor")) for size in (4, 8))
    share = cost.work(job(model="dream-7b"), eight, refresh=True, cache_bytes=0).flops
    assert share > 0.55 * cost.work(job(model="dream-7b"), four, refresh=True, cache_bytes=0).flops


def test_experts_are_read_as_far_as_tokens_choose_them():
    config = released_config("llada2-mini")
    few = cost.work(
        job(model="llada2-mini", batch=1, cache="block_exact", block=4), mesh(data=1), refresh=False, cache_bytes=0
    )
    many = cost.work(job(model="llada2-mini", batch=64), mesh(data=1), refresh=True, cache_bytes=0)
    experts = (config.num_layers - 1) * 3 * config.num_experts * config.hidden_size * config.expert_size * 2
    saved = many.weight_bytes - few.weight_bytes
    assert saved == pytest.approx(experts * (1 - 8 / 256) ** 4, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "refresh", "read"),
    [
        ({}, True, (512, 512)),
        ({"cache": "dual"}, True, (512, 512)),
        ({"cache": "dual"}, False, (32, 512 + 32)),
        ({"cache": "dual", "model": "dream-7b"}, False, (33, 512 + 33)),
        ({"cache": "prefix"}, False, (256, 512 + 256)),
        ({"cache": "block_exact", "model": "sdar-8b", "block": 4}, False, (4, 512 + 4 + 4)),
        ({"cache": "block_exact", "model": "sdar-8b", "block": 4}, True, (8, 512 + 4 + 8)),
    ],
)
def test_tokens_and_keys_come_from_the_cache_itself(changes, refresh, read):
    assert cost.tokens_read(job(**changes), refresh=refresh) == read


def test_guidance_doubles_the_rows():
    from jaxdlm.policies import RECIPES

    plain = cost.work(job(policy="low_confidence"), mesh(data=1), refresh=True, cache_bytes=0)
    guided = cost.work(job(policy=RECIPES["low_confidence"](cfg_scale=1.5)), mesh(data=1), refresh=True, cache_bytes=0)
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


def test_mean_over_a_block():
    assert cost.mean(10.0, 1.0, 4) == 13 / 4
    assert cost.mean(10.0, 1.0, 0.5) == 10.0


def test_bill():
    bill = cost.bill(0.1, batch=36, chips=8, tokens_per_forward=2.5, tokens=2e6, price=1.2)
    assert bill.tokens_per_second == 900
    assert bill.chip_hours_per_million == pytest.approx(8e6 / 900 / 3600)
    assert bill.chip_hours == pytest.approx(2 * bill.chip_hours_per_million)
    assert bill.price_per_million == pytest.approx(1.2 * bill.chip_hours_per_million)
    assert bill.price == pytest.approx(2 * bill.price_per_million)
    assert cost.bill(0.1, batch=1, chips=1, tokens_per_forward=1, tokens=1, price=None).price is None


def test_chip_count():
    assert [chip_count(name) for name in ("v5e:1x1", "v5e:16x16", "v5p:2x2x4")] == [1, 256, 16]
