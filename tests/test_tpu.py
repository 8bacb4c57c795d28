"""Whole decodes compile for TPUs: every recipe, and released sizes, which fit their memory; needs libtpu, no TPU."""

import json
import math
import re

import pytest

from jaxdlm import policies
from jaxdlm.command import MAX_NEW
from jaxdlm.models.params import count_params
from jaxdlm.models.registry import released_config
from tests import test_recipes, tpu_programs
from tests.tpu_child import python, report

pytest.importorskip("libtpu")

OTHERS = ("v5p:1x1x1", "v6e:1x1")
GIB = 2**30
VOCAB, ROWS, COLUMNS, BLOCK, LAYERS = 126464, 8, 512, 32, 32


def plan(folder, *options):
    """The JSON of `jaxdlm plan` and the program."""
    program = folder / "program.txt"
    printed = python("-m", "jaxdlm", "plan", *options, "--no-search", "--json", "--hlo", str(program))
    return json.loads(printed), program.read_text()


def largest(program, dtype):
    """Elements of the largest array of a type that any instruction makes."""
    shapes = re.findall(rf"\b{dtype}\[([\d,]+)\]", program)
    return max(math.prod(int(size) for size in shape.split(",")) for shape in shapes)


# what the compiler itself puts into a program; a host callback, a send or an infeed would be another name
PLAIN = {
    "TopK",
    "AllocateBuffer",
    "AssumeGatherIndicesInBound",
    "ConcatBitcast",
    "GatherScatterIndicesBitpacked",
    "ZeroCrop",
}


def test_the_programs_are_all():
    kinds = tpu_programs.programs()
    every = kinds["masked"] + kinds["cached"] + kinds["pairs"]
    assert {recipe for recipe, _ in every} == set(policies.RECIPES)
    assert {recipe for recipe, _ in kinds["cover"]} == set(policies.RECIPES) - set(tpu_programs.ALIKE)
    assert set(tpu_programs.ALIKE.values()) <= set(policies.RECIPES)
    for programs in (every, kinds["cover"]):
        assert {cache for _, cache in programs} - {""} == set(policies.CACHES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    ["cover", *(pytest.param(kind, marks=pytest.mark.exhaustive) for kind in ("masked", "cached", "pairs", "further"))],
)
def test_every_recipe_and_every_cache_compiles(kind):
    """A recipe of each kind in one program, with a cache or without; exhaustive: every recipe, and each cache under its own."""
    programs = [json.loads(line) for line in python("-m", "tests.tpu_programs", kind).splitlines()]
    assert [(one["recipe"], one["cache"]) for one in programs] == tpu_programs.programs()[kind]
    for one in programs:
        # a draft with exits has a loop of its own behind each but the last: the next part of its layers, where asked for;
        # the exact cache reads two blocks a trip until what a row skipped is read; some read ahead token by token, one of
        # them behind a walk down a tree
        ahead = {"s2d": 2, "adadec": 1, "transfer_q": 1, "pg_td": 2}.get(one["recipe"], 0)
        inner = ahead + (one["cache"] in ("block_exact", "sub_block"))
        assert one["loops"] == 1 + inner, f"{one}: decoding is one `while`"
        assert set(one["calls"]) <= PLAIN, f"{one}: nothing leaves the chip before the last token"


