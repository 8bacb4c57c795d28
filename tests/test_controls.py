"""Every control literal through every field of every message that is read, under templates that twist words."""

import pickle

import pytest

from jaxdlm import text
from jaxdlm.controls import FIRST, ROLES, Own, aliases_of
from jaxdlm.errors import InputError
from jaxdlm.messages import read_form
from tests import helpers

LITERALS = ("<|im_start|>", "<|im_end|>", "<|mdm_mask|>", "<|user|>", "<mask>", "</s>", "[MASK]")
EACH = "{% for m in messages %}<|im_start|>BODY<|im_end|>{% endfor %}"
NASTY = {
    "plain": EACH.replace("BODY", "{{ m.role }}: {{ m.content }}"),
    "role": EACH.replace("BODY", "<|{{ m.role }}|>{{ m.content }}"),
    "role in pieces": EACH.replace("BODY", "{{ '<|' ~ m.role }}{{ '|>' }}{{ '<|%s|>' % m.role }}{{ '<|{}|>'.format(m.role) }}"),
    "lower": EACH.replace("BODY", "<|{{ m.role | lower }}|>{{ m.content | lower }}{{ m.content.casefold() }}"),
    "upper": EACH.replace("BODY", "<|{{ m.role | upper }}|>{{ m.content | upper }}{{ m.content | title }}"),
    "replaced": EACH.replace("BODY", "{{ m.content | replace('_', '') }}{{ m.content.replace('-', '|').replace('.', '') }}"),
    "replaced by its own": EACH.replace("BODY", "{{ m.content | replace('<', '<|') | replace('>', '|>') }}"),
    "reversed": EACH.replace("BODY", "{{ m.content | reverse }}{{ m.content[::-1] }}{{ ('<|x' + m.content)[::-1] }}"),
    "split": EACH.replace("BODY", "{{ m.content.split('_') | join('') }}{% for x in m.content %}{{ x }}{% endfor %}"),
    "cut": EACH.replace("BODY", "{{ m.content[1:] }}{{ m.content[:-1] }}{{ m.content.strip('_.') }}"),
    "wrapped": EACH.replace("BODY", "<{{ m.content }}>{{ '<|' + m.content + '|>' }}[{{ m.content | trim }}]</{{ m.content }}>"),
    "joined": "<|im_start|>{% for m in messages %}{{ m.content }}{% endfor %}{{ messages | map(attribute='content') | join }}",
    "as JSON": EACH.replace("BODY", "{{ m | tojson }}{{ m.tool_calls | default([]) | tojson }}{{ m.content | tojson }}"),
    "as Python": EACH.replace("BODY", "{{ m }}{{ m.tool_calls }}{{ m.items() | list }}"),
    "keys": EACH.replace(
        "BODY",
        "{% for k, v in m.items() %}{{ k }}={{ v }};{% endfor %}{% for call in m.tool_calls or [] %}"
        "{% for k, v in call.arguments.items() %}<{{ k }}>{{ v }}</{{ k }}>{% endfor %}{% endfor %}",
    ),
    "set and macro": "{% macro say(x) %}<|{{ x }}|>{{ caller() }}{% endmacro %}"
    + EACH.replace("BODY", "{% set x %}{{ m.content }}{% endset %}{% call say(x) %}{{ m.content }}{% endcall %}"),
    "mixed, then twisted": EACH.replace(
        "BODY", "{% set x = '<|im_end|>' + m.content %}{{ x | lower | reverse }}{{ x[::-1] }}{{ x | replace('|', '') }}"
    ),
}  # fmt: skip
FIELDS = {
    "content": lambda x: {"content": x},
    "around": lambda x: {"content": f"a{x}b"},
    "one part": lambda x: {"content": [{"type": "text", "text": x}]},
    "two parts": lambda x: {"content": [{"type": "text", "text": part} for part in (x[:2], x[2:])]},
    "role": lambda x: {"role": x},
    "name": lambda x: {"name": x},
    "key": lambda x: {x: "value"},
    "call": lambda x: {"tool_calls": [{"function": {"name": x, "arguments": x}}]},
    "argument": lambda x: {"tool_calls": [{"name": "f", "arguments": {"deep": [{"er": [x]}]}}]},
    "argument's key": lambda x: {"tool_calls": [{"name": "f", "arguments": {x: 1}}]},
    "deep key": lambda x: {"tool_calls": [{"name": "f", "arguments": {"a": [{"b": {x: None}}]}}]},
}


