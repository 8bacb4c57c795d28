"""The model of lm-evaluation-harness, with the real package on local tasks: no network, no download. It is imported by
who runs these tests alone: that takes a while."""

import dataclasses
import importlib.metadata
import json
import math

import pytest
from tokenizers import Tokenizer

import jaxdlm as jd
from jaxdlm.eval import harness, likelihood
from jaxdlm.eval.task import make
from jaxdlm.models import Backbone
from tests import helpers
from tests.convert.folders import golden, hub_folder


@pytest.fixture(scope="module")
def model():
    return harness.register()(
        model="tiny", policy="threshold+tau=0.9", gen_length=16, block=16, batch_size=8, mc_num=16, greedy=True
    )


def request(kind, *arguments, index=0):
    from lm_eval.api.instance import Instance

    return Instance(request_type=kind, doc={}, arguments=arguments, idx=index)


@pytest.mark.slow
def test_it_is_registered():
    from lm_eval.api.model import LM
    from lm_eval.api.registry import get_model

    made = harness.register()
    assert get_model("jaxdlm") is made
    assert issubclass(harness.JaxDLM, LM)
    (entry,) = importlib.metadata.entry_points(group="lm_eval.models", name="jaxdlm")
    assert entry.load() is made


def local_task(folder, rows, **config):
    """A task of lm_eval whose documents are a local file."""
    path = folder / "docs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(path)}, "cache_dir": str(folder / "cache")},
        "test_split": "test", "doc_to_text": "{{question}}", "num_fewshot": 0, "metadata": {"version": 1}, **config,
    }  # fmt: skip


