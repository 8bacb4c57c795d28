"""No argument of `decode`, `load` and `batch` is ignored in silence: each changes what runs, or is refused by name.

What a decode is given is caught where it would start, so that nothing is compiled.
"""

import dataclasses
import inspect
import types

import jax
import numpy as np
import pytest

from jaxdlm import InputError, _decode, cli, decode, load, policies
from jaxdlm.batch import ray, run
from jaxdlm.batch.cli import batch
from jaxdlm.eval import harness
from jaxdlm.messages import ARGUMENTS, OPENED
from jaxdlm.plan.aot import Job
from jaxdlm.speculative.policy import Speculation
from tests.batch.jobs import rows, write
from tests.caches.test_encoder import lm as uniform
from tests.conformance.test_languages import TURNS
from tests.conformance.toys import GRID, MASK, PROMPTS, model
from tests.speculative.toys import model as causal
from tests.test_load import CONFIG, native


class Caught(Exception):
    """What would have run."""


def stop_here(*args, **settings):
    raise Caught(args, settings)


def plain(x):
    """As NumPy, or as text where it is no array."""
    if hasattr(x, "dtype"):
        x = jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        return np.asarray(x)
    return x if isinstance(x, int | float | bool) else repr(x)


def seen(**arguments) -> list:
    """Everything that the compiled loop is given."""
    with pytest.raises(Caught) as caught:
        decode(**arguments)
    args, settings = caught.value.args
    leaves, structure = jax.tree.flatten((args, settings))
    return [repr(structure), *map(plain, leaves)]


def differ(a: list, b: list) -> bool:
    same = len(a) == len(b) and all(
        np.shape(x) == np.shape(y) and np.array_equal(x, y) for x, y in zip(a, b, strict=True)
    )
    return not same


def changes(usual: dict, name: str, value, message: str | None) -> None:
    """The argument changes what runs, or is refused with that message."""
    if message is None:
        assert differ(seen(**usual), seen(**usual | {name: value})), f"{name}={value!r} changes nothing"
        return
    with pytest.raises(InputError, match=message):
        decode(**usual | {name: value})


def with_words(lm):
    """With as much of a tokenizer as `decode` looks at."""

    def encode(prompt, raw, form=OPENED):
        return (
            [3, 4, 5]
            if raw
            else [6, 3, 4, 5, 7, *[8 + ARGUMENTS.index(name) for name in form.stated if form is not OPENED]]
        )

    return dataclasses.replace(lm, tokenizer=types.SimpleNamespace(encode_prompt=encode, eos=(), template="", bos=None))


WORDS = {"lm": with_words(model("same")), "prompts": "a word"}
MASKED = [[3, 4, MASK, 5], [6, MASK]]
# name -> (value, message; None: it changes what runs, other usual arguments)
DECODE = {
    "lm": (model("next"), None, {}),
    "prompts": ([prompt[::-1] for prompt in PROMPTS], None, {}),
    "policy": ("threshold,tau=0.5", None, {}),
    "cache": ("prefix", None, {}),
    "max_new": (12, None, {}),
    "block": (2, None, {}),
    "seed": (1, None, {}),
    "ids": ([3, 4, 5], None, {}),
    "save": ("none", None, {}),
    "raw": (True, None, WORDS),
    "system": ("Be terse.", None, WORDS),
    "tools": ([{"name": "f"}], None, WORDS),
    "chat_template_kwargs": ({"a": 1}, None, WORDS),
    "continue_final_message": (True, None, WORDS),
    "canvas": ([[9], [], []], None, {}),
    "infill": (True, None, {"prompts": MASKED, "max_new": 2}),
    "stop": (False, None, {}),
    "rows_per_program": (2, None, {}),
    "n": (2, None, {}),
    "top_logprobs": (2, "top_logprobs=2 means nothing to a diffusion model", {}),
    "grammar": (TURNS, None, {}),
    "choices": (["a"], "choices is about text and toy-same has no tokenizer", {}),
    "regex": ("a", "regex is about text and toy-same has no tokenizer", {}),
    "json_schema": ({"type": "null"}, "json_schema is about text and toy-same has no tokenizer", {}),
    "json": (True, "json is about text and toy-same has no tokenizer", {}),
    "lark": ('start: "a"', "lark is about text and toy-same has no tokenizer", {}),
    "prefix_embeddings": ([None] * 3, "means nothing to toy-same, a diffusion model", {}),
}
REFUSED = [  # beside what it means nothing to
    ("infill", True, "max_new=8 means nothing with infill=True", {"prompts": MASKED}),
    (
        "raw",
        True,
        "prompt 0 is a chat, which needs the chat template",
        {"prompts": [[{"role": "user", "content": "a"}]]},
    ),
    ("system", "x", "prompt 0 is token ids, which no chat template reads: leave system out", {}),
    ("block", 2**20, "block=1048576 is longer than the 128 positions", {"lm": model("sdar")}),
]


