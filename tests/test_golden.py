"""Decodes against recorded runs of the papers' official code: tokens, forwards and commit steps, all of them.

One line per recording: the policy that it stands for, from the parameters of a case. Cases with the same parameters,
length and block are one batch of ragged prompts, so each recording also checks that neighbours do not matter. Smaller
batches are filled up with a row of theirs, and all prompts stand in one bucket, so that all of a recording with one length
and block run one program; what a row's own bucket changes: tests/conformance.
"""

import dataclasses
import functools
import json
import pathlib
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import jaxdlm
from jaxdlm import layout, policies

FOLDER = pathlib.Path(__file__).parent / "golden"
RECIPES = policies.RECIPES
LONGEST = 24  # tokens of a recorded prompt


class Recording(NamedTuple):
    name: str
    policy: Callable[[dict], Any]
    cache: str = "none"
    forwards: str = "nfe"  # the entry of a case that counts forwards


RECORDINGS = [
    Recording("llada_low_confidence", lambda p: RECIPES["low_confidence"](steps=p["steps"])),
    Recording(
        "llada_low_confidence_cfg", lambda p: RECIPES["low_confidence"](steps=p["steps"], cfg_scale=p["cfg_scale"])
    ),
    Recording("fastdllm_threshold", lambda p: RECIPES["threshold"](p["threshold"])),
    Recording("fastdllm_factor", lambda p: RECIPES["factor"](p["factor"], official=True)),
    Recording("dream_entropy", lambda p: RECIPES["entropy"](steps=p["steps"])),
    Recording("dream_maskgit_plus", lambda p: RECIPES["maskgit_plus"](steps=p["steps"])),
    Recording("dream_topk_margin", lambda p: RECIPES["topk_margin"](steps=p["steps"])),
    Recording("localleap", lambda p: RECIPES["local_leap"](p["threshold"], p["relaxed_threshold"], p["radius"])),
    Recording(
        "credit_decoding",
        lambda p: RECIPES["credit"](p["alpha"], p["beta"], p["gamma"], p["threshold"], official=True),
    ),
    Recording("dparallel_llada", lambda p: RECIPES["dparallel"](p["threshold"])),
    Recording("dparallel_dream", lambda p: RECIPES["dparallel"](p["threshold"], official=True)),
    Recording("d3llm_llada", lambda p: several_blocks(**p)),
    Recording("d3llm_dream", lambda p: several_blocks(**p)),
    Recording("d2f", lambda p: RECIPES["d2f"](**p, early_stop=False)),
    Recording("prophet", lambda p: exits_early(**p)),
    Recording(
        "ccd_release",
        lambda p: RECIPES["ccd_ds" if p["seek_mode"] else "ccd"]("release", p["steps"], expand_ratio=p["expand_ratio"]),
    ),
    Recording("klass", lambda p: RECIPES["klass"](**p, official=True)),
    Recording("hierarchical", lambda p: RECIPES["hierarchical"](**p)),
    Recording("slow_fast", lambda p: RECIPES["slow_fast"](**p, official=True)),
    Recording("dawn", lambda p: RECIPES["dawn"](**p, layers=2)),
    Recording("wino", lambda p: RECIPES["wino"](p["tau"], p["back"])),
    Recording("saber", lambda p: RECIPES["saber"](**p, official=True)),
    Recording("p2", lambda p: RECIPES["p2"](**p, official=True)),
    Recording("rcr", lambda p: RECIPES["rcr"](**p)),
    Recording("remdm", lambda p: RECIPES["remdm"](**p, temperature=0.0)),
    Recording("fastdllm_prefix_cache", lambda p: in_parallel(**p), "prefix"),
    Recording("fastdllm_dual_cache", lambda p: in_parallel(**p), "dual"),
    Recording("llada2_block_diffusion", lambda p: scheduled(**p)),
    Recording("llada2_block_diffusion", lambda p: scheduled(**p), "block_exact"),
    Recording("sdar_block_diffusion", lambda p: stepwise(**p), "block_exact"),
]


def in_parallel(threshold: float | None, factor: float | None):
    if factor is not None:
        return RECIPES["factor"](factor, official=True)
    return RECIPES["low_confidence"]() if threshold is None else RECIPES["threshold"](threshold)


def scheduled(steps: int, threshold: float, minimal_topk: int):
    return RECIPES["llada2"](steps, threshold, minimal_topk)


def stepwise(denoising_steps: int, strategy: str, threshold: float | None):
    return RECIPES["sdar"](denoising_steps, strategy, 0.85 if threshold is None else threshold)


