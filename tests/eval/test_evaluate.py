"""`jaxdlm eval` end to end on the embedded model: rows, summary, report, resuming."""

import json
import re
import time
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import cli
from jaxdlm.eval import chosen, pairs, plots, report, rows, run, summary

ARGUMENTS = [
    "eval",
    "--policies",
    "threshold,tau=[0.7,0.9]",
    "--tasks",
    "reverse,shuffle",
    "--n",
    "6",
    "--timing",
    "none",
]
TIMES = ("seconds", "speedup_batch_wall")


def evaluate(folder, *more):
    assert cli.main([*ARGUMENTS, *more, "--output", str(folder)]) == cli.OK
    return rows.read(folder / "rows.jsonl")


def without_times(found):
    return [{k: v for k, v in each.items() if k not in TIMES} for each in found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("eval")
    evaluate(made)
    return made


def test_rows_hold_what_was_decoded(folder):
    meta, found = rows.read(folder / "rows.jsonl")
    assert meta["schema"] == 1 and meta["model"] == "tiny" and meta["split"] == "test"
    assert len(found) == 2 * 3 * 6
    for row in found:
        assert row["n_tokens"] == len(row["tokens"]) == len(row["commit_step"])
        assert row["tokens"].index(2) == row["n_tokens"] - 1 if 2 in row["tokens"] else True
        assert 1 <= row["forwards"] <= row["columns"] == 16
    slow = [row for row in found if row["policy"] == "low_confidence"]
    assert len(slow) == 12 and all(row["forwards"] == 16 for row in slow)


def test_the_summary_follows_from_the_rows(folder):
    written = json.loads((folder / "summary.json").read_text())
    meta, found = rows.read(folder / "rows.jsonl")
    again = json.loads(summary.dump(summary.summarise(meta, found, skipped={})))
    for part in ("gates", "points", "curves"):
        assert again[part] == written[part]
    by = {(p["label"], p["task"]): p for p in written["points"]}
    point = by["threshold,tau=0.9", "reverse"]
    mine = [r for r in found if r["task"] == "reverse" and r["settings"] == {"tau": 0.9}]
    assert point["tpf"] == pytest.approx(sum(r["n_tokens"] for r in mine) / sum(r["forwards"] for r in mine), abs=1e-5)
    assert point["speedup_forwards"] == pytest.approx(96 / sum(r["forwards"] for r in mine), abs=1e-5)
    assert by["threshold,tau=0.9", "learned"]["n"] == 12
    assert set(point["templates"]) == {"0", "1", "2"}


@pytest.mark.slow
def test_a_run_goes_on_where_it_stopped(folder, tmp_path):
    """Cut in the middle of a line: what was written stays, the rest is the same but for the times."""
    text = (folder / "rows.jsonl").read_text()
    (tmp_path / "rows.jsonl").write_text(text[: len(text) * 2 // 3])
    kept = len(rows.read(tmp_path / "rows.jsonl")[1])
    _, found = evaluate(tmp_path)
    assert 0 < kept < len(found)
    key = lambda row: (json.dumps(row["settings"]), row["id"])  # noqa: E731
    _, whole = rows.read(folder / "rows.jsonl")
    assert sorted(without_times(found), key=key) == sorted(without_times(whole), key=key)
    assert (tmp_path / "rows.jsonl").read_text().startswith(text[: len(text) * 2 // 3])


def test_the_report_holds_everything(folder):
    page = (folder / "report.html").read_text().replace(plots.library(), "")
    assert page.count("<div class=chart") >= 3 and not re.search(r"<(script|img|link)[^>]*(src|href)=", page)
    assert "threshold" in page and "No loss" in page
    ET.fromstring((folder / "curves.svg").read_text())


@pytest.fixture(scope="module")
def validation(folder, tmp_path_factory):
    """A summary as of a validation run: threshold loses nothing at 0.9 and much at 0.7, topk_margin loses always."""
    made = tmp_path_factory.mktemp("validation")
    meta, found = rows.read(folder / "rows.jsonl")
    wrong = [{**row, "correct": False} for row in found if row["settings"] == {"tau": 0.7}]
    right = [{**row, "correct": True} for row in found if row["settings"] != {"tau": 0.7}]
    slow = [{**row, "policy": "topk_margin", "settings": {"steps": 2}} for row in wrong]
    many = [{**row, "id": f"{row['id']} {copy}"} for row in [*right, *wrong, *slow] for copy in range(40)]
    (made / "summary.json").write_text(summary.dump(summary.summarise({**meta, "split": "validation"}, many)))
    return made


@pytest.mark.slow
def test_only_what_was_chosen_is_decoded(validation, tmp_path, capsys):
    """The settings come from there, figures and verdict from here; the seconds are those of one batch after another."""
    begin = time.perf_counter()
    arguments = ["eval", "--chosen", str(validation), "--tasks", "reverse,shuffle", "--n", "6", "--timing", "none"]
    assert cli.main([*arguments, "--output", str(tmp_path)]) == cli.OK
    elapsed = time.perf_counter() - begin
    _, found = rows.read(tmp_path / "rows.jsonl")
    decoded = [("low_confidence", ()), ("threshold", (("tau", 0.9),))]
    assert {(row["policy"], tuple(row["settings"].items())) for row in found} == set(decoded)
    assert len(found) == 2 * 2 * 6 and {row["split"] for row in found} == {"test"}
    assert 0 < sum(row["seconds"] for row in found) < elapsed
    made = json.loads((tmp_path / "summary.json").read_text())
    (claim,) = [c["claim"] for c in made["curves"] if "claim" in c and c["policy"] == "threshold"]
    (point,) = [p for p in made["points"] if (p["label"], p["task"]) == ("threshold,tau=0.9", "learned")]
    assert (claim["label"], claim["speedup_forwards"]) == ("threshold,tau=0.9", point["speedup_forwards"])
    assert claim["holds"] == point["noninferior"]["0.01"]
    assert "no setting without loss" in made["skipped"]["topk_margin"]
    assert " s" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "more, named",
    [
        (["--policies", "threshold,tau=0.9"], "says the settings"),
        (["--cache", "dual,refresh_every=2"], "says the settings"),
        (["--policies", "topk_margin"], "no setting without loss"),
        (["--cache", "dual"], "no setting without loss"),
        (["--model", "tiny-dparallel"], "another model"),
        (["--model", "tiny-ar"], "--chosen means nothing for tiny-ar"),
    ],
)
def test_what_contradicts_a_choice_is_refused(validation, more, named, tmp_path, capsys):
    assert (
        cli.main(["eval", "--chosen", str(validation), "--n", "6", *more, "--output", str(tmp_path)]) == cli.BAD_INPUT
    )
    assert named in capsys.readouterr().err


def test_a_choice_is_read_from_a_validation_run_alone(folder, tmp_path, capsys):
    for text, named in (
        ((folder / "summary.json").read_text(), "ran on the test split"),
        ("[]", "cannot be read"),
        ('{"meta": {"split": "validation"}}', "cannot be read"),
        ("{", "cannot be read"),
    ):
        (tmp_path / "summary.json").write_text(text)
        assert cli.main(["eval", "--chosen", str(tmp_path), "--output", str(tmp_path / "out")]) == cli.BAD_INPUT
        assert named in capsys.readouterr().err
    assert cli.main(["eval", "--chosen", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == cli.BAD_INPUT


def test_settings_come_back_from_json_as_they_were():
    settings = {"answer_start": 0, "thresholds": (10.5, 5.0, 2.5)}
    assert chosen.as_given(json.loads(json.dumps(settings))) == settings
    for name, of in (("none", {}), ("dual", {"refresh_every": 2})):
        assert run.cache_of(run.cache_label(name, of)) == (name, of)


@pytest.mark.slow
def test_draft_and_target(tmp_path, capsys):
    """Every row of a lossless method equals one token per forward, and takes no more target forwards."""
    arguments = ["eval", "--model", "tiny-ar", "--policies", "speculative,k=3", "--tasks", "copy", "--n", "4"]
    assert cli.main([*arguments, "--timing", "4,4", "--output", str(tmp_path)]) == cli.OK
    slow, fast = json.loads((tmp_path / "summary.json").read_text())["speculative"]
    assert (slow["policy"], slow["accepted"], slow["tokens_per_forward"]) == ("autoregressive", 0, 1)
    assert fast["equal"] == fast["n"] == 4
    assert 1 < fast["tokens_per_forward"] <= 4
    assert fast["tokens_per_forward"] <= fast["accepted"] + 1
    assert fast["forwards_per_token"] == pytest.approx(1 / fast["tokens_per_forward"], abs=1e-3)
    assert "speculative" in (tmp_path / "report.html").read_text()
    assert fast["tasks"]["copy"]["tokens_per_forward"] == fast["tokens_per_forward"] and fast["speedup_total"] > 0
    goes_on(tmp_path, [*arguments, "--timing", "4"])
    assert cli.main([*arguments[:2], "tiny", "--draft", "tiny-draft", "--output", str(tmp_path)]) == cli.BAD_INPUT
    assert "tiny-ar" in capsys.readouterr().err


def goes_on(folder, arguments):
    """A run that was cut within a line keeps what it has and ends with the same rows."""
    path, key = folder / "rows.jsonl", lambda row: (row["policy"], row["id"])
    text = path.read_text()
    whole = sorted(rows.read(path)[1], key=key)
    path.write_text(text[: len(text) * 3 // 4])
    kept = rows.read(path)[1]
    assert cli.main([*arguments, "--output", str(folder)]) == cli.OK
    found = sorted(rows.read(path)[1], key=key)
    bare = lambda lines: [{k: v for k, v in line.items() if k not in pairs.TIMES} for line in lines]  # noqa: E731
    assert bare(found) == bare(whole) and 0 < len(kept) < len(found) == 8
    assert all(line in found for line in kept)


LINE = {
    "kind": "row", "id": "a", "task": "chat", "policy": "autoregressive", "settings": {}, "draft": None, "batch": 4,
    "group": "a", "tokens": [5, 6, 7, 2], "n_tokens": 4, "forwards": 4, "accepted": 0, "draft_forwards": 0,
    "correct": None, "seconds": 2.0, "seconds_baseline": 2.0,
}  # fmt: skip


def test_figures_of_pairs_follow_from_rows():
    """Two prompts in two batches: one is written in half the forwards, one comes out otherwise; answers are not known."""
    other = {"id": "b", "task": "code", "group": "b"}
    quick = {"policy": "lookup", "settings": {"k": 4}, "seconds_baseline": 2.0}
    found = [
        LINE, {**LINE, **other}, {**LINE, **quick, "forwards": 2, "accepted": 2, "seconds": 1.0},
        {**LINE, **quick, **other, "tokens": [5, 2], "n_tokens": 2, "forwards": 2, "seconds": 4.0},
    ]  # fmt: skip
    slow, fast = pairs.summarise(found)
    assert (slow["equal"], slow["tokens_per_forward"], slow["speedup_wall"]["p50"]) == (2, 1, 1)
    assert (fast["label"], fast["equal"], fast["n"], fast["accuracy"]) == ("lookup,k=4", 1, 2, None)
    assert (fast["tokens_per_forward"], fast["accepted"], fast["batches"]) == (1.5, 0.5, 2)
    assert fast["speedup_wall"] == {"p25": 0.875, "p50": 1.25, "p75": 1.625} and fast["speedup_total"] == 0.8
    assert fast["tokens_per_second"] == 1.2
    counts = {name: (each["tokens_per_forward"], each["equal"]) for name, each in fast["tasks"].items()}
    assert counts == {"chat": (2, 1), "code": (1, 0)}
    drawn = ET.fromstring(plots.svg(report.pairs_chart({"speculative": [slow, fast]})))
    words = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"lookup,k=4", "chat", "code", "2.00", "1.00"} <= set(words)
    labelled = [
        path for path in drawn.iter("{http://www.w3.org/2000/svg}path") if "group" in path.get("aria-label", "")
    ]
    bars = [float(re.search(r"h([\d.]+)v", path.get("d"))[1]) for path in labelled]
    assert bars[0] == pytest.approx(2 * bars[1], abs=0.2)


@pytest.mark.parametrize(
    "more, named",
    [
        (["--policies", "threshold"], "threshold is for diffusion models"),
        (["--policies", "speculative,k=99"], "k=99"),
        (["--draft", "tiny"], "diffusion model"),
        (["--tasks", "prompts,copy"], "prompts stands alone"),
        (["--tasks", "prompts", "--split", "test"], "--split means nothing with --tasks prompts"),
        (["--tasks", "prompts", "--n", "9"], "must be a whole number from 1 to 8"),
        (["--tasks", "prompts", "--model", "tiny"], "no answers to check"),
        (["--dtype", "float8"], "float8"),
        (["--policies", "autoregressive", "--max-new", "40000"], "40000"),
    ],
)
def test_what_an_autoregressive_model_cannot_be_asked(more, named, tmp_path, capsys):
    arguments = [
        "eval",
        "--model",
        "tiny-ar",
        "--tasks",
        "copy",
        "--n",
        "1",
        "--timing",
        "1",
        "--policies",
        "speculative",
    ]
    assert cli.main([*arguments, *more, "--output", str(tmp_path)]) == cli.BAD_INPUT
    assert named in capsys.readouterr().err and not (tmp_path / "rows.jsonl").exists()


def test_another_run_is_refused(folder, capsys):
    assert cli.main([*ARGUMENTS, "--seed", "5", "--output", str(folder)]) == cli.BAD_INPUT
    assert "seed=0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more, named",
    [
        (["--tasks", "revers"], "revers"),
        (["--tasks", "code"], "--run-code"),
        (["--n", "0"], "--n"),
        (["--timing", "0"], "--timing"),
        (["--cache", "dul"], "did you mean 'dual'"),
        (["--max-new", "4"], "needs 16"),
    ],
)
def test_bad_input(more, named, tmp_path, capsys):
    assert cli.main([*ARGUMENTS, *more, "--output", str(tmp_path)]) == cli.BAD_INPUT
    assert named in capsys.readouterr().err


@pytest.mark.slow
def test_cached_forwards_are_those_of_the_cache():
    """Counted from commit steps, and by noting every call of the cache."""
    lm = jd.load("tiny")
    bench = run.bench(lm, ["reverse"], n=4, split="test", seed=0, canvas=16, block=8, batch=4)
    for interval in (None, 2):
        unit = run.Unit("threshold", {}, "dual", {} if interval is None else {"refresh_every": interval}, "reverse")
        for row in run.run(bench, unit):
            out, _ = run.decode(bench, unit, [e for e in bench.examples["reverse"] if e.id == row["id"]])
            ticks = ticks_by_hand(out.commit_step[0], int(out.forwards[0]), 8)
            full = sum(tick == 0 if interval is None else tick % interval == 0 for tick in ticks)
            assert row["forwards_cached"] == row["forwards"] - full
            assert row["positions"] == full * 48 + row["forwards_cached"] * 8


def ticks_by_hand(steps, forwards, block):
    ticks, begin = [], 0
    for at in range(forwards):
        before = [max(steps[a : a + block]) for a in range(0, len(steps), block)]
        current = sum(end < at for end in np.maximum.accumulate(before))
        begin = 0 if current == 0 else max(np.maximum.accumulate(before)[:current]) + 1
        ticks.append(at - begin)
    return ticks


@pytest.mark.parametrize(
    "policy, cache, expected",
    [
        ("threshold", "none", (48, 48)), ("threshold", "dual", (48, 4)), ("threshold", "prefix", (48, 16)),
        ("threshold", "adaptive", (48, 16)), ("threshold", "layer_reuse", (48, 48)),
        ("freedave", "none", (48 * 4, 48 * 4)), ("freedave", "dual", (48, 4 * 4)),
    ],
)  # fmt: skip
def test_positions_of_a_forward(policy, cache, expected):
    """Of a stepper all its versions, but a cache that stores reads everything for one of them alone."""
    bench = run.bench(jd.load("tiny"), ["reverse"], n=1, split="test", seed=0, canvas=16, block=4, batch=4)
    settings = {"draft_steps": 4} if policy == "freedave" else {}
    prompt = next(iter(bench.prompts.values()))
    assert run._positions(bench, run.Unit(policy, settings, cache, {}, "reverse"), prompt) == expected
