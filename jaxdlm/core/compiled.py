"""`jax.jit` with the options that XLA should have on the platform where a program runs."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax

# GPU: Triton's products, and products that XLA merges, copy the weights of a layer out of the stack first. A decode is
# bound by reading them, and cuBLAS reads them where they lie (benchmarks/notes.md has both times).
OPTIONS: dict[str, dict[str, Any]] = {
    "gpu": {"xla_gpu_enable_triton_gemm": False, "xla_gpu_dot_merger_threshold_mb": 0},
}


def options() -> dict[str, Any]:
    """Those of the default platform, less what XLA_FLAGS sets."""
    return {k: v for k, v in OPTIONS.get(jax.default_backend(), {}).items() if k not in os.environ.get("XLA_FLAGS", "")}


class Compiled:
    """A function compiled on its first use: only then is the platform asked for, which starts it.

    Stands at the top: a program that calls it inside another takes `__wrapped__`, as options are a whole program's.
    """

    def __init__(self, function: Callable[..., Any], **how: Any) -> None:
        self._function, self._how = function, how
        functools.update_wrapper(self, function)

    @functools.cached_property
    def _jitted(self) -> Any:
        return jax.jit(self._function, compiler_options=options() or None, **self._how)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._jitted(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """`lower`, `trace`, `clear_cache` of the compiled function."""
        return getattr(self._jitted, name)


def compiled(**how: Any) -> Callable[[Callable[..., Any]], Compiled]:
    """Decorator: `jax.jit(**how)` with `OPTIONS`."""
    return functools.partial(Compiled, **how)
