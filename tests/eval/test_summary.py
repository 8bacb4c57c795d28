"""Figures of the summary, on rows made by hand."""

import pytest

from jaxdlm.eval import summary
from tests.eval.rows import made, row

META = {"model": "m"}


def point(found, label, task="learned"):
    return next(p for p in found["points"] if (p["label"], p["task"]) == (label, task))


def test_figures_by_hand():
    fast = point(summary.summarise(META, made()), "threshold,tau=0.9")
    assert (fast["n"], fast["accuracy"], fast["tpf"], fast["tpf_window"]) == (12, 1, 0.75, 4)
    assert (fast["speedup_forwards"], fast["compute_ratio"], fast["speedup_batch_wall"]) == (4, 0.25, 2)
    assert (fast["b"], fast["c"], fast["delta"], fast["mcnemar_p"], fast["equal"]) == (0, 0, 0, 1, 12)
    assert fast["kendall"] == 1
    assert fast["committed"] == [1, 1, 1]


def test_padding_changes_nothing_but_the_window():
    """The same answers on a canvas with more end-of-text columns."""
    short, long = (summary.summarise(META, [{**r, "columns": c} for r in made()]) for c in (16, 64))
    for a, b in zip(short["points"], long["points"]):
        assert b.pop("tpf_window") == 4 * a.pop("tpf_window")
        assert a == b


def test_a_task_below_its_gate_is_not_pooled():
    rows = made() + [row("sort", i, correct=i > 3) for i in range(6)]
    found = summary.summarise(META, rows)
    assert not found["gates"]["sort"]["learned"]
    assert point(found, "low_confidence")["n"] == 12
    assert point(found, "low_confidence", "all")["n"] == 18


def test_loss_is_paired_and_by_template():
    rows = made()
    for one in rows:
        if one["policy"] == "threshold" and one["task"] == "copy":
            one["correct"] = one["template"] != 0
    fast = point(summary.summarise(META, rows), "threshold,tau=0.9")
    assert (fast["b"], fast["c"]) == (2, 0)
    assert fast["delta"] == pytest.approx(-2 / 14, abs=1e-5)
    assert fast["templates"]["0"]["delta"] < 0 == fast["templates"]["1"]["delta"]
    assert not any(fast["noninferior"].values())


def test_aup_self_does_not_depend_on_other_methods():
    better = [row(task, i, "factor", {"factor": 1.0}, forwards=2) for task in ("copy", "shuffle") for i in range(6)]
    worse = [{**r, "correct": r["correct"] and not r["id"].endswith("0")} for r in made()]
    alone, beside = summary.summarise(META, worse), summary.summarise(META, worse + better)
    pick = lambda found: next(c for c in found["curves"] if c["policy"] == "threshold" and c["task"] == "copy")  # noqa: E731
    assert pick(alone)["aup_self"] == pick(beside)["aup_self"]
    assert pick(alone)["aup"] > pick(beside)["aup"]


def test_a_setting_on_fewer_rows_is_paired_with_those():
    rows = [r for r in made() if r["policy"] != "threshold" or int(r["id"].split("-")[1]) < 3]
    fast = point(summary.summarise(META, rows), "threshold,tau=0.9")
    assert fast["n"] == 6 and fast["speedup_forwards"] == 4


def test_curves_compare_the_rows_that_all_settings_share():
    """A method that ran on the easy rows only gains nothing by that."""
    rows = [{**r, "correct": r["policy"] != "threshold" or not r["id"].endswith("5")} for r in made()]
    few = [row(t, i, "factor", {"factor": 1.0}, forwards=4) for t in ("copy", "shuffle") for i in range(3)]
    curves = summary.summarise(META, rows + few)["curves"]
    by = {c["policy"]: c for c in curves if c["task"] == "learned"}
    assert by["threshold"]["n"] == by["factor"]["n"] == 6
    assert by["threshold"]["aup"] == by["factor"]["aup"]


def test_what_documents_quote_names_no_folder():
    meta = {"model": "m", "argv": ["--traceback", "eval", "--n", "5", "--output", "/a/b", "--chosen", "/c"]}
    kept = summary.compact(summary.summarise(meta, made()))
    assert kept["meta"]["argv"] == ["eval", "--n", "5", "--output", "DIR", "--chosen", "VALIDATION"]
    assert {p["task"] for p in kept["points"]} == {"learned"}
    assert kept["tasks"]["copy"]["threshold,tau=0.9 none"] == [1, 0.75, 4, 0]
