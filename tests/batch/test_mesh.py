"""Which mesh a job gets that names none."""

import jax
import pytest

from jaxdlm import policies, resolve
from jaxdlm.batch import cli
from jaxdlm.batch.source import scan

STATED = {"max_new": None, "block": None}
REST = {"slots": 4, "seed": 0, "raw": False, "quiet": False, "chat": {}}


@pytest.fixture
def index(tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_text(
        '{"id": 1, "tokens": [5, 6, 7]}\n{"id": 2, "tokens": [5, 6, 7, 8, 9], "max_new": 150}\n{"id": 3, "tokens": [5]}\n'
    )
    return scan(str(file))


def planned(model, index, policy="threshold", **stated):
    rule, cache = resolve.resolve_method(policy), policies.CACHES["none"]()
    return cli.planned(model, rule, cache, index, STATED | stated, 0, False, {})


def test_the_longest_row_stands_for_all(index):
    assert index.longest.row == 1
    job = planned("tiny", index)
    assert (job.prompt, job.max_new, job.config.param_dtype, job.lm.name) == (5, 150, "float32", "tiny")
    assert job.layout.geometry.prompt == 16
    assert planned("shape:llada-8b:bfloat16", index, max_new=200).max_new == 200
    assert planned("tiny", index, "learn2pd").layout, "weights that were trained for the model by its name"


def test_a_row_that_is_refused_is_no_measure(tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_text('{"id": 1, "tokens": [99999999]}\n')
    assert planned("tiny", scan(str(file))).prompt == 1


def test_every_device_of_a_cpu_has_a_copy(index, capsys):
    mesh = cli.fitting_mesh("tiny", None, None, index, STATED, **REST)
    count = len(jax.local_devices())
    assert dict(mesh.shape) == {"data": count, "tensor": 1, "expert": 1}
    assert capsys.readouterr().err == f"# mesh data={count},tensor=1: a copy of the weights per 1 of {count} devices\n"
    cli.fitting_mesh("tiny", None, None, index, STATED, **REST | {"quiet": True})
    assert capsys.readouterr().err == ""


def test_devices_that_know_their_memory_get_what_fits(index, capsys, monkeypatch):
    class Device:
        def memory_stats(self):
            return {"bytes_limit": 1}

    found = cli.make_mesh("data=2,tensor=2")

    def fitting(job, devices, each, report):
        report(f"{job.lm.name}, {len(devices)} devices, {each} rows")
        return found

    monkeypatch.setattr("jaxdlm.plan.search.fitting", fitting)
    monkeypatch.setattr(cli, "make_mesh", lambda words: None)
    monkeypatch.setattr(jax, "local_devices", lambda: [Device()] * 4)
    rule, cache = resolve.resolve_method("threshold"), policies.CACHES["none"]()
    assert cli.fitting_mesh("tiny", rule, cache, index, STATED, **REST) is found
    said = capsys.readouterr().err.splitlines()
    assert said == ["# tiny, 4 devices, 4 rows", "# mesh data=2,tensor=2: a copy of the weights per 2 of 4 devices"]
