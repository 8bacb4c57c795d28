"""Compiles recipes for one small slice of TPUs; one JSON line per program. Run alone, since libtpu claims its process's
JAX:

    JAX_PLATFORMS=cpu python -m tests.tpu_programs [cover pairs masked cached]

Shapes are small: two layers, two tiles of the head, two rows a chip. Recipes whose programs are one share its compilation.
"""

import argparse
import dataclasses
import json
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdlm import layout, load, policies, resolve
from jaxdlm.core.rule import Rule
from jaxdlm.models import ModelConfig, TokenIds
from jaxdlm.plan.aot import Job, placed, prepare, slice_mesh, trace_decode
from jaxdlm.sharding import batch_sharding, param_shardings
from jaxdlm.speculative.decode import generate
from jaxdlm.speculative.policy import Decoding
from tests.conformance import toys
from tests.conformance.test_loop import whiles
from tests.models.configs import CONFIGS
from tests.speculative.toys import two_modes

TOPOLOGY = "v5e:2x2"
ROWS, PROMPT, MAX_NEW, BLOCK = 8, 16, 32, 16
VOCAB, TILE = 2048, 1024  # what a recipe does to a row of the vocabulary is compiled faster for a shorter one
SIZES = {"vocab_size": VOCAB, "hidden_size": 128, "num_heads": 2, "num_kv_heads": 2, "head_dim": 64}
BLOCKED = ("sdar", "llada2", "llada21", "llada22", "fast_dllm_v2")  # recipes of models with block-causal attention
# Every cache once, a stepper under one of them.
CACHED = {
    "prefix": "threshold", "dual": "freedave", "block_exact": "llada2", "refresh": "threshold", "delayed": "threshold",
    "adaptive": "threshold", "recap": "threshold", "layer_reuse": "threshold", "sub_block": "fast_dllm_v2",
    "encoder": "entropy_bound",
}  # fmt: skip
# Recipes that are programs of much the same parts as another one.
ALIKE = toys.ALIKE | {
    "eqspec": "speculative", "exspec": "speculative", "easyspec": "speculative", "aded": "lookup",
    "aggressive": "lookup", "contrastive": "beam", "superposed": "beam", "pg_td": "beam",
    "eagle2": "ppd", "eagle3": "ppd", "dflash": "ppd",
    "gad": "speculative",
    "pearl": "speculative", "specdec_pp": "speculative", "transfer_q": "adadec", "dparallel": "threshold", "best": "threshold",
    "credit": "threshold", "learn2pd": "threshold", "ccd_ds": "ccd", "maskgit_plus": "threshold", "low_confidence": "threshold",
    "sdar": "llada2", "llada21": "llada22", "entropy": "topk_margin", "spectr": "speculative", "s2d": "speculative",
    "lud": "autoregressive",
}  # fmt: skip


# Left-to-right methods that are another program by an argument.
FURTHER = ("self_speculation,mode=quadratic", "lud,verify=true")


class Tiled(Job):
    """A job whose decoder reads the head in two parts."""

    @property
    def decoder(self) -> Any:
        return dataclasses.replace(super().decoder, tile=TILE)


def config(recipe: str) -> ModelConfig:
    """A small model of the kind that the recipe is for."""
    if recipe == "entropy_bound":
        tokens = TokenIds(mask=None, pad=0, eos=(1,))
        layers = {"num_layers": 3, "layer_kinds": ("local", "local", "global"), "block_size": BLOCK}
        return dataclasses.replace(CONFIGS["prefix_canvas"], tokens=tokens, **layers, **SIZES)
    kind = toys.KINDS["sdar"] | {"block_size": BLOCK} if recipe in BLOCKED else {}
    return dataclasses.replace(toys.BASE, **(kind | SIZES))


def trace(recipe: str, cache: str, mesh: Mesh) -> Any:
    """The whole decode of a diffusion recipe."""
    policy = policies.RECIPES[recipe](**({"weights": toys.filter_weights(BLOCK)} if recipe == "learn2pd" else {}))
    return trace_decode(Tiled(config(recipe), ROWS, PROMPT, MAX_NEW, BLOCK, policy, cache), mesh)


def trace_pair(recipe: str, mesh: Mesh) -> Any:
    """The whole generation of an autoregressive recipe with the embedded models; the draft's weights lie on every chip."""
    lm, policy = (
        two_modes(3) if recipe.startswith("self_speculation") else load("tiny-ar"),
        resolve.resolve_method(recipe),
    )
    rows, bucket = layout.lay_out_rows(lm, [[1] * PROMPT] * ROWS, max_new=MAX_NEW, seed=0, ids=None, raw=False)
    rows = jax.tree.map(lambda x: placed(x, batch_sharding(mesh)), rows)
    params = jax.tree.map(placed, lm.params, param_shardings(lm.config, mesh))
    whole = NamedSharding(mesh, PartitionSpec())
    policy = jax.tree.map(lambda x: placed(jnp.asarray(x), whole), policy)
    return generate.trace(rows, Decoding(lm.model, params, policy), bucket, MAX_NEW, "commit")


def programs() -> dict[str, list[tuple[str, str]]]:
    """(recipe, cache) by kind; no cache for the autoregressive ones."""
    masked = {name: isinstance(build(), Rule) for name, build in policies.RECIPES.items()}
    pairs = [(name, "") for name in masked if not masked[name]]
    cover = [(recipe, cache) for _, recipe, cache in toys.COVER] + [("entropy_bound", "encoder"), *pairs]
    return {
        "cover": [(recipe, cache) for recipe, cache in cover if recipe not in ALIKE],  # every cache, and kind of recipe
        "masked": [(name, "none") for name in masked if masked[name]],
        "pairs": pairs,
        "further": [(words, "") for words in FURTHER],
        "cached": [(recipe, cache) for cache, recipe in CACHED.items()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Compiles every recipe for a small slice of TPUs.")
    parser.add_argument("kinds", nargs="*", default=list(programs())[1:], metavar="kind", help=", ".join(programs()))
    args = parser.parse_args()
    prepare()
    mesh, compiled = slice_mesh(TOPOLOGY, {"data": -1}), {}
    for recipe, cache in [program for kind in args.kinds for program in programs()[kind]]:
        begin = time.process_time()  # the compiler's threads included
        traced = trace(recipe, cache, mesh) if cache else trace_pair(recipe, mesh)
        lowered = traced.lower()
        text = lowered.as_text()
        if text not in compiled:
            compiled[text] = calls(lowered.compile().as_text())
        found = {"recipe": recipe, "cache": cache, "loops": whiles(traced.jaxpr.jaxpr), "calls": compiled[text]}
        print(json.dumps(found | {"seconds": time.process_time() - begin}), flush=True)


def calls(text: str) -> list[str]:
    """What a program asks of its host or of custom code."""
    wanted = r'custom_call_target="([^"]+)"|\s(infeed|outfeed|send|recv)\('
    return sorted({custom or plain for custom, plain in re.findall(wanted, text)})


if __name__ == "__main__":
    main()
