"""The Ray pipeline on one machine, with real Ray: two actors give the rows of the command."""

import os
import pathlib
import warnings

import numpy as np
import pytest

from jaxdlm.batch.ray import Actor, Settings, decode_dataset
from jaxdlm.errors import InputError
from tests.batch.jobs import job, read, rows, write

MODEL = str(pathlib.Path(__file__).parents[1] / "golden" / "llada_tiny")
SETTINGS = Settings(MODEL, "low_confidence", max_new=8, block=8, slots=4, mesh="data=1")
ROWS = [*rows(17, max_new=[8, 5]), {"id": "empty", "tokens": []}]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    import jaxdlm as jd

    folder = tmp_path_factory.mktemp("command")
    source = write(folder / "in.jsonl", ROWS)
    options = {"policy": "low_confidence", "max_new": 8, "block": 8}
    assert job(source, folder / "out", lm=jd.load(MODEL), **options).run() == 0
    return {row["id"]: row for row in read(folder / "out")}


def same(row: dict, expected: dict) -> None:
    want = expected[row["id"]]
    assert list(row["tokens"]) == (want["tokens"] or [])
    assert (row["status"], row["forwards"]) == (want["status"], want["forwards"])
    assert bool(row["error"]) == (want["status"] == "error")


@pytest.mark.slow
@pytest.mark.parametrize("hole", [None, float("nan")])
def test_an_actor_alone(expected, hole):
    """Columns in, columns out, in the order that they came; in a column with holes whole numbers are floats."""
    batch = {name: [row.get(name) for row in ROWS] for name in ("id", "tokens", "max_new")}
    if hole is not None:
        batch["max_new"] = np.array([np.nan if x is None else x for x in batch["max_new"]])
    out = Actor(SETTINGS)(batch)
    assert list(out["id"]) == batch["id"]
    for index in range(len(ROWS)):
        same({name: column[index] for name, column in out.items()}, expected)


@pytest.mark.slow
def test_what_has_no_column_is_refused_and_numbers_of_rows_are_their_own(expected):
    """Of rows with and without a filter, in one program; the neutral ones are as before."""
    batch = {"id": [row["id"] for row in ROWS[:4:2]], "tokens": [row["tokens"] for row in ROWS[:4:2]]}
    out = Actor(SETTINGS)(batch | {"top_p": np.array([np.nan, 0.5]), "n": np.array([np.nan, 2.0])})
    same({name: column[0] for name, column in out.items()}, expected)
    assert "several answers and log-probabilities have no column here" in out["error"][1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_actors(expected, monkeypatch):
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "150")  # a busy machine
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray = pytest.importorskip("ray")
    local = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False, "_node_ip_address": "127.0.0.1"}
    ray.init(**local, runtime_env={"env_vars": {"PYTHONPATH": os.getcwd(), "JAX_PLATFORMS": "cpu"}})
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        dataset = ray.data.from_items(ROWS, override_num_blocks=3)
        found = decode_dataset(dataset, SETTINGS, actors=2, batch=6, num_cpus=1).take_all()
        with pytest.raises(InputError, match="no column id"):
            decode_dataset(ray.data.from_items([{"prompt": "x"}]), SETTINGS)
    finally:
        ray.shutdown()
        warnings.resetwarnings()
    assert sorted(row["id"] for row in found) == sorted(row["id"] for row in ROWS)
    for row in found:
        same(row, expected)
