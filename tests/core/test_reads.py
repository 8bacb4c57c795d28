"""What a forward reads, for every cache: against what its page says, and against operations counted in its program."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxdlm import policies
from jaxdlm.core import reads
from jaxdlm.core.cache import Context
from jaxdlm.core.rule import Decoding
from jaxdlm.models.params import abstract_params
from jaxdlm.plan import cost
from jaxdlm.plan.aot import Job
from jaxdlm.sharding import make_mesh
from jaxdlm.steppers.freedave import draft_and_verify
from tests.conformance import toys
from tests.models.configs import CONFIGS

LAYERS, PROMPT, CANVAS, BLOCK = 3, 16, 32, 8
LENGTH = PROMPT + CANVAS
EXACT = ("block_exact", "sub_block")  # of block-causal models, whose canvas has room for the prompt's tail


def job(cache, layers=LAYERS, **changes):
    """A small job for the cache."""
    kind = toys.KINDS["sdar"] | {"block_size": BLOCK} if cache in EXACT else {}
    config = dataclasses.replace(toys.BASE, num_layers=layers, **kind)
    policy = "threshold"
    if cache == "encoder":
        config, policy = dataclasses.replace(CONFIGS["prefix_canvas"], block_size=CANVAS), "entropy_bound"
    block = CANVAS if cache == "encoder" else BLOCK
    settings = {"model": config, "batch": 1, "prompt": PROMPT, "max_new": CANVAS, "block": block, "policy": policy}
    return Job(**settings | {"cache": cache, "dtype": "float32"} | changes)


def of(one, refresh):
    decoding = Decoding(one.decoder, abstract_params(one.config), one.method, one.kept, one.layout.geometry)
    return reads.of_cache(decoding, cost.one_row(one), refresh=refresh)


# columns that each layer reads: (in a full forward, in a step), as docs/caches.md says
READ = {
    "none": ([LENGTH] * 3, [LENGTH] * 3),
    "prefix": ([LENGTH] * 3, [CANVAS] * 3),
    "dual": ([LENGTH] * 3, [BLOCK] * 3),
    "refresh": ([LENGTH] * 3, [BLOCK + 32] * 3),
    "delayed": ([LENGTH] * 3, [CANVAS] * 3),
    "adaptive": ([LENGTH] * 3, [CANVAS, CANVAS // 4, CANVAS // 4]),
    "recap": ([LENGTH] * 3, [BLOCK] * 3),
    "layer_reuse": ([LENGTH] * 3, [BLOCK, LENGTH, LENGTH]),
    "block_exact": ([2 * BLOCK] * 3, [BLOCK] * 3),
    "sub_block": ([2 * BLOCK] * 3, [BLOCK] * 3),
    "encoder": ([2 * CANVAS] * 3, [CANVAS] * 3),
}


@pytest.mark.slow
@pytest.mark.parametrize("cache", policies.CACHES)
def test_columns_of_each_layer(cache):
    one = job(cache)
    for expected, refresh in zip(READ[cache], (True, False)):
        found = of(one, refresh)
        if cache == "none":  # the last layer of a shallow stack is finished for the block alone
            np.testing.assert_array_equal(found.query, [*expected[:-1], BLOCK])
            np.testing.assert_array_equal(found.value, expected)
        else:
            np.testing.assert_array_equal(found.query[:3], expected)
        np.testing.assert_array_equal(found.out, found.query)
        np.testing.assert_array_equal(found.feed, found.query)
        if cache != "encoder":
            np.testing.assert_array_equal(found.value >= found.query, True)
        assert found.widest == max(expected)


def products(jaxpr, arm):
    """Operations of the matrix products of a program; `arm` chooses in conditions: their heaviest."""
    total = 0
    for equation in jaxpr.eqns:
        inner = [products(each, arm) for each in reads._jaxprs(equation.params)]
        if equation.primitive.name == "dot_general":
            (over, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * equation.outvars[0].aval.size * int(np.prod([left[axis] for axis in over]))
        elif equation.primitive.name == "cond":
            total += arm(inner)
        else:
            total += sum(inner) * (equation.params["length"] if equation.primitive.name == "scan" else 1)
    return total


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["none", "prefix", "dual", "refresh", "delayed", "recap", "block_exact", "sub_block"])
def test_operations_are_those_of_the_program(cache):
    """The work of a plan against the products in the traced forward itself, the head's left out."""
    one = job(cache, layers=2)  # of three the last one computes what nobody takes, until the compiler drops it
    params, geometry = abstract_params(one.config), one.layout.geometry
    for refresh in (True, False):

        def forward(params, rows, refresh=refresh):
            context = Context(one.decoder, params, geometry, geometry.block)
            state = one.kept.init(context, rows)
            run = one.kept.refresh if refresh or one.kept.recomputes_all else one.kept.step
            return run(context, rows, jax.numpy.full_like(rows.block, geometry.prompt), state).hidden

        def first(params, rows):
            return one.kept.init(Context(one.decoder, params, geometry, geometry.block), rows)

        rows = cost.one_row(one)
        both, start = (jax.make_jaxpr(f)(params, rows).jaxpr for f in (forward, first))
        mesh = make_mesh({"data": 1}, jax.devices()[:1])
        counted = cost._work(one.config, mesh, of(one, refresh), 1).flops
        assert counted == products(both, max) - products(start, max)


@pytest.mark.slow
def test_versions_of_a_row():
    """A stepper sends several: each forward without a cache, ordinary ones with one that stores."""
    for cache, many in (("none", (4, 4)), ("dual", (1, 4))):
        one, four = job(cache), job(cache, policy=draft_and_verify(toys.policy("threshold"), 4))
        for refresh, times in zip((True, False), many):
            np.testing.assert_array_equal(of(four, refresh).value, times * of(one, refresh).value)


def test_a_loop_counts_for_every_trip_and_a_condition_for_its_dearest_arm():
    watch, one = reads.Watch(), job("none")
    model = watch.model("m", one.decoder)
    params = abstract_params(one.config)

    def run(params, tokens):
        def read(count):
            part = tokens[:, :count]
            return model.apply(params, part, part, part > 0).hidden.sum()

        total, _ = jax.lax.scan(lambda x, _: (x + read(2), None), 0.0, length=5)
        return total + jax.lax.cond(total > 0, lambda: read(3), lambda: read(7))

    tokens = jax.ShapeDtypeStruct((1, 8), np.int32)
    found = watch.count(run, params, tokens)["m"]
    np.testing.assert_array_equal(found.query, 5 * 2 + 7)
    np.testing.assert_array_equal(found.passes, 6)