@pytest.mark.exhaustive
@pytest.mark.parametrize(("recipe", "host"), [("gke-jobset.yaml", "v5e:2x2"), ("kuberay.yaml", "v5e:2x4")])
def test_what_a_recipe_runs_compiles_and_fits_its_hosts(recipe, host, tmp_path):
    """The recipes name LLaDA-8B; hosts of a v5e:4x4 have four chips. tests/test_recipes.py holds the others to the same."""
    args = test_recipes.command_of(recipe)
    assert args.model == "GSAI-ML/LLaDA-8B-Instruct"
    options = [
        "--model",
        "llada-8b",
        "--topology",
        host,
        "--mesh",
        args.mesh,
        "--policy",
        args.policy,
        "--cache",
        args.cache,
    ]
    mesh = test_recipes.mesh_of(args)
    options += ["--batch", str(args.slots * mesh["data"]), "--max-new", str(args.max_new or MAX_NEW)]
    found, _ = plan(tmp_path, *options, "--length", str(COLUMNS))
    assert found["mesh"] == mesh and found["fits"] and found["bytes"]["total"] < found["bytes_available"]
    stored = 2 * LAYERS * COLUMNS * 4096 * 2 * args.slots
    assert found["bytes"]["cache"] == stored // mesh["tensor"], "split by heads, and once"
    calls = {kind: forward["collective_calls"] for kind, forward in found["forwards"].items()}
    assert all({one["group"] for one in each} == {mesh["tensor"]} for each in calls.values()), "copies share nothing"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "tensor"), [pytest.param("v5p:2x2x1", 2, marks=pytest.mark.exhaustive), ("v6e:2x4", 4)]
)
def test_decode_of_llada_8b_compiles_and_fits(topology, tensor, tmp_path, capsys):
    """The formulas are those of every slice; v5e is that of the recipes above."""
    options = ["--model", "llada-8b", "--topology", topology, "--mesh", f"data=2,tensor={tensor}"]
    found, program = plan(tmp_path, *options, "--batch", str(ROWS), "--length", str(COLUMNS), "--block", str(BLOCK))
    need, limit = found["bytes"], found["bytes_available"]
    with capsys.disabled():
        parts = ", ".join(f"{name} {size / GIB:.3f}" for name, size in need.items() if name != "total")
        print(f"\n{topology}: {need['total'] / GIB:.2f} of {limit / GIB:.2f} GiB per chip ({parts})")
    share = count_params(released_config("llada-8b")) * 2 / tensor
    assert share <= need["weights"] < 1.01 * share, "the weights are split over the tensor axis, nothing is twice"
    assert need["rows"] < 1_000_000
    assert need["total"] < limit and found["fits"]
    # the head reads one block of a chip's rows: never float32 logits of all columns, nor of the whole vocabulary
    rows = ROWS // 2
    allowed = max(rows * BLOCK * VOCAB // tensor, rows * LAYERS // tensor * COLUMNS**2)
    assert largest(program, "f32") <= allowed < rows * COLUMNS * VOCAB // tensor
    # a layer reduces twice, the embedding once; beside that only figures of the policy, and nothing leaves its group
    calls = found["forwards"]["every"]["collective_calls"]
    reduced = (2 * LAYERS + 1) * rows * COLUMNS * 4096 * 2
    assert reduced <= sum(one["bytes"] for one in calls) < 1.001 * reduced
    assert {one["group"] for one in calls if one["bytes"] > 100_000} == {tensor}


@pytest.mark.exhaustive
def test_decode_of_a_16b_mixture_of_experts_compiles_and_fits(tmp_path):
    """Every leaf lies as the converter's sharding table says: four chips hold a copy, each a quarter."""
    options = ["--model", "llada2-mini", "--topology", "v5e:2x4", "--mesh", "data=2,tensor=4"]
    found, _ = plan(tmp_path, *options, "--batch", "8", "--policy", "llada2")
    share = count_params(released_config("llada2-mini")) * 2 / 4
    assert share <= found["bytes"]["weights"] < 1.02 * share
    assert found["fits"] and found["bytes"]["total"] < found["bytes_available"]
    calls = found["forwards"]["every"]["collective_calls"]
    assert {one["group"] for one in calls if one["bytes"] > 100_000} == {4}, "rows of different groups never meet"


@pytest.mark.slow
def test_the_kernel_of_long_rows_writes_no_scores(capsys):
    """A layer of LLaDA-8B over 4096 columns: "auto" is the kernel, Mosaic takes it, and what is left are activations."""
    found = report("attention_memory", "--layers", "1", "--length", "4096")
    plain, tiled = found["xla"], found["auto"]
    with capsys.disabled():
        print(f"\n{found}")
    assert plain["largest"] >= 2**28, "a chunk of scores"
    assert tiled["largest"] <= 4 * 4096 * 12288, "float32 of one feed-forward at the most"
    assert tiled["temporaries"] < plain["temporaries"] - 2**27


@pytest.mark.exhaustive
def test_the_kernel_of_long_rows_on_several_chips():
    """Rows over two groups of chips, heads over the four of each: every chip runs the kernel on its own."""
    found = report("attention_memory", "--layers", "1", "--target", "v5e:2x4", "--tensor", "4", "--rows", "2")
    assert (found["xla"]["kernels"], found["auto"]["kernels"]) == (0, 1)
    assert found["auto"]["bytes"] < found["xla"]["bytes"]
    assert found["auto"]["temporaries"] < found["scores"] / 8, "the scores of a chip's rows and heads"


@pytest.mark.slow
@pytest.mark.parametrize("group", [(), ("--group", "64")], ids=["per channel", "in groups"])
def test_quantised_weights_are_read_as_codes(group):
    """A feed-forward layer of LLaDA-8B moves its codes and scales once; no dequantised weight is written to memory."""
    for one in report("weight_bytes", *group)["weights"]:
        assert one["counted"] < 1.1 * one["held"] and one["whole_in_hbm"] == 0, one


@pytest.mark.slow
@pytest.mark.parametrize("target", ["v5e:1x1", *(pytest.param(each, marks=pytest.mark.exhaustive) for each in OTHERS)])
def test_experts_are_read_once_where_they_lie(target):
    """A layer of LLaDA2-mini, 8 rows of a block: the weights of the experts that are chosen and the shared ones, no layer
    of them copied; the rows of a tile that are nobody's cost operations, which are far from being what limits."""
    (one,) = report("expert_bytes", "--target", target, "--rows", "8")["layers"]
    assert one["operations_ratio"] < 2, one
    if target == "v5e:1x1":
        assert one["ratio"] < 1.15 and one["whole_in_hbm"] == 0, one
    assert one["temporaries"] < 2**26, "a layer's experts are 1.6 GB"


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("model", "cache", "block"),
    [("llada-8b", "dual", 32), ("sdar-8b", "block_exact", 4)],
)
def test_a_decode_with_a_cache_compiles_within_a_minute(model, cache, block, capsys):
    """The whole decode of an 8B model, traced and compiled: core seconds, as other tests may hold the cores."""
    options = ["--target", "v5e:2x2", "--tensor", "4", "--batch", "8", "--decode", "alone"]
    options += ["--model", model, "--cache", cache, "--block", str(block)]
    found = report("step_memory", *options, quick=False)
    with capsys.disabled():
        print(f"\n{model}, {cache}: {found['decode_seconds']} s, {found['decode_core_seconds']} s of one core")
    assert found["decode_core_seconds"] <= 60
    assert not found["weight_copies"], "query, key and value weights lie as the chips read them"
