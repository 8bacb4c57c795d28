"""Slots: what comes out of them is what `decode` says, whatever the slots, the order, the window and the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import decode, policies
from jaxdlm.batch import slots
from jaxdlm.batch.cli import make_mesh
from jaxdlm.batch.rows import randomness_key
from jaxdlm.core.rule import Decoding
from jaxdlm.sharding import param_shardings
from tests.batch.jobs import POLICY, job, read, results, rows, write
from tests.conformance.toy_models import model

TRACE = "/jax/core/compile/backend_compile_duration"
ROWS = rows(23, max_new=[8, 3], seed=[None, 5])


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """(input, output bytes) of one ordinary run."""
    folder = tmp_path_factory.mktemp("job")
    source = write(folder / "in.jsonl", ROWS)
    assert job(source, folder / "out").run() == 0
    return source, results(folder / "out"), read(folder / "out")


@pytest.mark.slow
def test_rows_are_those_of_decode(reference):
    """One by one, with their own length, seed and id."""
    _, _, found = reference
    assert [row["id"] for row in found] == [row["id"] for row in ROWS]
    lm, policy = model("same"), policies.RECIPES["threshold"](0.05)
    for asked, got in [*zip(ROWS, found)][:5]:
        key = randomness_key(asked["id"])
        out = decode(
            lm, [asked["tokens"]], policy, max_new=asked["max_new"], block=4, seed=asked.get("seed", 0), ids=[key]
        )
        assert got["tokens"] == out.tokens[0].tolist()
        assert got["forwards"] == out.forwards[0]
        assert got["status"] == str(out.status[0])


@pytest.mark.slow
def test_rows_end_at_their_own_stops(reference, tmp_path):
    """Every row ends at the third token of the run without stops, another id for each; one that says false runs on."""
    _, _, found = reference
    asked = [row | {"max_new": 8, "stop": [got["tokens"][2]]} for row, got in zip(ROWS[:6:2], found[:6:2])]
    asked.append(ROWS[6] | {"max_new": 8, "stop": False})
    out = tmp_path / "out"
    assert job(write(tmp_path / "in.jsonl", asked), out, slots=2, policy="low_confidence").run() == 0
    for row, got in zip(asked, read(out), strict=True):
        run = {"max_new": 8, "block": 4, "seed": row.get("seed", 0), "ids": [randomness_key(row["id"])]}
        alone = decode(model("same"), [row["tokens"]], policies.RECIPES["low_confidence"](), stop=row["stop"], **run)
        assert got["tokens"] == alone.tokens[0].tolist() and got["forwards"] == alone.forwards[0]
        assert got["status"] == str(alone.status[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [{"slots": 3}, {"order": "input", "window": 1, "flush": 1e-9}, {"devices": 4, "slots": 1}],
    ids=str,
)
def test_how_the_job_is_run_does_not_matter(reference, tmp_path, change):
    source, expected, _ = reference
    assert job(source, tmp_path / "out", **change).run() == 0
    assert results(tmp_path / "out") == expected


def test_the_shard_size_only_cuts(reference, tmp_path):
    source, expected, _ = reference
    assert job(source, tmp_path / "out", shard_rows=9).run() == 0
    assert results(tmp_path / "out") == expected
    assert len(list((tmp_path / "out").glob("rows-*.jsonl"))) == 3


@pytest.mark.slow
def test_a_cache_and_groups_of_lengths(tmp_path):
    """Rows enter slots while others are in the middle of theirs; a cache refreshes at the start of a block."""
    asked = rows(9) + [row | {"id": f"long {i}"} for i, row in enumerate(rows(9, 28)) if len(row["tokens"]) > 16]
    source = write(tmp_path / "in.jsonl", asked)
    assert job(source, tmp_path / "out", cache="dual").run() == 0
    out = decode(
        model("same"), [row["tokens"] for row in asked], policies.RECIPES["threshold"](0.05), "dual", max_new=8, block=4,
        ids=[randomness_key(row["id"]) for row in asked],
    )  # fmt: skip
    assert [row["tokens"] for row in read(tmp_path / "out")] == out.tokens.tolist()


@pytest.mark.exhaustive
def test_a_cache_of_final_keys_reads_the_prompts_of_rows_that_come_in(tmp_path):
    """Whatever the row before left in the slot: prompts of no, one and two whole blocks, and of a tail."""
    lm, asked = model("sdar"), rows(9)
    source = write(tmp_path / "in.jsonl", asked)
    assert job(source, tmp_path / "out", lm=lm, cache="block_exact").run() == 0
    out = decode(
        lm, [row["tokens"] for row in asked], policies.RECIPES["threshold"](0.05), "block_exact", max_new=8, block=4,
        ids=[randomness_key(row["id"]) for row in asked],
    )  # fmt: skip
    assert [row["tokens"] for row in read(tmp_path / "out")] == out.tokens.tolist()


@pytest.mark.slow
def test_temperature_length_and_seed_are_data(tmp_path):
    """Every row draws at its own temperature, as `decode` does at that one; new values compile nothing."""
    asked = rows(12, temperature=[0.5, 2.0, 0.0, None], max_new=[8, 8, 5], seed=[1, 2, 3])
    source = write(tmp_path / "in.jsonl", asked)
    assert job(source, tmp_path / "out").run() == 0
    for row in (0, 1, 3):
        want, got = asked[row], read(tmp_path / "out")[row]
        rule = policies.RECIPES["threshold"](0.05, temperature=jnp.float32(want.get("temperature", 0.0)))
        out = decode(
            model("same"), [want["tokens"]], rule, max_new=want["max_new"], block=4, seed=want["seed"],
            ids=[randomness_key(want["id"])],
        )  # fmt: skip
        assert got["tokens"] == out.tokens[0].tolist()
    cold = [row | {"temperature": 0.0} for row in asked]
    assert job(write(tmp_path / "cold.jsonl", cold), tmp_path / "cold").run() == 0
    differ = [a["tokens"] != b["tokens"] for a, b in zip(read(tmp_path / "out"), read(tmp_path / "cold"))]
    assert any(differ[0::4] + differ[1::4]) and not any(differ[2::4] + differ[3::4])

    events = []
    listen = lambda event, *_, **__: events.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        other = rows(12, temperature=[0.7, 1.3, 0.0, None], max_new=[7, 2, 4], seed=[9, 8])
        assert job(write(tmp_path / "more.jsonl", other), tmp_path / "more").run() == 0
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert TRACE not in events


def test_a_pool_lies_as_queues_leave_it():
    """Stored keys and values split by heads from the start: otherwise the second queue would compile its program
    again."""
    mesh = make_mesh("data=2,tensor=2")
    lm, rule, dual = model("same"), policies.RECIPES["threshold"](0.05), policies.CACHES["dual"]()
    params = jax.tree.map(jax.device_put, lm.params, param_shardings(lm.config, mesh))
    geometry = slots.Geometry(prompt=4, block=2, blocks=1)
    pool = slots.start(Decoding(lm.model, params, rule, dual, geometry), slots=3, mesh=mesh)
    heads = [leaf.sharding.spec[4] for leaf in jax.tree.leaves(pool.cache)]
    assert heads and set(heads) == {"tensor"}


@pytest.mark.slow
def test_exchange_by_hand():
    """Free slots fill from the lowest with waiting rows in order; finished rows leave in slot order."""
    geometry = slots.Geometry(prompt=2, block=2, blocks=1)
    lm, rule, none = model("same"), policies.RECIPES["threshold"](0.05), policies.CACHES["none"]()
    decoding = Decoding(lm.model, lm.params, rule, none, geometry)
    pool = slots.empty(decoding, 3)
    zero = jnp.zeros(2, jnp.int32)
    tokens = jnp.asarray([[1, 2, 3, 4], [5, 6, 7, 8]], jnp.int32)
    queue = slots.Queue(tokens, zero, zero, zero + 2, zero, zero.astype(jnp.uint32), jnp.asarray([40, 41]), None)
    ready = slots.waiting(queue, decoding)
    pool = pool._replace(owner=jnp.asarray([-1, 7, -1]))
    pool, head = slots.admit(pool, jnp.int32(0), jnp.int32(1), queue, ready)
    np.testing.assert_array_equal(pool.owner, [40, 7, -1])
    np.testing.assert_array_equal(pool.rows.done, [False, True, True])
    pool, head = slots.admit(pool, head, jnp.int32(2), queue, ready)
    np.testing.assert_array_equal(pool.owner, [40, 7, 41])
    np.testing.assert_array_equal(pool.rows.tokens[2], [5, 6, 7, 8])
    assert head == 2
    none5 = jnp.full(5, -1, jnp.int32)
    blank = slots.Harvest(none5, jnp.zeros((5, 2), jnp.int32), none5, none5, *[jnp.int32(0)] * 3)
    pool = pool._replace(rows=pool.rows._replace(done=jnp.asarray([False, True, True])))
    pool, harvest = slots.collect(pool, blank, geometry)
    np.testing.assert_array_equal(harvest.owner, [7, 41, -1, -1, -1])
    np.testing.assert_array_equal(harvest.tokens[1], [7, 8])
    np.testing.assert_array_equal(pool.owner, [40, -1, -1])
    assert harvest.count == 2


def test_policy_words_reach_the_job(reference):
    assert reference[2][0]["policy"].startswith(POLICY.partition(",")[0])
