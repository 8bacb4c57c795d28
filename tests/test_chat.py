"""Templates: what they may do, what is refused and how soon, and that nothing of one rendering is left for the next."""

import os
import subprocess
import sys
import threading
import time

import pytest

from jaxdlm import chat
from jaxdlm.confined import templates
from jaxdlm.errors import InputError
from tests import helpers

HELLO = [{"role": "user", "content": "hello"}]
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}


def test_blocks_are_trimmed_and_loop_controls_work():
    template = (
        "{% for m in messages %}\n  {% if loop.index0 > 5 %}{% break %}{% endif %}\n{{ m.content }};\n{% endfor %}\nend"
    )
    assert chat.render(template, HELLO, {}) == "hello;\nend"


def test_tojson_keeps_letters_as_they_are():
    assert chat.render("{{ messages | tojson }}", [{"role": "a", "content": "<é>"}], {}) == (
        '[{"role": "a", "content": "<é>"}]'
    )


def test_generation_marks_are_transparent_and_names_are_given():
    template = "{{ bos_token }}{% generation %}{{ messages[0].content }}{% endgeneration %}{{ tools is none }}"
    assert chat.render(template, HELLO, NAMES) == "<s>helloTrue"


def test_counting_changes_no_result():
    """What is rewritten to be counted, in one template: loops, slices, `~`, comparisons, literals, filters, macros."""
    template = (
        "{% macro turn(m, last=false) %}[{{ m.role ~ ':' ~ (m.content | trim) }}{{ '!' if last }}]{% endmacro %}"
        "{% set ns = namespace(seen=0) %}{% for m in messages[1:] if m.role != 'tool' %}"
        "{% set ns.seen = ns.seen + 1 %}{{ turn(m, loop.last) }}{{ loop.index }}/{{ loop.length }}{% else %}none"
        "{% endfor %}{{ ns.seen }}{{ (1, 2)[::-1] | join('-') }}{{ {'a': [1, 2]} | tojson }}{{ 3 in [1, 2, 3] }}"
        "{{ '%s-%02d' | format('a', 7) }}{{ '{:>4}'.format('b') }}{{ messages | map(attribute='role') | list | length }}"
        "{% for x in [1, [2, [3]]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}{{ 2 ** 3 * 'ab' }}"
        "{{ 7 // 2 }}{{ none }}{{ 1.5 }}{{ messages[0].content.split('l') }}{{ range(3) | list }}"
    )
    messages = [*HELLO, {"role": "user", "content": " a "}, {"role": "tool"}, {"role": "assistant", "content": "b"}]
    expected = (
        "[user:a]1/2[assistant:b!]2/222-1" + '{"a": [1, 2]}' + "Truea-07   b4123" + "ab" * 8 + "3None1.5"
        "['he', '', 'o'][0, 1, 2]"
    )  # fmt: skip
    assert chat.render(template, messages, {}) == expected


REFUSED = {
    "classes": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe|undefined|no attribute"),
    "changes": ("{{ messages.append(1) }}", "unsafe"),
    "bytes": ("{{ 'a'.encode() }}", "unsafe"),
    "its own refusal": ("{{ raise_exception('roles must alternate\nplease') }}", "roles must alternate please"),
    "undefined": ("{{ messages[0].content.missing.deep }}", "no attribute 'missing'"),
    "syntax": ("a\n{% if %}", "does not parse .line 2"),
    "nested too deeply": ("{% if a %}" * 150 + "{% endif %}" * 150, "does not parse .too many"),
    "division": ("{{ 1 / 0 }}", "division by zero"),
    "types": ("{{ messages[7].content + 1 }}", "undefined|no element"),
    "source": ("x" * (chat.MAX_TEMPLATE + 1), "characters, more than"),
    "half a pair": ("a{{ '\\ud800' }}", "surrogate pair at 1"),
    "half a pair in the source": ("a\ud800", "surrogate pair at 1"),
    "an address": ("{{ messages | map(attribute='role') }}", "prints a generator"),
    "an address in a list": ("{{ [messages[0].content.upper] }}", "prints a list"),
    "chance": ("{{ lipsum() }}", "undefined"),
    "another file": ("{% include '/etc/passwd' %}", "no loader"),
    "a range": ("{% for i in range(10**9) %}x{% endfor %}", "[Rr]ange"),
    "endless calls": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case):
    template, words = REFUSED[case]
    with pytest.raises(InputError, match=words) as caught:
        chat.render(template, HELLO, {})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


