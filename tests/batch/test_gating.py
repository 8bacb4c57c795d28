"""Rows of streams: who is decoded and who names it, rows that do not read, and the job around them."""

import json
import re

import numpy as np
import pytest

from jaxdlm.batch.gating import Gate, Gates
from jaxdlm.batch.rows import Raw
from jaxdlm.batch.source import scan
from tests.batch.jobs import Stub, job, read, write

NEAR, FAR = [1.0, 0.0], [0.0, 1.0]
ROWS = [
    {"id": "a0", "stream": "a", "tokens": [3, 9], "embedding": NEAR}, {"id": "b0", "stream": 7, "tokens": [4], "embedding": FAR},
    {"id": "a1", "stream": "a", "tokens": [3, 9, 2], "embedding": [0.95, 0.0]}, {"id": "x", "tokens": [5, 6]},
    {"id": "a2", "stream": "a", "tokens": [8, 8], "embedding": FAR},
    {"id": "b1", "stream": 7, "tokens": [4, 4], "embedding": FAR},
    {"id": "a3", "stream": "a", "tokens": [8, 9], "embedding": [0.0, 0.9]},
]  # fmt: skip


def test_each_stream_has_a_state_of_its_own(tmp_path):
    index = scan(write(tmp_path / "in.jsonl", ROWS), Gate(0.5))
    assert index.same == {2: "a0", 5: "b0", 6: "a2"} and not index.refused
    assert scan(write(tmp_path / "in.jsonl", ROWS), Gate(100.0)).same == {2: "a0", 4: "a0", 5: "b0", 6: "a0"}
    assert scan(write(tmp_path / "in.jsonl", ROWS)).same == {}


@pytest.mark.parametrize(
    ("own", "message"),
    [({"embedding": "x"}, "line 9: embeddings="), ({"embedding": [1, [2]]}, "line 9: embeddings="),
     ({"embedding": [np.nan, 1]}, "line 9: embeddings="), ({"embedding": []}, "line 9: embeddings="),
     ({"embedding": [1, 2, 3]}, "line 9: embedding has 3 numbers, those of its stream before have 2"),
     ({"embedding": NEAR, "stream": [1]}, r"line 9: stream=\[1\]: must be a string")],
)  # fmt: skip
def test_an_embedding_that_does_not_read_is_an_error_row(own, message):
    gates = Gates(Gate(0.5))
    gates.see(Raw(0, 1, {}), ROWS[0] | {"stream": None})
    gates.see(Raw(8, 9, {}), {"id": "bad"} | own)
    assert re.search(message, gates.refused[8]) and 8 not in gates.same


def test_a_job_decodes_what_has_moved_and_goes_on_where_it_was_cut(tmp_path):
    source = write(tmp_path / "in.jsonl", [*ROWS, {"id": "bad", "stream": "a", "tokens": [1], "embedding": [1.0]}])
    made = job(source, tmp_path / "out", gate=Gate(0.5))
    made.engine = Stub()
    assert made.run() == 0
    out = {row["id"]: row for row in read(tmp_path / "out")}
    assert made.engine.rows == 4 and len(out) == 8
    assert {name: row.get("same_as") for name, row in out.items() if row["status"] == "gated"} == {
        "a1": "a0", "b1": "b0", "a3": "a2",
    }  # fmt: skip
    assert out["bad"]["status"] == "error" and "embedding has 1 numbers" in out["bad"]["error"]
    assert all(out[name]["tokens"] for name in ("a0", "b0", "x", "a2")) and out["a1"]["text"] is None
    recorded = json.loads((tmp_path / "out" / "job.json").read_text())
    assert recorded["gate"] == [0.5, 1]
    again = job(source, tmp_path / "out", gate=Gate(0.5))
    again.engine = Stub()
    assert again.run() == 0 and again.engine.rows == 0