def evaluate(model, task):
    """By the harness; its own thousands of task files are not read for it."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    known = TaskManager(include_defaults=False)
    return lm_eval.simple_evaluate(model, tasks=[task], task_manager=known, apply_chat_template=True, bootstrap_iters=0)


@pytest.fixture
def no_bar(monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("TQDM_DISABLE", "1")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of datasets and its kin
def test_lists_are_reversed(model, tmp_path, no_bar):
    rows = [{"question": e.prompt, "answer": e.answer} for e in make("reverse", 6)]
    task = local_task(
        tmp_path, rows, task="local_reverse", doc_to_target="{{answer}}", output_type="generate_until",
        generation_kwargs={"until": ["\n\n"], "do_sample": False, "max_gen_toks": 16},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    )  # fmt: skip
    found = evaluate(model, task)
    assert found["results"]["local_reverse"]["exact_match,none"] == 1.0
    assert model.counts["rows"] >= 6
    assert model.tokens_per_forward > 2


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_right_list_is_the_likeliest(model, tmp_path, no_bar):
    rows = []
    for e in make("reverse", 4):
        words = e.answer.split()
        rows.append({"question": e.prompt, "choices": [e.answer, " ".join([*words[:1], words[3], *words[2:]])]})
    task = local_task(
        tmp_path, rows, task="local_choice", doc_to_target="0", doc_to_choice="{{choices}}",
        output_type="multiple_choice", metric_list=[{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    )  # fmt: skip
    found = evaluate(model, task)
    assert found["results"]["local_choice"]["acc,none"] == 1.0
    assert len(model.errors) == 8 and not any(error < 0 for error in model.errors)


@pytest.mark.slow
def test_answers_do_not_depend_on_the_batch(model):
    asked = [e.prompt for e in make("shuffle", 5)]
    chats = [model.apply_chat_template([{"role": "user", "content": text}]) for text in asked]
    options = {"until": [], "max_gen_toks": 16, "do_sample": True, "temperature": 0.7}
    requests = [request("generate_until", chat, options) for chat in chats]
    together = model.generate_until(requests)
    assert model.generate_until(requests[::-1])[::-1] == together
    assert model.generate_until(requests[3:4]) == together[3:4]


@pytest.mark.slow
def test_greedy_means_what_one_token_per_forward_writes(model):
    (example,) = make("reverse", 1)
    chat = model.apply_chat_template([{"role": "user", "content": example.prompt}])
    wrong = example.answer.replace("[", "(", 1)
    (good, is_greedy), (bad, not_greedy) = model.loglikelihood(
        [request("loglikelihood", chat, example.answer), request("loglikelihood", chat, wrong)]
    )
    assert is_greedy and not not_greedy and good > bad
    assert math.isfinite(model.loglikelihood_rolling([request("loglikelihood_rolling", example.answer)])[0])


def test_spaces_move_to_the_continuation(model):
    assert model.pair("[ Kate , ", "Alan ]") == model.pair("[ Kate ,", " Alan ]")
    assert len(model.pair("", "[ Kate ]").context) == 1, "an empty context is the beginning of text"


def test_a_chat_comes_back(model):
    history = [{"role": "user", "content": "reverse : [ Alan , Kate ]"}, {"role": "assistant", "content": "[ Kate"}]
    opened = model.prompt_ids(model.apply_chat_template(history[:1]))
    assert opened == model.lm.tokenizer.encode_chat(history[:1])
    begun = model.prompt_ids(model.apply_chat_template(history, add_generation_prompt=False))
    assert begun == opened + model.lm.tokenizer.encode_inside("[ Kate")
    said = [{**history[0], "content": [{"type": "text", "text": history[0]["content"]}]}]
    assert model.prompt_ids(model.apply_chat_template(said)) == opened


@pytest.fixture(scope="module")
def spelling(tmp_path_factory):
    """A model whose tokenizer joins letters into words, and puts a token before and one behind every text."""
    from tokenizers import processors

    folder = helpers.byte_level(tmp_path_factory.mktemp("spelling"), ("<s>", "</s>", "<mask>"), None, bos_token="<s>")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ends = [("<s>", tokenizer.token_to_id("<s>")), ("</s>", tokenizer.token_to_id("</s>"))]
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=ends)
    tokenizer.save(str(folder / "tokenizer.json"))
    files, config = golden("dream")
    hub_folder(folder, files, config | {"mask_token_id": tokenizer.token_to_id("<mask>"), "eos_token_id": ends[1][1]})
    return harness.Adapter(str(folder), batch_size=2, mc_num=2), tokenizer


@pytest.mark.parametrize(
    ("context", "continuation", "cut"),
    [
        ("The quick brown", " fox", ("The quick brown", " fox")),
        ("the d", "og", ("the", " dog")),  # one token for both
        ("Natal", "ia", ("Nata", "lia")),
        ("Ho", "w", ("", "How")),
        ("the dog ", "sleeps", ("the dog", " sleeps")),
        ("", "the dog", ("", "the dog")),
        (" \n", "dog", ("", " \ndog")),
        ("the dog", "", ("the dog", "")),
        ("the d", "", ("the d", "")),
    ],
)
def test_a_pair_is_cut_where_the_whole_text_leaves_the_context(spelling, context, continuation, cut):
    """Context and answer are the tokens of the text that both make, and no end stands between them."""
    model, tokenizer = spelling
    pair = model.pair(context, continuation)
    begin, whole = tokenizer.token_to_id("<s>"), tokenizer.encode(context + continuation, add_special_tokens=False).ids
    assert [*pair.context, *pair.answer] == [begin, *whole]
    assert tuple(tokenizer.decode(list(ids)) for ids in pair) == cut


def test_contexts_carry_no_end(spelling):
    model, tokenizer = spelling
    assert tokenizer.encode("the dog").ids[-1] == tokenizer.token_to_id("</s>")
    assert model.prompt_ids("the dog") == tokenizer.encode("the dog").ids[:-1]
    assert model.prompt_ids(" ") == model.prompt_ids("") == [tokenizer.token_to_id("<s>")]


def test_a_model_without_a_beginning_reads_no_empty_context(spelling, monkeypatch):
    model, _ = spelling
    tokens = dataclasses.replace(model.lm.config.tokens, bos=None, eos=(), turn_end=None)
    config = dataclasses.replace(model.lm.config, tokens=tokens)
    monkeypatch.setattr(model, "tokenizer", dataclasses.replace(model.tokenizer, bos=None))
    monkeypatch.setattr(model, "lm", dataclasses.replace(model.lm, model=Backbone(config)))
    with pytest.raises(jd.InputError, match="no token that begins or ends a text"):
        model.pair("", "the dog")


def test_an_answer_without_a_token_is_certain(spelling, monkeypatch):
    model, _ = spelling
    estimate = likelihood.Estimate(-1.5, 0.25)
    monkeypatch.setattr(likelihood, "score", lambda lm, pairs, **_: [estimate] * len(pairs))
    asked = [request("loglikelihood", "the dog", text) for text in ("", " sleeps", "")]
    assert model.loglikelihood(asked) == [(0.0, False), (-1.5, False), (0.0, False)]
    assert model.errors == [0.0, 0.25, 0.0]
    assert model._is_greedy([likelihood.Pair((1,), ())]) == [True]


@pytest.mark.parametrize(
    ("gen_length", "options", "columns"),
    [
        (40, {}, 40), (63, {}, 63), (256, {"max_gen_toks": 8}, 8), (16, {"max_gen_toks": 500}, 16),
        (256, {"max_new_tokens": 8}, 8), (256, {"max_tokens": 9, "max_gen_toks": 8}, 8), (64, {}, None), (256, {}, None),
        (256, {"max_gen_toks": 64}, None), (40, {"max_gen_toks": 0}, None),
    ],
)  # fmt: skip
def test_prompt_and_answer_fit_in_max_length(spelling, monkeypatch, gen_length, options, columns):
    """Prompts lose their beginning, and never all of it."""
    model, seen = spelling[0], []
    monkeypatch.setattr(model, "max_length", 64)
    monkeypatch.setattr(model, "gen_length", gen_length)
    monkeypatch.setattr(
        model, "_generate", lambda prompts, columns, temperature: seen.append((prompts, columns)) or ["x"]
    )
    asked = [request("generate_until", "the dog sleeps " * 40, options | {"until": []})]
    if columns is None:
        with pytest.raises(jd.InputError, match=r"leave no prompt in max_length=64: set gen_length"):
            model.generate_until(asked)
        return
    assert model.generate_until(asked) == ["x"]
    (([prompt], found),) = seen
    assert found == columns and len(prompt) == 64 - columns
    assert prompt == model.prompt_ids("the dog sleeps " * 40)[-len(prompt) :]


@pytest.mark.parametrize("until, left", [("b", "a"), (["c", "b"], "a"), ([], "abc"), (None, "abc"), (["", "c"], "ab")])
def test_cut(until, left):
    assert harness.cut("abc", until) == left


def test_a_wrong_policy_is_named():
    with pytest.raises(jd.InputError, match="did you mean 'threshold'"):
        harness.register()(model="tiny", policy="treshold")