def several_blocks(
    threshold: float, block_add_threshold: float, early_stop: bool, decoded_token_threshold: float
):  # the last of these decides nothing
    return RECIPES["d3llm"](threshold, block_add_threshold, early_stop=early_stop, official=True)


def exits_early(steps: int, thresholds: dict, answer_start: int, constraints: dict | None):
    bars = tuple(thresholds[stage] for stage in ("early", "mid", "late"))
    return RECIPES["prophet"](steps=steps, answer_start=answer_start, thresholds=bars, official=True)


def prefilled(case: dict, mask: int) -> list[int]:
    """Prophet's suffix words stand in the canvas from the start."""
    words = case["params"].get("constraints") or {}
    return [words.get(str(column), mask) for column in range(case["gen_length"])]


@pytest.fixture(autouse=True)
def one_bucket(monkeypatch):
    own = layout.bucket_of
    monkeypatch.setattr(layout, "bucket_of", lambda columns, block=1: own(max(columns, LONGEST), block))


@functools.cache
def load(checkpoint: str, eos: int, attention: str | None):
    """The checkpoint, with the end-of-text token and the attention of the recording, which need not be those of its
    config.json."""
    lm = jaxdlm.load(FOLDER / checkpoint)
    config = dataclasses.replace(lm.config, tokens=dataclasses.replace(lm.config.tokens, eos=(eos,)))
    config = config if attention is None else dataclasses.replace(config, attention=attention, block_size=16)
    return dataclasses.replace(lm, model=dataclasses.replace(lm.model, config=config))


def loaded(record: dict):
    header = record["header"]
    return load(header["checkpoint"], header["eos_token_id"], header.get("attention"))


def batches(record: dict) -> list[list[dict]]:
    """The cases of a recording in batches of one size."""
    groups = defaultdict(list)
    for case in record["cases"]:
        groups[json.dumps([case["gen_length"], case["block_length"], case["params"]])].append(case)
    size = max(map(len, groups.values()))
    return [cases + cases[:1] * (size - len(cases)) for cases in groups.values()]


def shape(cases: list[dict]) -> tuple[int, int]:
    """(columns, blocks) of a batch."""
    return cases[0]["gen_length"], cases[0]["gen_length"] // (cases[0]["block_length"] or cases[0]["gen_length"])


