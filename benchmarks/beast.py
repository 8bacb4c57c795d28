"""Error of chunks of motion against the forwards that wrote them: a model that is trained here answers commands.

    nice -n 10 python benchmarks/beast.py --output DIR --minutes 8

The model (two layers of width 64) is trained on own smooth trajectories until --minutes are over, and goes on from DIR where it
was cut. Then held-out commands are answered in 1, 2, 3, 4 and 20 forwards, surest columns first and in random order. error: root
mean square distance between the decoded chunk and the one asked for, mean over commands, in units of the actions (a level of the
codec is 3 / 255 = 0.012); `codec` is that of the right tokens, `mean` that of answering every command by the mean chunk.
"""

import argparse
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import jaxdlm as jd
from jaxdlm.eval import motion
from jaxdlm.train.recipes import beast


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--n", type=int, default=256)
    args = parser.parse_args()
    lm, steps = beast.trained(args.output, steps=args.steps, minutes=args.minutes)
    held = motion.problems(np.random.default_rng([2**31]), args.n)  # training draws from [seed, step]
    right = np.asarray(motion.encode(jnp.asarray(held.actions)))
    mean = np.sqrt(np.mean((held.actions - held.actions.mean(0)) ** 2, axis=(1, 2))).mean()
    codec = motion.error(right, held.actions).mean()
    print(json.dumps({"steps": steps, "codec": round(float(codec), 4), "mean": round(float(mean), 4)}), flush=True)
    for order, forwards in [(order, k) for order in ("low_confidence", "random") for k in (1, 2, 3, 4, beast.CANVAS)]:
        policy = f"{order},steps={forwards}"
        out = jd.decode(
            lm, held.command.tolist(), policy, max_new=beast.CANVAS, block=beast.CANVAS, stop=False, save="none"
        )
        off = abs(out.tokens.astype(int) - right)
        error = motion.error(out.tokens, held.actions).mean()
        line = {"error": error, "levels off": off.mean(), "tokens right": (off == 0).mean()}
        figures = {name: round(float(value), 4) for name, value in line.items()}
        print(json.dumps({"order": order, "forwards": int(out.forwards.max()), **figures}), flush=True)


if __name__ == "__main__":
    main()
