"""Chat templates: the environment that model authors write for, in a sandbox."""

from __future__ import annotations

import re
from datetime import datetime

import pytest

from enginebench.errors import UsageError
from enginebench_models.chat_template import ChatTemplate, ChatTemplateError

HI = [{"role": "user", "content": "Hi"}]


def render(source: str, **variables) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}).render(HI, **variables)


def test_messages_special_tokens_and_the_generation_prompt():
    source = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}: {{ m['content'] }}]{% endfor %}"
        "{% if add_generation_prompt %}>{% endif %}"
    )
    assert render(source) == "<s>[user: Hi]>"
    assert render(source, add_generation_prompt=False) == "<s>[user: Hi]"


def test_further_variables_reach_the_template():
    assert render("{{ tools | tojson }}", tools=[{"name": "f<x>"}]) == '[{"name": "f<x>"}]'


def test_blocks_are_trimmed():
    assert render("a\n  {% if true %}\nb\n  {% endif %}\nc") == "a\nb\nc"


def test_loop_controls():
    assert (
        render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}")
        == "01"
    )


def test_strftime_now():
    assert render("{{ strftime_now('%Y') }}") == str(datetime.now().year)


def test_a_template_may_refuse():
    with pytest.raises(ChatTemplateError, match="refused the messages: roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")
    assert issubclass(ChatTemplateError, UsageError)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% if %}", "chat template is broken"),
        ("{{ nothing.at.all }}", "refused the messages: 'nothing' is undefined"),
        ("{{ messages[0].content + 1 }}", "refused the messages"),
        ("{{ 1 / 0 }}", "refused the messages: division by zero"),
    ],
)
def test_broken_templates(source, message):
    with pytest.raises(ChatTemplateError, match=re.escape(message)):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
    ],
)
def test_the_sandbox_holds(source):
    with pytest.raises(ChatTemplateError, match="refused the messages"):
        render(source)
    assert HI == [{"role": "user", "content": "Hi"}]
