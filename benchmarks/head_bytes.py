"""What the tiled reading of the head moves on a TPU, from the compiler: nothing runs.

    python benchmarks/head_bytes.py --model llada-8b --target v5e:1x1 --columns 256     # libtpu, no TPU

Compiles one pass (`core.readout.summarise`) over the head for that many columns on one chip. Prints a JSON object: bytes
that the compiler counts for one trip, on-chip ones included, against the least there is (the tile's weights and the hidden
rows once); temporaries off the chip; and how many arrays of a tile's size a trip leaves on the chip (`vmem`) and off it
(`hbm`).
"""

import argparse
import json
import math
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxdlm.core.keys import column_gumbel
from jaxdlm.core.readout import Drawn, Readout, summarise
from jaxdlm.models import Backbone
from jaxdlm.models.registry import released_config
from jaxdlm.plan.aot import placed, prepare, slice_mesh


def compiled(model: Backbone, target: str, columns: int, hot: bool) -> Any:
    """The pass for one row of so many columns; `hot` draws Gumbel noise as well."""
    whole = NamedSharding(slice_mesh(target, {"data": 1}), PartitionSpec())
    config = model.config
    shapes = {"hidden": (columns, config.hidden_size), "head": (config.hidden_size, config.vocab_size)}
    shapes = {name: placed(jax.ShapeDtypeStruct(shape, config.param_dtype), whole) for name, shape in shapes.items()}
    position = placed(jax.ShapeDtypeStruct((columns,), "int32"), whole)

    def run(hidden: Any, head: Any, position: Any) -> Any:
        noise = lambda ids: column_gumbel(jax.random.key(0), position, ids)  # noqa: E731
        drawn = Drawn(jnp.float32(1), noise) if hot else None
        return summarise(Readout(hidden, None, {"lm_head": head}, model), drawn)

    return jax.jit(run).lower(shapes["hidden"], shapes["head"], position).compile()


def tiles(program: str, elements: int) -> dict[str, int]:
    """How many arrays of at least so many elements the instructions of a loop body leave in either memory.

    Inside a fusion nothing is stored; layouts name the memory: S(1) is the one on the chip.
    """
    bodies, found = set(re.findall(r"body=%?([\w.\-]+)", program)), {"vmem": 0, "hbm": 0}
    for part in re.split(r"\n(?=\S)", program):
        name = re.match(r"%?([\w.\-]+) ", part)
        for line in part.splitlines()[1:] if name is not None and name[1] in bodies else ():
            made = re.match(
                r"\s*(?:ROOT )?%?[\w.\-]+ = (.*?) (?:fusion|convolution|copy|copy-start|custom-call)\(", line
            )
            for shape, layout in re.findall(r"\w+\[([\d,]+)\](\{[^}]*\})?", made[1] if made else ""):
                if math.prod(int(n) for n in shape.split(",")) >= elements:
                    found["vmem" if "S(1)" in layout else "hbm"] += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Bytes of the tiled head, from the compiler.")
    parser.add_argument("--model", default="llada-8b")
    parser.add_argument("--target", default="v5e:1x1")
    parser.add_argument("--columns", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--hlo", type=pathlib.Path, help="write the last program here")
    args = parser.parse_args()
    model = Backbone(released_config(args.model))
    config, tiling = model.config, model.tiling
    report = {"model": args.model, "target": args.target, "tile": tiling.run, "tiles": tiling.count, "passes": []}
    prepare()
    for columns in args.columns:
        for hot in (False, True):
            program = compiled(model, args.target, columns, hot)
            least = 2 * config.hidden_size * (tiling.run + columns)
            text, counted = program.as_text(), int(program.cost_analysis().get("bytes accessed", 0))
            report["passes"].append({
                "columns": columns, "noise": hot, "least": least, "counted": counted,
                "ratio": round(counted / least, 3), "temporaries": program.memory_analysis().temp_size_in_bytes,
                "tiles": tiles(text, columns * tiling.run),
            })  # fmt: skip
            if args.hlo:
                args.hlo.write_text(text)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