def test_every_argument_of_decode_changes_what_runs(monkeypatch):
    monkeypatch.setattr(_decode, "_run", stop_here)
    usual = {"lm": model("same"), "prompts": PROMPTS, "policy": "threshold", **GRID}
    assert not differ(seen(**usual), seen(**usual))
    assert set(DECODE) == set(inspect.signature(decode).parameters), "a case for each"
    for name, (value, message, own) in DECODE.items():
        changes(usual | own, name, value, message)
    for name, value, message, own in REFUSED:
        changes(usual | own, name, value, message)


AUTOREGRESSIVE = {
    "lm": (causal(1), None),
    "prompts": ([prompt[::-1] + [3] for prompt in PROMPTS], None),
    "policy": ("autoregressive,temperature=1", None),
    "cache": ("prefix", "always keeps its keys and values: leave cache out"),
    "max_new": (12, None),
    "block": (4, "block=4: an autoregressive model writes no blocks: leave block out"),
    "seed": (1, None),
    "ids": ([3, 4, 5], None),
    "save": ("none", None),
    "raw": (True, None),
    "system": ("Be terse.", None),
    "tools": ([{"name": "f"}], None),
    "chat_template_kwargs": ({"a": 1}, None),
    "continue_final_message": (True, None),
    "canvas": ([[9], [], []], "leave infill and canvas out"),
    "infill": (True, "leave infill and canvas out"),
    "stop": (False, None),
    "rows_per_program": (2, None),
    "n": (2, "n=2: at temperature 0 all answers are the same"),
    "top_logprobs": (2, None),
    "grammar": (TURNS, "was made for 48 token ids"),
    "choices": (["a"], "choices is about text"),
    "regex": ("a", "regex is about text"),
    "json_schema": ({"type": "null"}, "json_schema is about text"),
    "json": (True, "json is about text"),
    "lark": ('start: "a"', "lark is about text"),
    "prefix_embeddings": ([np.ones((2, 24)), None, None], None),
}


def test_every_argument_of_decode_means_something_to_autoregressive_models_or_is_refused(monkeypatch):
    monkeypatch.setattr(_decode, "generate", stop_here)
    prompts = [[token % 20 for token in prompt] for prompt in PROMPTS]
    usual = {"lm": causal(0), "prompts": prompts, "policy": "autoregressive", "max_new": 8}
    assert set(AUTOREGRESSIVE) == set(inspect.signature(decode).parameters), "a case for each"
    for name, (value, message) in AUTOREGRESSIVE.items():
        own = {"lm": with_words(causal(0)), "prompts": ["a word"]} if name in ("raw", *ARGUMENTS) else {}
        value = [[token % 20 for token in row] for row in value] if name == "prompts" else value
        changes(usual | own, name, value, message)


# ---------------------------------------------------------------------------------------------------------- load


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Folders of every kind: two of our own format, and one of the Hub's with blocks, as it is and converted."""
    from checkpoints_convert.__main__ import main
    from tests.convert.folders import GOLDEN

    folder = tmp_path_factory.mktemp("kinds")
    blocks = dataclasses.replace(CONFIG, attention="block_causal", block_size=4)
    assert main([str(GOLDEN / "sdar_tiny"), str(folder / "converted"), "--quiet"]) == 0
    return {
        "full": native(folder / "full"), "blocks": native(folder / "blocks", blocks), "hub": GOLDEN / "sdar_tiny",
        "converted": folder / "converted", "full hub": GOLDEN / "llada_tiny", "embedded": "tiny-draft",
        "shape": "shape:sdar-8b", "typed shape": "shape:llada-8b:bfloat16", "canvas": "shape:diffusion-gemma-26b",
    }  # fmt: skip