DOUBLED = "{{% set ns = namespace(x={}) %}}{{% for i in range(99) %}}{{% set ns.x = {} %}}{{% endfor %}}{}"
LONG = "('a' * 4000000)"
STEPS, SIZE = r"more than \d+ steps", f"more than {templates.MAX_RENDERED} characters"
TOO_MUCH = {
    "a long text": ("{{ 'a' * 10**9 }}", SIZE),
    "a long list": ("{{ [1] * 10**9 }}", SIZE),
    "a tower": ("{{ 9 ** 9 ** 9 }}", "power"),
    "squares": (DOUBLED.format(3, "ns.x * ns.x", ""), "64 bits"),
    "sums": (DOUBLED.format(3, "ns.x + ns.x", ""), "64 bits"),
    "doubled by +": (DOUBLED.format("'ab'", "ns.x + ns.x", ""), SIZE),
    "doubled by ~": (DOUBLED.format("'ab'", "ns.x ~ ns.x", ""), SIZE),
    "doubled lists": (DOUBLED.format("[1]", "ns.x + ns.x", ""), STEPS),
    "shared lists, printed": (DOUBLED.format("[1]", "[ns.x, ns.x]", "{{ ns.x }}"), STEPS),
    "shared lists as JSON": (DOUBLED.format("[1]", "[ns.x, ns.x]", "{{ ns.x | tojson }}"), STEPS),
    "a block set twice": (
        DOUBLED.format("'ab'", "ns.x", "").replace("{% endfor", "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}"
        "{% set ns.x = y %}{% endfor"), SIZE),
    "its own words in a block": (
        "{% set y %}{% for i in range(9999) %}" + "word " * 1000 + "{% endfor %}{% endset %}",
        SIZE),
    "printed": ("{% for i in range(9999) %}{{ 'a' * 99999 }}{% endfor %}", f"{STEPS}|{SIZE}"),
    "loops in loops": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", STEPS),
    "loops over a text": (
        "{% set s = 'a' * 9999 %}{% for i in s %}{% for j in s[1:] %}{% endfor %}{% endfor %}", STEPS),
    "macros that call twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}", STEPS),
    "slices": ("{{ [1] | slice(10**8) | list }}", "width"),
    "batches": ("{{ [1] | batch(10**8, 'x') | list }}", "width"),
    "a wide filter": ("{{ 'a' | center(10**10) }}", "width"),
    "a wide block": ("{% filter center(10**9) %}x{% endfilter %}", "width"),
    "an indent": ("{{ ('\\n' * 1000000) | indent(60000) }}", SIZE),
    "center": ("{{ 'a'.center(10**10) }}", SIZE),
    "ljust": ("{{ 'a'.ljust(10**10) }}", SIZE),
    "zfill": ("{{ 'a'.zfill(10**11) }}", SIZE),
    "tabs": ("{{ ('\\t' * 999999).expandtabs(999999) }}", SIZE),
    "replace": ("{{ ('a' * 999999).replace('a', 'b' * 999999) }}", SIZE),
    "the filter replace": ("{{ ('a' * 999999) | replace('a', 'b' * 999999) }}", SIZE),
    "join": ("{{ ('x' * 999999).join('y' * 9999) }}", SIZE),
    "the filter join": ("{{ (['y' * 9999] * 9999) | join('x') }}", f"{SIZE}|{STEPS}"),
    "format": ("{{ '{:>20000000000}'.format(1) }}", "width"),
    "a computed format": ("{{ '{:{}}'.format(1, 10**10) }}", "width"),
    "the filter format": ("{{ '%20000000000d' | format(1) }}", "width"),
    "%": ("{{ '%20000000000d' % 1 }}", "width"),
    "% of a computed width": ("{{ '%*d' % (10**10, 1) }}", "width"),
    "long texts again and again": ("{% for i in range(9999) %}{{ " + LONG + ".upper() | length }}{% endfor %}", STEPS),
}  # fmt: skip


