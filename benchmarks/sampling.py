"""What the controls of sampling cost: milliseconds per step of each filter and guide, beside a draw without any.

    python benchmarks/sampling.py --vocab 49152 --rows 8 --repeat 20

Logits are random; a step is what the loop does with those of one forward: penalties, temperature, filters, draw, and the
states of the guides behind the token. Prints a JSON object: name -> milliseconds, the median of --repeat.
"""

import argparse
import json
import statistics
import time
from typing import Any


def steps(vocab: int) -> dict[str, Any]:
    """name -> (guide, numbers)."""
    import jax.numpy as jnp

    import jaxdlm as jd
    from jaxdlm.guides.logit_bias import LogitBias

    return {
        "nothing": (None, {}), "top_k=50": (None, {"top_k": 50}), "top_p=0.9": (None, {"top_p": 0.9}),
        "min_p=0.05": (None, {"min_p": 0.05}), "typical_p=0.9": (None, {"typical_p": 0.9}),
        "repetition": (jd.guides.repetition(1.2), {}), "presence": (jd.guides.presence(1.0), {}),
        "frequency": (jd.guides.frequency(1.0), {}), "logit_bias": (LogitBias(jnp.zeros(vocab)), {}),
    }  # fmt: skip


def measure(guide: Any, numbers: dict[str, Any], args: argparse.Namespace) -> float:
    import jax
    import jax.numpy as jnp

    from jaxdlm.core.guide import Context
    from jaxdlm.speculative.warp import draw, warp

    law = warp(1.0, **numbers)
    logits = jax.random.normal(jax.random.key(0), (args.rows, args.vocab)) * 3
    keys = jax.random.split(jax.random.key(1), args.rows)
    begin = lambda row: guide.init(Context(jnp.zeros(8, jnp.int32), jnp.int32(8), jnp.int32(9), (), args.vocab))  # noqa: E731
    states = () if guide is None else jax.vmap(begin)(jnp.arange(args.rows))

    @jax.jit
    def step(logits: Any, states: Any) -> Any:
        bent = logits if guide is None else jax.vmap(guide.transform)(logits, states)
        token = jax.vmap(draw)(law.log_prob(bent), keys)
        return token, states if guide is None else jax.vmap(guide.advance)(states, token)

    jax.block_until_ready(step(logits, states))
    seconds = []
    for _ in range(args.repeat):
        begun = time.perf_counter()
        jax.block_until_ready(step(logits, states))
        seconds.append(time.perf_counter() - begun)
    return round(1000 * statistics.median(seconds), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab", type=int, default=49152)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=20)
    args = parser.parse_args()
    print(json.dumps({name: measure(*each, args) for name, each in steps(args.vocab).items()}, indent=1))


if __name__ == "__main__":
    main()
