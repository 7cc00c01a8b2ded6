"""A chat template is a foreign program: whatever it raises ends in words."""

from __future__ import annotations

import pytest

from sintonia.data.chat_template import compile_template, render
from sintonia.errors import InvalidValue, RefusedModel


@pytest.mark.parametrize(
    "text",
    [
        "{{ 10.0 ** 400 }}",
        "{{ 'x' * 10 ** 14 }}",
        "{{ 'x'.encode('nope') }}",
        "{{ cycler().next() }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ range(10 ** 9) }}",
        "{{ messages[0].role.nothing.at_all }}",
        "{{ '\\ud800' }}",
        "{{ raise_exception('half a character: \\ud800') }}",
        "{{ raise_exception('x' * 100000) }}",
    ],
)
def test_whatever_a_template_raises_is_a_refusal_that_can_be_sent(text):
    with pytest.raises(InvalidValue) as caught:
        render(compile_template(text), {"messages": [{"role": "user"}]})
    assert "refuses the conversation: " in caught.value.message
    assert caught.value.param == "messages"
    assert len(caught.value.message.encode()) < 1000


def test_a_template_that_cannot_be_compiled_is_refused():
    for text in ("{% if %}", "{{ " + "(" * 20_000):
        with pytest.raises(RefusedModel, match="cannot be read"):
            compile_template(text)