MESH = jax.make_mesh((2,), ("tensor",), axis_types=(jax.sharding.AxisType.Auto,))
FIXED = "this checkpoint has '.*', which is fixed: leave family out"
LOAD = {  # name -> (kind, value, message or what it changes)
    "name_or_path": [("full", "blocks", lambda lm: lm.config.attention)],
    "dtype": [
        *((kind, "float16", lambda lm: lm.params["embed"].dtype) for kind in ("full", "hub", "converted", "embedded")),
        ("shape", "float16", lambda lm: lm.config.param_dtype),
        ("typed shape", "float16", "dtype='float16', but shape:llada-8b:bfloat16 says bfloat16: keep one"),
        ("full", "int8", "dtype='int8': must be one of float32"),
    ],
    "mesh": [
        *((kind, MESH, lambda lm: len(lm.params["embed"].sharding.device_set)) for kind in ("full", "hub", "converted")),
        ("full", "data=2", "mesh='data=2': must be a mesh"),
    ],
    "family": [
        ("hub", "qwen3", lambda lm: lm.config.family),
        *((kind, "llada2_moe", FIXED) for kind in ("full", "converted", "embedded")),
        ("shape", "llama", "family='llama': shape:sdar-8b is of family 'sdar': leave family out"),
        ("hub", "lama", "family='lama': must be one of auto, .*did you mean 'llama'"),
    ],
    "block_size": [
        *((kind, 8, lambda lm: lm.config.block_size) for kind in ("blocks", "hub", "converted", "shape")),
        *((kind, 8, "block_size=8 means nothing: .* has (full|causal) attention") for kind in ("full", "full hub", "embedded")),
        ("blocks", 0, "block_size=0: must be a whole number from 1"),
        ("hub", "8", "block_size='8': must be a whole number from 1"),
    ],
    "canvas_window": [
        ("canvas", 8, lambda lm: lm.config.canvas_window),
        ("canvas", 0, "canvas_window=0: must be a whole number from 1"),
        *((kind, 8, "canvas_window=8 means nothing") for kind in ("full", "hub", "converted", "embedded", "shape")),
    ],
    "revision": [
        *((kind, "v1", "revision='v1' belongs to a Hub id") for kind in ("full", "hub", "converted", "embedded", "shape")),
    ],  # and of a Hub id: tests/test_load.py
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", LOAD)
def test_every_argument_of_load_changes_the_model_or_is_refused(kinds, name, monkeypatch):
    monkeypatch.setattr("jaxdlm.checkpoint.placement.random_params", lambda *_, **__: {})
    assert set(LOAD) == set(inspect.signature(load).parameters), "a case for each"
    for kind, value, change in LOAD[name]:
        value = kinds[value] if name == "name_or_path" else value
        arguments = {"name_or_path": kinds[kind]} | {name: value}
        if isinstance(change, str):
            with pytest.raises(InputError, match=change):
                load(**arguments)
        else:
            assert change(load(**arguments)) != change(load(kinds[kind])), f"{name}={value!r} of {kind} changes nothing"


@pytest.mark.slow
def test_a_stated_block_size_is_that_of_the_decode(kinds):
    """Weights that were converted with blocks of 4, decoded in blocks of 8: as the weights themselves with 8."""
    prompt, out = [[5, 6, 7]], {}
    for kind in ("hub", "converted"):
        lm = load(kinds[kind], block_size=8)
        out[kind] = decode(lm, prompt, "sdar", max_new=8)
        np.testing.assert_array_equal(out[kind].tokens, decode(lm, prompt, "sdar", max_new=8, block=8).tokens)
    np.testing.assert_array_equal(out["hub"].tokens, out["converted"].tokens)


# ------------------------------------------------------------------------------------------- a policy, where none is asked


@pytest.mark.slow
def test_a_decode_without_a_policy_takes_one_that_fits_the_model(monkeypatch):
    monkeypatch.setattr(_decode, "generate", stop_here)
    monkeypatch.setattr(_decode, "_run", stop_here)
    for lm, name in ((model("same"), "threshold"), (causal(0), "autoregressive"), (uniform(), "entropy_bound")):
        usual = {"lm": lm, "prompts": [[3, 4], [5]], "max_new": 8}
        assert policies.default(lm.config) == name
        assert not differ(seen(**usual), seen(**usual, policy=name))


def test_every_door_takes_a_policy_that_fits_the_model(tmp_path, monkeypatch):
    """The commands, Ray's actors, the harness and the planner, each for an autoregressive model."""
    found = []
    monkeypatch.setattr("jaxdlm.decode", lambda lm, prompts, policy, *rest, **named: found.append(policy) or 1 / 0)
    for words in (["--temperature", "0.5"], []):
        with pytest.raises(ZeroDivisionError):
            cli.generate.main(["copy : [ Alan ]", "--model", "tiny-ar", *words], standalone_mode=False)
    assert all(isinstance(policy, Speculation) for policy in found) and found[0] != found[1]
    monkeypatch.setattr(run, "job", lambda options, *rest: found.append(options.policy) or 1 / 0)
    source = write(tmp_path / "in.jsonl", rows(3))
    with pytest.raises(ZeroDivisionError):
        batch.main([source, "--output", str(tmp_path / "out"), "--model", "tiny-ar"], standalone_mode=False)
    assert found[-1] == "autoregressive"
    assert isinstance(
        ray.Actor(ray.Settings("tiny-ar", max_new=8, slots=2, mesh="data=1")).engine.policies.plain, Speculation
    )
    assert harness.Adapter("tiny-ar").policy == "autoregressive" and harness.Adapter("tiny").policy == "threshold"
    assert isinstance(Job("tiny-ar", 1, 8, 8).method, Speculation)