@pytest.mark.parametrize("case", TOO_MUCH)
def test_too_much_is_refused_by_name(case, monkeypatch):
    template, words = TOO_MUCH[case]
    if words == STEPS:  # a fiftieth of them, which only makes it quicker
        monkeypatch.setattr(chat, "STEPS", 20_000)
    begin = time.perf_counter()
    with pytest.raises(InputError, match=words) as caught:
        chat.render(template, HELLO, {})
    assert time.perf_counter() - begin < chat.SECONDS
    assert "raw=True" in str(caught.value)
    assert chat.render("{{ messages[0].content }}", HELLO, {}) == "hello"


def test_the_steps_of_a_chat_are_counted_whatever_the_machine():
    """Exactly: one more is refused."""
    question = {"template": "{% for m in messages %}{{ m.content }}{% endfor %}", "variables": {"messages": HELLO}}
    found = templates.render(question | {"steps": 1000})
    assert found["text"] == "hello"
    assert templates.render(question | {"steps": found["steps"]}) == found
    assert "exceeded" in templates.render(question | {"steps": found["steps"] - 1})


@pytest.mark.parametrize("template", [helpers.CHATML, helpers.HEADERS, helpers.ROLES])
def test_bounds_leave_room(template):
    """A conversation of a thousand turns, or a message of a million characters, takes a tenth of the steps at most."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": "some words " * 20} for i in range(1001)]
    for messages in (turns, [{"role": "user", "content": "word " * 200_000}]):
        names = {**NAMES, "messages": messages, "add_generation_prompt": True}
        found = templates.render({"template": template, "variables": names, "steps": chat.STEPS})
        assert found["steps"] < chat.STEPS / 10
        assert chat.render(template, messages, NAMES) == found["text"]


def test_time_runs_out_whatever_is_counted(monkeypatch):
    monkeypatch.setattr(chat, "SECONDS", 0.2)
    begin = time.perf_counter()
    with pytest.raises(InputError, match=r"more than 0\.2 seconds"):
        chat.render("{{ " + LONG + " | wordwrap(1) }}", HELLO, {})
    assert time.perf_counter() - begin < 5
    monkeypatch.undo()
    assert chat.render("{{ messages[0].content }}", HELLO, {}) == "hello"


@pytest.mark.slow
def test_a_value_nested_without_end():
    deep = "{% set ns = namespace(x=1) %}{% for i in range(99999) %}{% set ns.x = (ns.x,) %}{% endfor %}"
    with pytest.raises(InputError, match=r"recursion|ends the process"):
        chat.render(deep + "{{ {ns.x: 1} }}", HELLO, {})


def test_a_process_that_was_ended_is_started_again():
    chat.render("", HELLO, {})
    chat._child._process.kill()
    chat._child._process.wait()
    assert chat.render("{{ messages[0].content }}", HELLO, {}) == "hello"


def test_an_interrupt_leaves_no_answer_for_the_next(monkeypatch):
    chat.render("", HELLO, {})

    class Interrupted:
        def get(self, timeout):
            raise KeyboardInterrupt

        def put(self, answer):
            pass

    monkeypatch.setattr(chat._child, "_answers", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        chat.render("another", HELLO, {})
    monkeypatch.undo()
    assert chat.render("{{ messages[0].content }}", HELLO, {}) == "hello"


def test_threads_get_their_own_answers():
    wrong = []

    def work(number):
        for turn in range(20):
            words = f"{number} {turn}"
            if chat.render("{{ messages[0].content }}", [{"role": "user", "content": words}], {}) != words:
                wrong.append(words)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_renders_by_itself():
    """A program that forks (a data loader) while another thread renders; no process is left when it has ended."""
    program = (
        "import os, threading\n"
        "from jaxdlm import chat\n"
        "say = lambda words: chat.render('{{ messages[0].content }}', [{'role': 'user', 'content': words}], {})\n"
        "assert say('a') == 'a'\n"
        "chat._lock.acquire()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if say('b') == 'b' else 1)\n"
        "chat._lock.release()\n"
        "assert say('c') == 'c' and os.waitpid(child, 0)[1] == 0\n"
        "print(chat._child._process.pid)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


@pytest.mark.parametrize("value", [object(), {1: object()}, b"bytes"])
def test_messages_are_json(value):
    with pytest.raises(InputError, match="plain JSON"):
        chat.render("", [{"role": "user", "content": value}], {})


def test_an_interpreter_that_does_not_start(monkeypatch):
    chat._end()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(InputError, match="no process can be started"):
        chat.render("", HELLO, {})
    monkeypatch.undo()
    assert chat.render("{{ messages[0].content }}", HELLO, {}) == "hello"
