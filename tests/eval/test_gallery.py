"""The page of methods follows from the table of recipes and a summary."""

import runpy

from jaxdlm import policies
from jaxdlm.eval import summary
from tests.eval.rows import made

SCRIPT = "scripts/gallery.py"


def test_every_method_has_a_section(tmp_path):
    gallery = runpy.run_path(SCRIPT)
    found = summary.summarise({"model": "m", "split": "test", "dtype": "float32", "device": "cpu"}, made())
    line = {"label": "lookup", "policy": "lookup", "batch": 1, "accepted": 1.5, "forwards_per_token": 0.4, "equal": 9}
    meta = {"model": "t", "draft": "d", "argv": ["eval", "--output", "somewhere"]}
    pairs = {"meta": meta, "speculative": [{**line, "n": 10, "speedup_wall": {"p50": 1.25}}]}
    page = gallery["page"](found, pairs, "jaxdlm eval")
    for entry in policies.TABLE:
        assert f"\n## {entry.name}\n" in page
        assert all(f"https://arxiv.org/abs/{number.strip()}" in page for number in entry.paper.split(","))
        assert f"- Use it: {entry.use}.\n- Not: {entry.avoid}.\n" in page
    assert "| `lookup` | 1 | 1.50 | 0.400 | 9 of 10 | 1.25 × |" in page and "somewhere" not in page
    assert "| `threshold,tau=0.9` | 100.0 |" in page
    gallery["charts"](found, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"curves.svg", "threshold.svg", "low_confidence.svg"}
