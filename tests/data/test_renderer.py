"""The renderer on the embedded model's real tokenizer is in test_renderer_oracle.py; this file
uses the tiny one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sintonia import catalog
from sintonia.bases.folder import our_template
from sintonia.bases.library import Library
from sintonia.data.renderer import Renderer
from sintonia.domain.examples import ChatExample, CompletionExample, Message, ToolCall
from sintonia.errors import InvalidValue

TOOLS = (
    {
        "type": "function",
        "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}},
    },
)
CALL = ToolCall("call_1", "get_weather", '{"city": "São Paulo"}')


@pytest.fixture(scope="module")
def folder(tiny_home) -> Path:
    base = Library(tiny_home, catalog.load()).find("tiny")
    assert base is not None
    return Path(base.ref.folder)


@pytest.fixture(scope="module")
def renderer(folder) -> Renderer:
    return Renderer.from_folder(folder)


def text(renderer: Renderer, ids) -> str:
    return renderer._tokenizer.decode(list(ids), skip_special_tokens=False)


def test_each_learned_turn_is_what_serving_sends_and_the_answer_with_its_end(renderer):
    messages = (
        Message("system", "Be brief."),
        Message("user", "Hi"),
        Message("assistant", "Hello"),
        Message("user", "Bye"),
        Message("assistant", "So long", weight=1),
    )
    sequences = renderer.sequences(ChatExample(messages))
    assert [text(renderer, s.answer_ids) for s in sequences] == [
        "Hello<|im_end|>",
        "So long<|im_end|>",
    ]
    assert list(sequences[0].prompt_ids) == renderer.chat_prompt(messages[:2])
    assert list(sequences[1].prompt_ids) == renderer.chat_prompt(messages[:4])


def test_a_message_of_weight_zero_is_context_and_not_learned(renderer):
    messages = (
        Message("user", "Hi"),
        Message("assistant", "Grr", weight=0),
        Message("user", "Again"),
        Message("assistant", "Hello", weight=1),
    )
    (sequence,) = renderer.sequences(ChatExample(messages))
    assert "Grr" in text(renderer, sequence.prompt_ids)
    assert text(renderer, sequence.answer_ids) == "Hello<|im_end|>"


def test_a_developer_message_is_shown_as_system(renderer):
    prompt = text(renderer, renderer.chat_prompt([Message("developer", "D"), Message("user", "U")]))
    assert prompt == (
        "<|im_start|>system\nD<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    )


def test_tools_calls_and_results_are_rendered_and_calls_parsed_back(renderer):
    messages = (
        Message("user", "Weather?"),
        Message("assistant", None, tool_calls=(CALL,)),
        Message("tool", "sunny", tool_call_id="call_1"),
        Message("assistant", "Sunny."),
    )
    first, second = renderer.sequences(ChatExample(messages, TOOLS))
    assert "get_weather" in text(renderer, first.prompt_ids)
    assert "<tool_response>\nsunny\n</tool_response>" in text(renderer, second.prompt_ids)
    parsed = renderer.parse(renderer.decode(first.answer_ids))
    assert parsed.text == ""
    (call,) = parsed.tool_calls
    assert (call.name, call.arguments) == (CALL.name, CALL.arguments)


def test_two_calls_and_text_in_one_answer_are_all_parsed(renderer):
    other = ToolCall("call_2", "get_weather", '{"city": "Rome"}')
    message = Message("assistant", "One moment.", tool_calls=(CALL, other))
    (sequence,) = renderer.sequences(ChatExample((Message("user", "?"), message), TOOLS))
    parsed = renderer.parse(renderer.decode(sequence.answer_ids))
    assert parsed.text == "One moment."
    assert [call.arguments for call in parsed.tool_calls] == [CALL.arguments, other.arguments]


def test_a_broken_call_stays_text(renderer):
    broken = '<tool_call>\n{"name": "get_weather", "arg\n</tool_call>'
    assert renderer.parse(broken).text == broken


def test_a_template_that_ignores_tools_is_refused_never_rendered_without_them(folder, tmp_path):
    for name in ("tokenizer.json", "sintonia.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    plain = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    )
    (tmp_path / "chat_template.jinja").write_text(
        plain + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    renderer = Renderer.from_folder(tmp_path)
    assert renderer.chat_prompt([Message("user", "Hi")])
    with pytest.raises(InvalidValue, match="leaves out the tools"):
        renderer.chat_prompt([Message("user", "Hi")], TOOLS)
    call = (Message("user", "Hi"), Message("assistant", None, tool_calls=(CALL,)))
    with pytest.raises(InvalidValue, match="leaves out a part of message 2"):
        renderer.sequences(ChatExample(call))


def test_a_template_that_does_not_end_a_turn_is_refused(folder, tmp_path):
    for name in ("tokenizer.json", "sintonia.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    renderer = Renderer.from_folder(tmp_path)
    with pytest.raises(InvalidValue, match="end token"):
        renderer.sequences(ChatExample((Message("user", "Hi"), Message("assistant", "Ho"))))


@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_the_templates_own_tokens_in_a_text_are_refused(renderer, role):
    bad = Message(role, "hello <|im_end|> there")
    example = ChatExample((Message("user", "Hi"), bad, Message("assistant", "Ho")))
    with pytest.raises(InvalidValue, match=r"contains an invalid token: <\|im_end\|>"):
        renderer.sequences(example)


def test_a_completion_is_split_at_its_border_and_learns_its_end(renderer):
    (sequence,) = renderer.sequences(CompletionExample("2+2=", "4"))
    assert text(renderer, sequence.prompt_ids) == "2+2="
    assert text(renderer, sequence.answer_ids) == "4<|im_end|>"
    assert list(sequence.prompt_ids) == renderer.completion_prompt("2+2=")


def test_an_empty_prompt_has_a_token_to_predict_from(renderer):
    (sequence,) = renderer.sequences(CompletionExample("", "Once upon a time"))
    assert len(sequence.prompt_ids) == 1


def test_a_template_that_reaches_for_python_is_stopped(folder, tmp_path):
    for name in ("tokenizer.json", "sintonia.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    evil = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    (tmp_path / "chat_template.jinja").write_text(evil)
    with pytest.raises(InvalidValue, match="refuses"):
        Renderer.from_folder(tmp_path).chat_prompt([Message("user", "Hi")])


def test_the_hash_changes_with_the_template_and_with_the_tokenizer(folder, renderer, tmp_path):
    for name in ("tokenizer.json", "sintonia.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "chat_template.jinja").write_text(our_template("chatml", "Another default"))
    assert Renderer.from_folder(tmp_path).template_sha256 != renderer.template_sha256


def with_template(folder, tmp_path, template: str, **facts) -> Renderer:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    stored = json.loads((folder / "sintonia.json").read_text())
    (tmp_path / "sintonia.json").write_text(json.dumps({**stored, **facts}))
    (tmp_path / "chat_template.jinja").write_text(template)
    return Renderer.from_folder(tmp_path)


TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
START = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def test_a_tool_that_only_happens_to_be_named_in_a_text_does_not_pass(folder, tmp_path):
    renderer = with_template(folder, tmp_path, TURNS + START)
    with pytest.raises(InvalidValue, match="leaves out the tools"):
        renderer.chat_prompt([Message("user", "use get_weather please")], TOOLS)


def test_a_template_that_lists_tools_but_drops_calls_is_refused(folder, tmp_path):
    renderer = with_template(folder, tmp_path, "{{ tools | tojson }}\n" + TURNS + START)
    call = (Message("user", "Hi"), Message("assistant", None, tool_calls=(CALL,)))
    assert renderer.chat_prompt(call[:1], TOOLS)
    with pytest.raises(InvalidValue, match="leaves out a part of message 2"):
        renderer.sequences(ChatExample(call, TOOLS))


def test_a_template_that_escapes_or_trims_texts_is_not_refused(folder, tmp_path):
    escaped = TURNS.replace("m.content", "m.content | tojson(ensure_ascii=True)")
    renderer = with_template(folder, tmp_path, escaped + START)
    assert renderer.chat_prompt([Message("user", '{"a": "é\n"}')])
    trimmed = TURNS.replace("m.content", "m.content.split('</think>')[-1]")
    renderer = with_template(folder, tmp_path, trimmed + START)
    history = [
        Message("user", "Q"),
        Message("assistant", "<think>hm</think>A"),
        Message("user", "B"),
    ]
    assert renderer.chat_prompt(history)


def test_the_token_that_ends_a_turn_is_the_templates_and_not_the_first_one_named(folder, tmp_path):
    renderer = with_template(
        folder, tmp_path, TURNS + START, stop_tokens=["<|im_start|>", "<|im_end|>"]
    )
    example = ChatExample((Message("user", "Hi"), Message("assistant", "Ho")))
    (sequence,) = renderer.sequences(example)
    assert text(renderer, sequence.answer_ids) == "Ho<|im_end|>"


def test_deep_or_endless_template_work_is_refused_in_words(folder, tmp_path):
    renderer = with_template(folder, tmp_path, "{{ 1 / 0 }}")
    with pytest.raises(InvalidValue, match="refuses the conversation"):
        renderer.chat_prompt([Message("user", "Hi")])
    nested = "<tool_call>" + "[" * 100_000 + "</tool_call>"
    assert renderer.parse(nested).text == nested


def test_a_tools_description_cannot_hold_the_templates_own_tokens(renderer):
    function = {"name": "f", "description": "<|im_end|>", "parameters": {}}
    with pytest.raises(InvalidValue, match="invalid token"):
        renderer.chat_prompt([Message("user", "Hi")], [{"type": "function", "function": function}])


def test_a_token_that_hides_in_escapes_of_a_calls_arguments_is_refused(renderer):
    hidden = ToolCall("call_1", "get_weather", r'{"city": "\u003c|im_end|>"}')
    messages = (Message("user", "Hi"), Message("assistant", None, tool_calls=(hidden,)))
    with pytest.raises(InvalidValue, match=r"invalid token: <\|im_end\|>") as refused:
        renderer.sequences(ChatExample(messages, TOOLS))
    assert refused.value.param == "messages[1]"
    with pytest.raises(InvalidValue, match="invalid token"):
        renderer.chat_prompt([*messages, Message("tool", "x", tool_call_id="call_1")], TOOLS)


THINKING = """\
{%- set last = namespace(query=0) -%}
{%- for m in messages if m.role == 'user' -%}
    {%- set last.query = messages.index(m) -%}
{%- endfor -%}
{%- for m in messages -%}
    {%- set said = m.content.split('</think>')[-1].lstrip('\\n') -%}
    {%- set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
    {{- '<|im_start|>' + m.role + '\\n' -}}
    {%- if m.role == 'assistant' and loop.index0 > last.query -%}
        {{- '<think>\\n' + (thought if '</think>' in m.content else '') + '\\n</think>\\n\\n' -}}
    {%- endif -%}
    {{- said + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- if enable_thinking is defined and enable_thinking is false -%}
        {{- '<think>\\n\\n</think>\\n\\n' -}}
    {%- endif -%}
{%- endif -%}
"""
"""What Qwen3's template does with thoughts: only the answer to the last question keeps a block,
an empty one where there was none, and a prompt that asks for no thoughts ends with it."""


def test_a_thinking_models_empty_block_belongs_to_the_prompt_and_is_never_learned(folder, tmp_path):
    renderer = with_template(folder, tmp_path, THINKING)
    messages = (
        Message("user", "Hi"),
        Message("assistant", "Hello"),
        Message("user", "Bye"),
        Message("assistant", "So long"),
    )
    first, second = renderer.sequences(ChatExample(messages))
    assert text(renderer, first.answer_ids) == "Hello<|im_end|>"
    assert text(renderer, second.answer_ids) == "So long<|im_end|>"
    assert text(renderer, first.prompt_ids).endswith("assistant\n<think>\n\n</think>\n\n")
    assert text(renderer, second.prompt_ids).count("<think>") == 1
    assert list(first.prompt_ids) == renderer.chat_prompt(messages[:1])
    assert list(second.prompt_ids) == renderer.chat_prompt(messages[:3])


def test_an_answer_that_thinks_first_is_refused_with_what_to_do(folder, tmp_path):
    renderer = with_template(folder, tmp_path, THINKING)
    thinks = Message("assistant", "<think>\nhm\n</think>\n\nHello")
    with pytest.raises(InvalidValue, match="leave out the reasoning"):
        renderer.sequences(ChatExample((Message("user", "Hi"), thinks)))
    later = (Message("user", "Hi"), thinks, Message("user", "Bye"))
    assert "hm" not in text(renderer, renderer.chat_prompt(later))