def shapes(literal):
    """What a template may turn into the literal, or complete to it."""
    return {
        literal, literal.upper(), literal[::-1], "_".join(literal), literal.replace("|", "-"), literal.replace("|", ""),
        literal[1:], literal[:-1], literal[1:-1], literal[2:-2], literal.strip("</|[]>"), f"_{literal}.",
    }  # fmt: skip


def count(tokenizer, message):
    """Control tokens of a chat of two such messages; None where they are refused, by name."""
    message = {"role": "user", "content": "words"} | message
    try:
        ids = tokenizer.encode_chat([message, message])
    except InputError as error:
        assert not [letter for letter in str(error) if ord(letter) >= FIRST]
        return None
    return [token for token in ids if token in tokenizer.control]


@pytest.mark.slow
@pytest.mark.parametrize("name", NASTY)
def test_no_field_of_a_message_makes_a_control_token(tmp_path, name):
    tokenizer = text.Tokenizer.from_folder(helpers.byte_level(tmp_path, LITERALS, NASTY[name]))
    benign = {field: count(tokenizer, make("X.")) for field, make in FIELDS.items()}
    assert benign["content"]
    read = 0
    for literal in LITERALS:
        for shape in shapes(literal):
            for field, make in FIELDS.items():
                found = count(tokenizer, make(shape))
                read += found is not None
                known = field == "role" and shape in ROLES  # which writes its own token, as it should
                assert found in (None, benign[field]) or known, (literal, shape, field)
    assert read > 500


EVERYWHERE = (
    "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}{{ m.reasoning_content }}<|im_end|>{% endfor %}"
    "{{ tools | tojson }}{{ tools }}{% for t in tools %}<{{ t.name }}>{% for k in t %}<|{{ k }}|>{% endfor %}{% endfor %}"
    "{{ note }}<|{{ note }}|>{{ note | reverse }}{{ documents }}{{ '<|' ~ note ~ '|>' }}{{ note.replace('_', '') }}"
)


def test_nothing_that_goes_with_a_chat_makes_a_control_token(tmp_path):
    """System words, functions, variables and the words that an answer goes on with."""
    tokenizer = text.Tokenizer.from_folder(helpers.byte_level(tmp_path, LITERALS, EVERYWHERE))

    def controls(word, chat=({"role": "user", "content": "words"},)):
        tool = {"name": word, "description": word, word: {word: [word]}}
        more = {"note": word, "documents": [{word: word}]}
        form = read_form(f"Be {word}", [tool], more)
        try:
            return [token for token in tokenizer.encode_prompt(list(chat), form=form) if token in tokenizer.control]
        except InputError:
            return None

    benign = controls("X.")
    assert benign
    for literal in LITERALS:
        for word in shapes(literal):
            assert controls(word) in (None, benign), word
            begun = [{"role": "user", "content": "x"}, {"role": "assistant", "content": f"a {word}"}]
            assert len(controls("X.", begun)) == len(benign) + 1, "two turns, of which the second is open"


def test_letters_of_every_field_arrive(tmp_path):
    """Nothing is lost or guarded on the way: what a template prints of a message is what it says."""
    tokenizer = text.Tokenizer.from_folder(helpers.byte_level(tmp_path, LITERALS, NASTY["as JSON"]))
    said = "<|im_end|> </s> [MASK]"
    shown = tokenizer.decode(tokenizer.encode_chat([{"role": "user", "content": said, "name": "<mask>"}]))
    assert said in shown and "<mask>" in shown


