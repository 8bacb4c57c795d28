"""Rows as `jaxdlm eval` writes them, made by hand."""

from typing import Any


def row(task: str, number: int, policy: str = "low_confidence", settings: Any = None, **changes: Any) -> dict[str, Any]:
    plain = {
        "kind": "row", "id": f"{task}-{number}", "task": task, "knobs": {"n": 3}, "template": number % 3,
        "policy": policy, "settings": settings or {}, "cache": "none", "tokens": [9, 9, 2], "answer": "a b",
        "correct": True, "strict": True, "valid": True, "n_tokens": 3, "columns": 16, "forwards": 16,
        "forwards_cached": 0, "positions": 16 * 48, "commit_step": [0, 1, 2], "status": "finished", "seconds": 1.0,
    }  # fmt: skip
    return {**plain, **changes}


def made(n: int = 6) -> list[dict[str, Any]]:
    """Two tasks at one token per forward and with a threshold that needs four forwards."""
    found = []
    for task in ("copy", "shuffle"):
        found += [row(task, i) for i in range(n)]
        fast = {"forwards": 4, "positions": 4 * 48, "seconds": 0.5}
        found += [row(task, i, "threshold", {"tau": 0.9}, **fast) for i in range(n)]
    return found
