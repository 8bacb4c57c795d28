"""Compiles an 8B target with heads that draft for it; one JSON line per program. Run alone, since libtpu claims its process's
JAX:

    JAX_PLATFORMS=cpu python -m tests.tpu_heads [v5e:2x4 v6e:2x4]

Weights are shapes: those of the head lie whole on every chip, those of the target are split over the tensor axis.
"""

import argparse
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.models import ModelConfig
from jaxdlm.models.registry import released_config
from jaxdlm.plan.aot import Job, compile_decode, prepare, slice_mesh, trace_batch
from jaxdlm.speculative import heads, verify
from jaxdlm.speculative.drafters import dflash, eagle
from jaxdlm.speculative.heads import Trained, layer_config
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp
from tests.conformance.test_loop import whiles
from tests.tpu_programs import calls

TARGET, WORDS = "qwen3-8b", 32000  # ids that eagle3 drafts
ROWS, PROMPT, MAX_NEW = 8, 512, 128


def head(kind: str, own: ModelConfig) -> Trained:
    """The shapes of a head as one is released for a target of this size."""
    layers, taps = (5, (1, 9, 17, 25, 33)) if kind == "dflash" else (1, (2, 18, 33))
    config = layer_config(
        hidden=own.hidden_size, heads=own.num_heads, kv_heads=own.num_kv_heads, head_dim=own.head_dim,
        feed=own.intermediate_size, vocab=own.vocab_size, dtype="bfloat16", layers=layers, qk_norm=kind == "dflash",
    )  # fmt: skip
    form, leaves = heads.FORMATS[kind], {}
    for leaf, shape in heads.shapes(kind, config, len(taps), own.hidden_size, WORDS):
        shape = (layers, *shape) if form.stacked and leaf in form.layer else shape
        leaves[leaf] = jax.ShapeDtypeStruct(shape, jnp.int32 if leaf == "ids" else jnp.bfloat16)
    return Trained(leaves, config, taps, own.vocab_size, "", {"block_size": 16})


def policy(kind: str, own: ModelConfig) -> Speculation:
    sampling = warp(np.float32(1), noise="shared")
    drafter = (
        dflash.drafting(head(kind, own), sampling)
        if kind == "dflash"
        else eagle.drafting(eagle.KINDS[kind], head(kind, own))
    )
    return Speculation(drafter, sampling, verify.greedy)


def compiled(kind: str, topology: str) -> dict[str, Any]:
    """What the compiler says of the whole generation."""
    own, begin = released_config(TARGET), time.process_time()
    mesh = slice_mesh(topology, {"data": 2, "tensor": 4})
    job = Job(TARGET, ROWS, PROMPT, MAX_NEW, policy=policy(kind, own))
    traced, _ = trace_batch(job, mesh)
    made = compile_decode(job, mesh)
    return {
        "head": kind, "topology": topology, "loops": whiles(traced.jaxpr.jaxpr), "calls": calls(made.text),
        "weights": made.memory.weights, "total": made.memory.total, "seconds": round(time.process_time() - begin, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Compiles an 8B target with heads for slices of TPUs.")
    parser.add_argument("topologies", nargs="*", default=["v5e:2x4", "v6e:2x4"])
    args = parser.parse_args()
    prepare()
    for topology in args.topologies:
        for kind in ("eagle3", "dflash"):
            print(json.dumps(compiled(kind, topology)), flush=True)


if __name__ == "__main__":
    main()