def settings(cases: list[dict]) -> set[tuple]:
    """What a batch stands for: the value of each parameter (of steps: tokens of each), and which are absent together."""
    params, (columns, blocks) = cases[0]["params"], shape(cases)
    whole = {"steps": columns // blocks if "minimal_topk" in params else columns, "denoising_steps": columns // blocks}
    values = {name: whole[name] // value if name in whole else value for name, value in params.items()}
    found = {(name, json.dumps(value)) for name, value in values.items()}
    return found | {("absent", *sorted(name for name in params if params[name] is None))}


def covering(record: dict) -> list[list[dict]]:
    """Batches with all settings of a recording, of as few shapes as that takes: the longest, of the most blocks."""
    left, chosen, shapes = batches(record), [], set()
    missing = set().union(*map(settings, left))
    while missing:
        useful = [cases for cases in left if settings(cases) & missing]
        best = max(useful, key=lambda cases: (shape(cases) in shapes, shape(cases), len(settings(cases) & missing)))
        chosen.append(best)
        shapes.add(shape(best))
        missing -= settings(best)
    return chosen


def test_the_covering_batches_cover():
    """Every recording, each of its settings: the lengths and blocks that are left out are those of `-m exhaustive`."""
    for path in FOLDER.glob("*.json"):
        record = json.loads(path.read_text())
        if "nfe" in record.get("cases", [{}])[0]:
            every, some = batches(record), covering(record)
            assert set().union(*map(settings, some)) == set().union(*map(settings, every))
            assert all(cases in every for cases in some)


WHICH = pytest.mark.parametrize("which", [covering, pytest.param(batches, marks=pytest.mark.exhaustive)])
TWICE = {("llada2_block_diffusion", "none"): pytest.mark.exhaustive}  # by default under its exact cache alone
RUNS = [
    pytest.param(
        recording, id=f"{recording.name}-{recording.cache}", marks=TWICE.get((recording.name, recording.cache), ())
    )
    for recording in RECORDINGS
]


@pytest.mark.slow
@WHICH
@pytest.mark.parametrize("recording", RUNS)
def test_the_recorded_run_is_reproduced(recording, which):
    record = json.loads((FOLDER / f"{recording.name}.json").read_text())
    for cases in which(record):
        first = cases[0]
        out = jaxdlm.decode(
            loaded(record), [case["prompt"] for case in cases], recording.policy(first["params"]),
            recording.cache, max_new=first["gen_length"], block=first["block_length"] or first["gen_length"],
            canvas=[prefilled(case, record["header"]["mask_token_id"]) for case in cases], stop=False,
        )  # fmt: skip
        for row, case in enumerate(cases):
            where = f"{recording.name} {case['id']}"
            end = len(case["output"])  # LLaDA2's ends with its end-of-text token
            np.testing.assert_array_equal(out.tokens[row, :end], case["output"], where)
            commits = [-1 if at is None else at for at in case["commit_step"]]  # None: given
            np.testing.assert_array_equal(out.commit_step[row, :end], commits, where)
            assert out.forwards[row] == case[recording.forwards], where


def forwards_of_rounds(rounds: np.ndarray, block: int) -> tuple[np.ndarray, int]:
    """(the forward that verified each column, forwards in all) from FreeDave's rounds.

    A block begins with a forward that verifies nothing; its last round is free when one column was left.
    """
    at, spent = np.zeros_like(rounds), 0
    for first in range(0, len(rounds), block):
        here = rounds[first : first + block]
        at[first : first + block] = spent + 1 + here - here.min()
        spent += 1 + len(set(here)) - int((here == here.max()).sum() == 1)
    return at, spent


@pytest.mark.slow
@WHICH
def test_freedave_is_reproduced(which):
    """Ours writes the last verified version's own step at once, the released code at the next round: one forward later.

    Which column of a round that is, the static run says: the first of the round in its order.
    """
    record = json.loads((FOLDER / "freedave.json").read_text())
    lm = loaded(record)
    for cases in which(record):
        length, block, params = cases[0]["gen_length"], cases[0]["block_length"], cases[0]["params"]
        tau, run = params["confidence_threshold"], {"max_new": length, "block": block, "stop": False}
        run["cache"] = "dual" if params["dual_cache"] else "prefix"
        host = RECIPES["low_confidence"]() if tau is None else RECIPES["threshold"](tau)
        prompts = [case["prompt"] for case in cases]
        static = jaxdlm.decode(lm, prompts, host, **run)
        policy = RECIPES["freedave"](params["draft_steps"], host, official=tau is not None)
        out = jaxdlm.decode(lm, prompts, policy, **run)
        for row, case in enumerate(cases):
            where = f"freedave {case['id']} {params}"
            np.testing.assert_array_equal(out.tokens[row], case["output"], where)
            assert out.forwards[row] == case["nfe"], where
            assert static.forwards[row] == case["static_nfe"], where
            rounds = np.array(case["official_round"])
            at, spent = forwards_of_rounds(rounds, block)
            assert spent == case["nfe"], where
            if tau is None:
                np.testing.assert_array_equal(static.tokens[row], case["output"], where)
                order = static.commit_step[row]
                opens = [order[column] == order[rounds == rounds[column]].min() for column in range(length)]
                np.testing.assert_array_equal(out.commit_step[row], at - np.array(opens), where)
            else:
                early = at - out.commit_step[row]
                assert set(early) <= {0, 1}, where
                for number in set(rounds):
                    assert early[rounds == number].max() == 1, where
                static_output = case["output"] if case["static_output"] is None else case["static_output"]
                np.testing.assert_array_equal(static.tokens[row], static_output, where)


@pytest.mark.slow
@WHICH
def test_daedal_is_reproduced(which):
    """One forward later throughout: the first one looks at the longest canvas, from which the released loop does not start.
    A column that comes into being holds end of text until then."""
    record = json.loads((FOLDER / "daedal.json").read_text())
    for cases in which(record):
        first = cases[0]
        run = {"max_new": first["gen_length"], "block": first["block_length"], "stop": False}
        policy = RECIPES["daedal"](**first["params"])
        out = jaxdlm.decode(loaded(record), [case["prompt"] for case in cases], policy, **run)
        for row, case in enumerate(cases):
            end, commits = len(case["output"]), np.array(case["commit_step"])
            np.testing.assert_array_equal(out.tokens[row, :end], case["output"], case["id"])
            np.testing.assert_array_equal(out.commit_step[row], np.where(commits < 0, -1, commits + 1), case["id"])
            assert out.forwards[row] == case["nfe"] + 1, case["id"]
            assert (out.tokens[row, end:] == record["header"]["eos_token_id"]).all(), case["id"]
