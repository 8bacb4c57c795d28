"""What a grammar adds to one step of an 8B model on a TPU, by the program that its compiler makes; no TPU is needed (extra
tpu-aot).

    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python benchmarks/language_step.py

Eight rows, a block of 32 columns, 126,464 ids, a grammar as large as that of the schema of six fields in `grammar.py`: 479
states, 476 classes (548 in an earlier compiler), 5,384 pairs of states with 1,833 classes in their groups, as its arrays are
padded (512, 1,024, 8,192, 2,048): the policy's step behind the logits with `threshold`, free and under the grammar, and the
weights' share of the forward before it (16 bits, 8e9 of them). Operations are the compiler's count, which has the body of a
loop once; bytes are those of the large memory (`hbm.py`), loops in full.
"""

import json
import os

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

import jax
import jax.numpy as jnp
import numpy as np
from hbm import moved
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxdlm as jd
from jaxdlm.core.carry import Automaton, Row, Text, Update
from jaxdlm.models.config import TokenIds
from jaxdlm.rules.grammar import constrained

ROWS, COLUMNS, VOCAB, STATES, CLASSES, PAIRS, MEMBERS, WEIGHTS = 8, 32, 126_464, 512, 1024, 8_192, 2_048, 8e9
IDS = TokenIds(mask=126_336, pad=0, eos=(126_081,))


def step(policy, logits, tokens, pending, automaton, key):
    """One row's step, as the loop makes it."""
    column, full, zero = jnp.arange(COLUMNS, dtype=jnp.int32), jnp.ones(COLUMNS, bool), jnp.int32(0)
    row = Row(
        tokens=tokens, open=pending, pending=pending, active=full, prefilled=~full, column=column, position=column,
        exists=full, step=zero, tick=zero, block=zero, blocks=1, ids=IDS, text=Text(tokens, ~pending, zero), grammar=automaton,
    )  # fmt: skip
    update, _ = policy.apply(Update(logits), policy.init(COLUMNS, VOCAB), row, key)
    return update.token, update.commit, update.score, update.logits


def main() -> None:
    device = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
    where = NamedSharding(Mesh(np.array([device]), ("one",)), PartitionSpec())

    def array(*shape, kind=jnp.int32):
        return jax.ShapeDtypeStruct((ROWS, *shape), kind, sharding=where)

    automaton = Automaton(
        array(VOCAB), array(CLASSES, kind=jnp.float32), array(STATES, CLASSES), array(STATES, kind=bool), array(STATES),
        array(PAIRS), array(PAIRS), array(PAIRS), array(MEMBERS), array(MEMBERS), array(), array(), array(), array(),
        array(STATES, kind=bool),
    )  # fmt: skip
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), ROWS))
    keys = jax.ShapeDtypeStruct(keys.shape, keys.dtype, sharding=where)
    logits = array(COLUMNS, VOCAB, kind=jnp.float32)
    forward = {"operations": 2 * WEIGHTS * ROWS * COLUMNS, "bytes": 2 * WEIGHTS}
    found = {"forward": forward}
    for name, policy, language in (("free", jd.threshold(), None), ("grammar", constrained(jd.threshold()), automaton)):
        mapped = jax.vmap(
            lambda *args, policy=policy: step(policy, *args), in_axes=(0, 0, 0, 0 if language else None, 0)
        )
        inputs = logits, array(COLUMNS), array(COLUMNS, kind=bool), language, keys
        program = jax.jit(mapped, donate_argnums=0).lower(*inputs).compile()  # nobody else reads a forward's logits
        found[name] = {"operations": program.cost_analysis()["flops"], "bytes": moved(program.as_text())}
    more = {kind: found["grammar"][kind] - found["free"][kind] for kind in forward}
    found["added, of a forward"] = {kind: round(more[kind] / forward[kind], 4) for kind in forward}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
