"""Ordinary forwards leave the stored keys and values where they are: counted in the compiled program."""

import re

import pytest

from jaxdlm import _decode, layout
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


@pytest.mark.parametrize("cache", ["dual", "prefix"])
def test_no_ordinary_forward_copies_the_cache(cache):
    lm = model("same")
    batch = layout.lay_out(lm, PROMPTS, seed=0, ids=None, **GRID)
    rule, kept = policy("threshold", 0.0), _decode.resolve_cache(cache)
    lowered = _decode._run.lower(batch.rows, lm.model, lm.params, rule, kept, batch.geometry, "commit", 0)
    found = computations(lowered.compile().as_text())
    lines = [line for body in found.values() for line in body]
    (branches,) = [
        re.findall(r"%([\w.\-]+)", match[1])
        for line in lines
        if " conditional(" in line and (match := re.search(r"branch_computations=\{([^}]*)\}", line))
    ]
    step, refresh = branches  # lax.cond: the branch of False, then that of True
    shape = rf"= f32\[{LAYERS},{len(PROMPTS)},{batch.geometry.length},{HEADS},{SIZE}\]\S* copy(-start)?\("

    def copies(names: set[str]) -> list[str]:
        return [line for name in names for line in found[name] if re.search(shape, line)]

    (body,) = [name for name, body in found.items() if any(" conditional(" in line for line in body)]
    assert step in reached(found, body, refresh)
    assert not copies(reached(found, body, refresh))
    assert any(f"[{LAYERS},{len(PROMPTS)},{batch.geometry.length}," in line for line in found[step]), "no cache in it"