def test_known_roles_complete_what_a_template_writes_around_them(tmp_path):
    tokens = ("<|user|>", "<|assistant|>", "<role>TOOL</role>", "<|mdm_mask|>", "<|critic|>")
    template = (
        "{% for m in messages %}{% set r = m.role | lower %}{% if r == 'tool' %}{{ '<role>' + (r | upper) + '</role>' }}"
        "{% elif r in ('user', 'assistant', 'mdm_mask') or r.startswith('c') %}<|{{ r }}|>{% else %}{{ r }}|>{% endif %}"
        "{{ m.content }}{% endfor %}{{ '<|%s|>' % 'assistant' }}<|{{ 'end' }}|>"
    )
    tokenizer = text.Tokenizer.from_folder(helpers.byte_level(tmp_path, tokens, template))
    chat = [{"role": role, "content": "user"} for role in ("user", "assistant", "tool", "system")]
    ids = tokenizer.encode_chat(chat)
    assert [tokenizer.literal(token) for token in ids if token in tokenizer.control] == [*tokens[:3]]
    assert tokenizer.decode(ids) == "useruserusersystem|>user<|assistant|><|end|>"
    for role in ("mdm_mask", "critic"):
        with pytest.raises(InputError, match=rf"makes the control token <\|{role}\|> of '{role}'"):
            tokenizer.encode_chat([{"role": role, "content": "x"}])


def test_templates_compare_and_search_by_letters(tmp_path):
    """Words that a template looks for are found in messages, special or not, as transformers finds them."""
    template = (
        "{{ bos_token }}{% for m in messages %}{% set c = m.content.split('</s>')[-1] %}"
        "{% if '[MASK]' in m.content or m.content is eq('<mask>') or m.content.startswith(eos_token) %}found: {% endif %}"
        "{{ {'user': '<|user|>'}[m.role] }}{{ c | replace('<mask>', '<|im_end|>') }}{{ ['<|im_start|>', eos_token] | join }}"
        "{% endfor %}{{ bos_token == '[MASK]' }}{{ bos_token == '<|im_start|>' }}{{ bos_token | length }}"
    )
    folder = helpers.byte_level(tmp_path, LITERALS, template, bos_token="<|im_start|>", eos_token="<|im_end|>")
    tokenizer = text.Tokenizer.from_folder(folder)

    def read(content):
        ids = tokenizer.encode_chat([{"role": "user", "content": content}])
        return "".join(tokenizer.pieces(ids)), [tokenizer.literal(token) for token in ids if token in tokenizer.control]

    own = ["<|im_start|>", "<|user|>", "<|im_start|>", "<|im_end|>"]
    rest = "<|im_start|><|im_end|>FalseTrue12"
    assert read("left</s>right") == (f"<|im_start|><|user|>right{rest}", own)
    assert read("a [MASK]") == (f"<|im_start|>found: <|user|>a [MASK]{rest}", own)
    assert read("<|im_end|>") == (f"<|im_start|>found: <|user|><|im_end|>{rest}", own)
    shown, controls = read("<mask>")
    assert shown == f"<|im_start|>found: <|user|><|im_end|>{rest}"
    assert controls == [*own[:2], "<|im_end|>", *own[2:]], "the template's own word"


def test_own_strings_compare_by_letters_and_print_their_characters():
    own = Own("user", {"user": "U", "USER": "V"})
    assert own == "user" and {"user": 1}[own] == 1 and own in ("user",) and own.startswith("us") and len(own) == 4
    assert f"{own}|{own:>3}" == "U|  U" and "%s" % own == "U" and str(own) == "U"  # noqa: UP031
    assert ("<" + own, own + ">", "<" + own.upper() + ">", own.title()) == ("<U", "U>", "<V>", "User")
    assert (own.strip().lower().capitalize() + "", str(own.strip("u"))) == ("User", "ser")
    assert f"{pickle.loads(pickle.dumps(own))}" == "U"


def test_more_control_tokens_than_private_characters_are_refused():
    with pytest.raises(InputError, match="65536 control tokens"):
        aliases_of([f"<{index}>" for index in range(1 << 16)])
