"""Text settles piece by piece, whatever the tokens and stop strings do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from sintonia.data.renderer import ParsedMessage
from sintonia.domain.examples import ToolCall
from sintonia.serving.calls import CallHolder
from sintonia.serving.text import AnswerText, StopFilter, TextDecoder


@pytest.fixture
def tokenizer(tiny_tokenizer_json: str) -> Tokenizer:
    return Tokenizer.from_str(tiny_tokenizer_json)


def decode_with(tokenizer: Tokenizer):
    return lambda ids: tokenizer.decode(list(ids), skip_special_tokens=True)


def test_a_character_of_four_tokens_is_held_until_its_last(tokenizer):
    decoder = TextDecoder(decode_with(tokenizer))
    ids = tokenizer.encode("a🙂b").ids
    assert [decoder.push([token]) for token in ids] == ["a", "", "", "", "🙂", "b"]


def test_a_character_that_is_never_completed_shows_as_the_replacement_sign(tokenizer):
    decoder = TextDecoder(decode_with(tokenizer))
    ids = tokenizer.encode("a🙂").ids[:-1]
    assert decoder.push(ids) == "a"
    assert decoder.finish() == "\ufffd"


def test_bytes_that_are_no_character_do_not_stop_the_text(tokenizer):
    lone = tokenizer.encode("é").ids[1]
    ids = [lone, lone, *tokenizer.encode("ok").ids]
    decoder = TextDecoder(decode_with(tokenizer))
    text = "".join(decoder.push([token]) for token in ids) + decoder.finish()
    assert text == "\ufffd\ufffdok"


@given(text=st.text(max_size=40), sizes=st.lists(st.integers(1, 7), min_size=1, max_size=8))
def test_the_pieces_of_any_text_join_to_the_text(tiny_tokenizer_json, text, sizes):
    tokenizer = Tokenizer.from_str(tiny_tokenizer_json)
    ids = tokenizer.encode(text).ids
    decoder, pieces, place = TextDecoder(decode_with(tokenizer)), [], 0
    while place < len(ids):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(decoder.push(ids[place : place + size]))
        place += size
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    assert "".join([*pieces, decoder.finish()]) == whole


@given(
    text=st.text(alphabet="abc", max_size=30),
    stops=st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=4),
)
def test_a_text_ends_at_its_first_stop_string_however_it_is_cut(text, stops):
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    expected = text[: min(ends)[1]] if ends else text
    for size in (1, 2, 30):
        stop_filter, given_out = StopFilter(stops), ""
        for place in range(0, len(text), size):
            given_out += stop_filter.push(text[place : place + size])
            assert expected.startswith(given_out), "what was given out is never taken back"
        assert stop_filter.has_stopped == bool(ends)
        assert given_out + stop_filter.finish() == expected


def test_end_tokens_are_never_shown_even_when_they_are_not_special(tokenizer):
    dot = tokenizer.encode(".").ids[0]
    text = AnswerText(decode_with(tokenizer), (), [dot])
    assert text.push([*tokenizer.encode("done").ids, dot]) == "done"
    assert text.finish() == ""


def parse_call(text: str) -> ParsedMessage:
    """Split at whole calls the way the renderer does, for texts of this file."""
    begin, end = text.find("<tool_call>"), text.find("</tool_call>")
    if begin < 0 or end < 0:
        return ParsedMessage(text)
    call = ToolCall("call_1", text[begin + len("<tool_call>") : end], "{}")
    return ParsedMessage(text[:begin].strip(), (call,))


def test_text_before_a_call_streams_and_the_call_is_held():
    holder = CallHolder(parse_call, allow_parallel=True)
    given_out = [
        holder.push(part) for part in ("Let me ", "look.\n\n<to", "ol_call>f</tool", "_call>")
    ]
    assert given_out == ["Let me", " look.", "", ""]
    rest, calls = holder.finish()
    assert (rest, [call.name for call in calls]) == ("", ["f"])


def test_text_that_only_looks_like_a_call_is_given_out_at_the_end():
    holder = CallHolder(parse_call, allow_parallel=True)
    assert holder.push("a <tool_call>half") == "a"
    assert holder.finish() == (" <tool_call>half", ())
