"""Whole programs get the compiler options of their platform, and work with them."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm
from jaxdlm.core import compiled as module
from jaxdlm.core.compiled import compiled


def test_options_reach_the_compiler_unless_the_environment_sets_them(monkeypatch):
    monkeypatch.setitem(module.OPTIONS, "cpu", {"xla_there_is_no_such_flag": 1})
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_there_is_no_such_flag"):
        compiled()(lambda x: x + 1)(jnp.ones(3))
    monkeypatch.setenv("XLA_FLAGS", "--xla_there_is_no_such_flag=2")  # read by XLA before: JAX runs already
    np.testing.assert_array_equal(compiled()(lambda x: x + 1)(jnp.ones(3)), 2)


def test_the_platform_is_asked_for_at_the_first_call(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: pytest.fail("too early"))
    compiled(static_argnames="times")(lambda x, times: x * times)


@pytest.mark.slow
def test_a_rule_of_flax_never_runs_the_program_of_another():
    """Structures of flax's dataclasses compare equal where only their classes differ."""
    run = compiled(static_argnames="more")(lambda rule, x, **sizes: rule(x) + sizes["more"])

    def made(times):
        @flax.struct.dataclass
        class Scale:
            by: float

            def __call__(self, x):
                return x * self.by * times

        return Scale(1.0)

    assert jax.tree.structure(made(1)) == jax.tree.structure(made(2))  # else this precaution can go
    assert [float(run(made(times), 1.0, more=1)) for times in range(60)] == [times + 1 for times in range(60)]


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["threshold", "freedave"])
def test_a_decode_with_the_options_of_gpus_is_the_same(monkeypatch, policy):
    lm = jaxdlm.load("tiny")
    decode = lambda: jaxdlm.decode(lm, lm.tokenizer.examples[:2], policy, max_new=16, block=16).tokens  # noqa: E731
    plain = decode()
    monkeypatch.setitem(module.OPTIONS, "cpu", module.OPTIONS["gpu"])
    monkeypatch.delitem(vars(jaxdlm._decode._run), "_jitted")
    np.testing.assert_array_equal(decode(), plain)
    assert module.options() == module.OPTIONS["gpu"]
