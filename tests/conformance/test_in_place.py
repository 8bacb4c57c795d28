"""Ordinary forwards leave the stored keys and values where they are: counted in the compiled program."""

import re

import pytest

from jaxdlm import _decode, layout, resolve
from jaxdlm.caches.block_exact import BlockExactCache
from jaxdlm.core.rule import Decoding
from jaxdlm.plan.collectives import Program
from tests.caches.toys import toy
from tests.conformance.toys import GRID, PROMPTS, model, policy

LAYERS, HEADS, SIZE = 2, 4, 8


def computations(program: str) -> dict[str, list[str]]:
    """Instructions by computation."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in program.splitlines():
        head = re.match(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$", line)
        if head:
            name = head[1]
            found[name] = []
        elif name:
            found[name].append(line)
    return found


def reached(found: dict[str, list[str]], name: str, without: str) -> set[str]:
    """Computations that this one runs, at any depth, `without` one of them."""
    seen, todo = set(), [name]
    while todo:
        one = todo.pop()
        if one in seen or one == without or one not in found:
            continue
        seen.add(one)
        todo += [called for line in found[one] for called in re.findall(r"%([\w.\-]+)", line)]
    return seen


def compiled(lm, cache):
    """(text of the whole compiled decode, pattern of the shape of all stored keys)."""
    batch = layout.lay_out(lm, PROMPTS, seed=0, ids=None, **GRID)
    rule = policy("threshold", 0.0)
    decoding = Decoding(lm.model, lm.params, rule, cache, batch.geometry)
    program = _decode._run.lower(batch.rows, decoding, "commit").compile()
    shape = rf"f32\[{LAYERS},{len(PROMPTS)},{batch.geometry.length},{HEADS},{SIZE}\]"
    return program.as_text(), shape


def copies(found, names, shape):
    return [line for name in names for line in found[name] if re.search(rf"= {shape}\S* copy(-start)?\(", line)]


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["dual", "prefix"])
def test_no_ordinary_forward_copies_the_cache(cache):
    text, shape = compiled(model("same"), resolve.resolve_cache(cache))
    found = computations(text)
    lines = [line for body in found.values() for line in body]
    (branches,) = [
        re.findall(r"%([\w.\-]+)", match[1])
        for line in lines
        if " conditional(" in line and (match := re.search(r"branch_computations=\{([^}]*)\}", line))
    ]
    step, refresh = branches  # lax.cond: the branch of False, then that of True
    (body,) = [name for name, body in found.items() if any(" conditional(" in line for line in body)]
    assert step in reached(found, body, refresh)
    assert not copies(found, reached(found, body, refresh), shape)
    assert any(re.search(shape, line) for line in found[step]), "no cache in it"


@pytest.mark.slow
def test_no_forward_at_all_copies_the_keys_of_finished_blocks():
    text, shape = compiled(toy(LAYERS, "same", "block_causal"), BlockExactCache())
    found, loop = computations(text), Program(text).decode_loop()
    inside = reached(found, re.search(r"body=%([\w.\-]+)", loop.rest)[1], "")
    assert any(re.search(shape, line) for name in inside for line in found[name]), "no cache in it"
    assert not copies(found, inside, shape)
