"""The sandbox: what templates may do, what is refused, and that refusing is quick."""

import time

import pytest

from jaxdlm import chat
from jaxdlm.errors import InputError

HELLO = [{"role": "user", "content": "hello"}]


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
    assert chat.render(template, HELLO, {"bos_token": "<s>"}) == "<s>helloTrue"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ 'a' * 10**9 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(9999) %}{{ 'a' * 99999 }}{% endfor %}",
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0].content.missing.deep }}",
        "{% if %}",
        "{{ 1 / 0 }}",
        "{{ messages[7].content + 1 }}",
        "x" * (chat.MAX_TEMPLATE + 1),
    ],
)
def test_refused_in_one_line_and_in_time(template):
    begin = time.perf_counter()
    with pytest.raises(InputError) as caught:
        chat.render(template, HELLO, {})
    assert "\n" not in str(caught.value)
    assert time.perf_counter() - begin < 5
