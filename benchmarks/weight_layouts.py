"""In which order of axes a TPU reads query, key and value weights without laying them out again; nothing runs.

    python benchmarks/weight_layouts.py                     # libtpu, no TPU

A loop of attention layers of LLaDA-8B's widths, a quarter of the heads (tensor 4), 8 rows, compiled for one v5e chip, with
the weights stored in four orders (d: hidden, n: head, h: head size). Prints the temporaries, MiB, and how often a whole
stacked weight is copied.
"""

import json
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxdlm.plan.aot import placed, prepare, slice_mesh

LAYERS, HIDDEN, HEADS, SIZE, ROWS = 32, 4096, 8, 128, 8
FORMS = {
    "dnh": ((HIDDEN, HEADS, SIZE), "btd,dnh->btnh"), "ndh": ((HEADS, HIDDEN, SIZE), "btd,ndh->btnh"),
    "nhd": ((HEADS, SIZE, HIDDEN), "btd,nhd->btnh"), "d(nh)": ((HIDDEN, HEADS * SIZE), "btd,dm->btm"),
}  # fmt: skip


def compiled(order: str, columns: int, whole: NamedSharding) -> Any:
    """The loop over `columns` columns per row."""
    shape, form = FORMS[order]

    def layer(x: Any, weights: Any) -> tuple[Any, None]:
        q, k, v = (jnp.einsum(form, x, w).reshape(ROWS, columns, HEADS, SIZE) for w in weights[:3])
        scores = jax.nn.softmax(jnp.einsum("btnh,bsnh->bnts", q, k, preferred_element_type=jnp.float32), axis=-1)
        mixed = jnp.einsum("bnts,bsnh->btnh", scores.astype(x.dtype), v)
        return x + jnp.einsum("btnh,nhd->btd", mixed, weights[3]), None

    def run(x: Any, weights: Any, trips: Any) -> Any:
        trip = lambda c: (jax.lax.scan(layer, c[0], weights)[0], c[1] + 1)  # noqa: E731
        return jax.lax.while_loop(lambda c: c[1] < trips, trip, (x, 0))

    make = lambda shape, kind="bfloat16": placed(jax.ShapeDtypeStruct(shape, kind), whole)  # noqa: E731
    weights = (*(make((LAYERS, *shape)) for _ in range(3)), make((LAYERS, HEADS, SIZE, HIDDEN)))
    return jax.jit(run).lower(make((ROWS, columns, HIDDEN)), weights, make((), "int32")).compile()


def copies(program: str) -> int:
    """Copies of arrays as large as a stacked weight."""
    shapes = re.findall(r"= \(?bf16\[([\d,]+)\]\S* copy(?:-start)?\(", program)
    return sum(math.prod(int(n) for n in shape.split(",")) >= LAYERS * HIDDEN * HEADS * SIZE for shape in shapes)


def main() -> None:
    prepare()
    whole = NamedSharding(slice_mesh("v5e:1x1", {"data": 1}), PartitionSpec())
    for order in FORMS:
        for columns in (32, 512):
            program = compiled(order, columns, whole)
            size = round(program.memory_analysis().temp_size_in_bytes / 2**20, 1)
            one = {"order": order, "columns": columns, "temporaries": size, "copies": copies(program.as_text())}
            print(json.dumps(one), flush=True)


if __name__ == "__main__":
    main()
