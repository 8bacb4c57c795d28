"""`jax.jit` with the options that XLA should have on the platform where a program runs."""

import functools
import inspect
import os
from collections.abc import Callable, Iterable
from typing import Any

import jax

from jaxdlm.core import programs

# GPU: Triton's products, and products that XLA merges, copy the weights of a layer out of the stack first. A decode is
# bound by reading them, and cuBLAS reads them where they lie (benchmarks/notes.md has both times).
OPTIONS: dict[str, dict[str, Any]] = {
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"},
    "gpu": {"xla_gpu_enable_triton_gemm": False, "xla_gpu_dot_merger_threshold_mb": 0},
}


def options() -> dict[str, Any]:
    """Those of the default platform, less what XLA_FLAGS sets."""
    return {k: v for k, v in OPTIONS.get(jax.default_backend(), {}).items() if k not in os.environ.get("XLA_FLAGS", "")}


class Compiled:
    """A function compiled on its first use: only then is the platform asked for, which starts it.

    Stands at the top: a program that calls it inside another takes `__wrapped__`, as options are a whole program's.
    A program is found again by the hash of its arguments' structure as well: see `jaxdlm.struct`; anybody's rule may be
    a `flax.struct.dataclass`.
    """

    def __init__(self, function: Callable[..., Any], static_argnames: str | Iterable[str] = (), **how: Any) -> None:
        names = (static_argnames,) if isinstance(static_argnames, str) else static_argnames
        self._function, self._how = function, how | {"static_argnames": (*names, "structure")}
        functools.update_wrapper(self, function)

    @functools.cached_property
    def _jitted(self) -> Any:
        programs.keep()

        @functools.wraps(self._function)
        def keyed(*args: Any, structure: int = 0, **kwargs: Any) -> Any:
            return self._function(*args, **kwargs)

        signature = inspect.signature(self._function)
        key = inspect.Parameter("structure", inspect.Parameter.KEYWORD_ONLY)
        parameters = sorted([*signature.parameters.values(), key], key=lambda each: each.kind)  # before a last **
        vars(keyed).update(__signature__=signature.replace(parameters=parameters))
        return jax.jit(keyed, compiler_options=options() or None, **self._how)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._jitted(*args, **kwargs, structure=_structure(args, kwargs))

    def eval_shape(self, *args: Any, **kwargs: Any) -> Any:
        """Shapes and types of the result: the program is traced as for a call, and neither compiled nor run."""
        return self._jitted.eval_shape(*args, **kwargs, structure=_structure(args, kwargs))

    def __getattr__(self, name: str) -> Any:
        """`lower`, `trace`, `clear_cache` of the compiled function."""
        return getattr(self._jitted, name)


def _structure(*arguments: Any) -> int:
    return hash(jax.tree.structure(arguments))


def compiled(**how: Any) -> Callable[[Callable[..., Any]], Compiled]:
    """Decorator: `jax.jit(**how)` with `OPTIONS`."""
    return functools.partial(Compiled, **how)
