"""Prompts, labels and slots in the styles of released tokenizers: what stands before a word decides its ids."""

import dataclasses
import itertools

import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm.decisions.render import Template, read_templates, render
from jaxdlm.text import Tokenizer
from tests.decisions.toys import net
from tests.helpers import CHATML, byte_level, metaspace, word_level

TEAM = jd.Choice("team", {"billing": "money", "shipping": None}, "Which team?")


def with_tokenizer(folder, **ids):
    lm = net("same", vocab_size=512, max_position=512)
    tokenizer = Tokenizer.from_folder(folder, **ids)
    tokens = dataclasses.replace(lm.config.tokens, mask=None, eos=tokenizer.eos)
    config = dataclasses.replace(lm.config, tokens=tokens, noise="none", attention="causal", prediction="next")
    return dataclasses.replace(lm, model=dataclasses.replace(lm.model, config=config), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return with_tokenizer(byte_level(tmp_path_factory.mktemp("chat"), ("<|im_start|>", "<|im_end|>"), CHATML))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return with_tokenizer(byte_level(tmp_path_factory.mktemp("plain"), ("<|end|>",), None, eos_token="<|end|>"))


def before(lm, slot):
    """The text of all that stands before the answer."""
    return lm.tokenizer.backend.decode(slot.prompt.tolist(), skip_special_tokens=False)


def asked(lm, question=TEAM, read="label", state="A state.", template=None, order=None):
    order = range(len(question.options)) if order is None else order
    slot = render(lm, state, question, tuple(order), template or Template(), read, "row 0")
    return before(lm, slot), slot


def words(lm, slot):
    return [lm.tokenizer.decode(ids) for ids in slot.choices]


def test_a_label_prompt_lists_the_options_behind_the_state(chat):
    text, slot = asked(chat)
    state, rest = text.index("A state."), text.index("Which team?")
    assert state < rest < text.index("A) billing: money") < text.index("B) shipping") < text.rindex("assistant")
    assert words(chat, slot) == ["A", "B"] and all(len(ids) == 1 for ids in slot.choices)
    turned, other = asked(chat, order=(1, 0))
    assert turned.index("A) shipping") < turned.index("B) billing: money")
    assert words(chat, other) == ["B", "A"], "labels go by place"


def test_yes_and_no_and_levels(chat):
    text, slot = asked(chat, jd.Predicate("p", "Is it?"), read="text")
    assert "Reply" not in text and words(chat, slot) == ["Yes", "No"]
    text, slot = asked(chat, jd.Score("s", ["calm", ("angry", "very")], "How angry?"))
    assert "0) calm\n1) angry: very" in text and words(chat, slot) == ["0", "1"]
    text, slot = asked(chat, jd.Score("s", ["calm", ("angry", "very")], "How angry?"), order=(1, 0))
    assert "1) angry: very\n0) calm" in text and words(chat, slot) == ["0", "1"], "a level keeps its number"
    text, slot = asked(chat, jd.Number("n", 0, 1, decimals=1, instructions="How likely?"), read="text")
    assert "between 0.0 and 1.0" in text and words(chat, slot)[:2] == ["0.0", "0.1"]


def test_letters_stand_in_where_names_are_no_single_tokens(chat):
    text, slot = asked(chat, jd.Predicate("p", "Is it?", yes="so"))
    assert [len(ids) for ids in slot.choices] == [1, 1] and words(chat, slot) == ["A", "B"]
    assert "A) Yes: so\nB) No" in text, "the toy's vocabulary has no token for them"


def test_json_states_and_chats(chat):
    text, _ = asked(chat, state={"subject": "Hi", "n": [1, None]})
    assert '{"subject": "Hi", "n": [1, null]}\n\nWhich team?' in text
    messages = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    text, _ = asked(chat, state=messages)
    assert text.index("one") < text.index("two") < text.index("Which team?")
    text, _ = asked(chat, state=[{"role": "user", "content": [{"type": "text", "text": "one"}]}])
    assert "one\n\nWhich team?" in text


def test_words_of_a_state_stay_letters(chat):
    """Nor can options be control tokens."""
    text, slot = asked(chat, state="stop <|im_end|> here")
    end = chat.tokenizer.aliases["<|im_end|>"]
    assert text.count(end) == asked(chat)[0].count(end)
    _, slot = asked(chat, jd.Choice("c", ["<|im_end|>", "b"]), read="text")
    assert not set(itertools.chain(*slot.choices)) & chat.tokenizer.control


def test_pre_and_post_are_encoded_with_the_word(chat):
    """Spaces at the end of pre belong to the word, and what does not stay apart is refused."""
    template = Template(pre='{"team": "', post='"}')
    _, slot = asked(chat, read="text", template=template)
    assert before(chat, slot).endswith('{"team": "')
    assert words(chat, slot) == ["billing", "shipping"] and chat.tokenizer.decode(slot.post) == '"}'
    _, spaced = asked(chat, read="text", template=Template(pre="Team: "))
    assert before(chat, spaced).endswith("Team:")
    assert [chat.tokenizer.backend.decode(list(ids)) for ids in spaced.choices] == [" billing", " shipping"]
    one = lambda pair: len(chat.tokenizer.backend.encode(pair, add_special_tokens=False).ids) == 1  # noqa: E731
    joined = next(pair for pair in sorted(chat.tokenizer.words) if len(pair) == 2 and pair.isalpha() and one(pair))
    with pytest.raises(jd.InputError, match="the tokenizer joins"):
        asked(chat, jd.Choice("c", [joined[1], "?"]), read="text", template=Template(pre=joined[0]))


def test_a_model_without_a_chat_template_is_asked_for_an_answer(plain):
    text, slot = asked(plain)
    assert text.endswith("\nAnswer:")
    labels = [plain.tokenizer.backend.decode(list(ids)) for ids in slot.choices]
    assert all(label[0] == " " and f"\n{label[1:]}) " in text for label in labels), "of one token with its space"
    text, slot = asked(plain, jd.Choice("c", [" jumps", " sleeps"]), read="text", state="The quick brown fox")
    assert text == "The quick brown fox", "nothing is asked: it goes on"


def test_templates_of_ones_own(chat):
    text, _ = asked(chat, template=Template("Q {instructions} S {state} O {options} {state}"))
    assert "Q Which team? S A state. O A) billing: money\nB) shipping A state." in text
    text, _ = asked(chat, state="a {ask} {state}", template=Template("{state}!"))
    assert "a {ask} {state}!" in text, "braces of a state are letters"
    assert read_templates(["{state}", {"pre": "x"}, Template()]) == (Template("{state}"), Template(pre="x"), Template())


def test_labels_go_on_behind_z_and_end_somewhere(chat):
    _, slot = asked(chat, jd.Choice("c", [f"w{i}" for i in range(40)]))
    assert len({ids for ids in slot.choices}) == 40 and all(len(ids) == 1 for ids in slot.choices)
    with pytest.raises(jd.InputError, match="has 200 options, and this tokenizer has labels of one token for"):
        asked(chat, jd.Choice("c", [f"w{i}" for i in range(200)]))
    with pytest.raises(jd.InputError, match="has 300 options, and labels reach to 255: use read='text'"):
        asked(chat, jd.Choice("c", [f"w{i}" for i in range(300)]))


def test_a_vocabulary_with_a_space_before_every_word(tmp_path):
    lm = with_tokenizer(metaspace(tmp_path, CHATML, "always"))
    _, slot = asked(lm, jd.Choice("c", ["fox", "dog"]), read="text")
    assert words(lm, slot) == ["fox", "dog"]


def test_words_that_are_equal_after_the_normaliser_are_refused(tmp_path):
    lm = with_tokenizer(metaspace(tmp_path, CHATML, "always"))
    with pytest.raises(jd.InputError, match="'fi' and 'ﬁ' are spelled by the same tokens"):
        asked(lm, jd.Choice("c", ["fi", "ﬁ"]), read="text")


def test_a_closed_vocabulary_has_no_words_to_ask_in(tmp_path):
    lm = with_tokenizer(word_level(tmp_path, ("pick", "one", "cat", "dog", "A", "B", ")")))
    text, slot = asked(lm, jd.Choice("c", ["cat", "dog"], "pick"), state="one")
    assert words(lm, slot) == ["A", "B"] and "A ) cat" in text
    with pytest.raises(jd.InputError, match=r"row 0.*unknown word 'cow'"):
        asked(lm, jd.Choice("c", ["cat", "cow"], "pick"), state="one", read="text")


def test_an_empty_text_may_be_asked_about(chat):
    assert "Which team?" in asked(chat, state="")[0]
    with pytest.raises(jd.InputError, match="row 0 is empty: write at least one word"):
        asked(chat, jd.Choice("c", ["a", "b"]), read="text", state="")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([], "neither text nor a chat"), ([1.5, 2.5], "neither text"), (["a", "b"], "neither text"), (None, "neither text"),
        (np.array([[1], [2]]), "row 0 is empty or nested"), ([3, 10**6], "row 0 holds token id 1000000, outside"),
        ([{"role": "user"}], "message 0 is not|last message has no text"),
    ],
)  # fmt: skip
def test_states_that_are_none(chat, state, message):
    with pytest.raises(jd.InputError, match=message):
        asked(chat, jd.Choice("c", ["a", "b"]), read="text", state=state)


def test_no_tokenizer_no_words():
    with pytest.raises(jd.InputError, match="row 0, question 'team' is text and net-same has no tokenizer"):
        jd.decide(net("same"), ["a text"], [TEAM])
    with pytest.raises(jd.InputError, match="give Option"):
        jd.decide(net("same"), [[3, 4]], [jd.Choice("c", ["a", "b"])])
    with pytest.raises(jd.InputError, match="leave instructions and templates out"):
        jd.decide(net("same"), [[3, 4]], [jd.Predicate("c", "is it?")])
