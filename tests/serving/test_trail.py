"""The tokens that are given out say what the text says, wherever it is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sintonia.data.token_bytes import TokenText
from sintonia.serving.answers import ScoredToken
from sintonia.serving.trail import TokenTrail, placed

TEXT = st.text(alphabet="aé漢🙂 ", max_size=12)


def tokens(*fragments: bytes) -> list[ScoredToken]:
    return [ScoredToken(TokenText(str(f), f), -1.0) for f in fragments]


def said(found) -> bytes:
    return b"".join(token.token.bytes for token in found)


@given(text=TEXT, data=st.data())
def test_the_tokens_of_any_part_of_a_text_are_that_part(text, data):
    value, fragments = text.encode(), []
    while value:
        size = data.draw(st.integers(1, len(value)))
        fragments.append(value[:size])
        value = value[size:]
    shown = data.draw(st.integers(0, len(text)))
    trail, given_out, done = TokenTrail(), [], 0
    trail.push(tokens(*fragments))
    while done < shown:
        count = data.draw(st.integers(1, shown - done))
        given_out += trail.take(count)
        done += count
        assert text[:done].encode().startswith(said(given_out))
    assert said([*given_out, *trail.finish()]) == text[:shown].encode()


def test_a_character_is_given_out_when_its_last_fragment_is_there():
    trail, smile = TokenTrail(), "🙂".encode()
    trail.push(tokens(b"a", smile[:1]))
    assert said(trail.take(1)) == b"a"
    trail.push(tokens(smile[1:3]))
    assert trail.take(0) == ()
    trail.push(tokens(smile[3:] + b"b"))
    assert said(trail.take(1)) == smile[:3]
    assert said(trail.take(1)) == smile[3:] + b"b"


def test_a_character_that_is_never_completed_goes_with_its_replacement_sign():
    trail = TokenTrail()
    trail.push(tokens(b"a", "🙂".encode()[:2]))
    assert said(trail.take(1)) == b"a"
    assert said(trail.take(1)) == "🙂".encode()[:2]
    assert trail.finish() == ()


def test_offsets_are_those_of_the_character_that_a_token_begins_in():
    fragments = (b"a", b"\xe9\x80", b"\x82", "合".encode(), b"b")
    trail = TokenTrail(5)
    trail.push(tokens(*fragments))
    assert [token.offset for token in trail.take(4)] == [5, 6, 6, 7, 8]
    assert [token.offset for token in placed(tokens(*fragments))] == [0, 1, 1, 2, 3]


def test_tokens_that_show_nothing_are_left_out_of_an_answer_but_not_of_a_prompt():
    special = ScoredToken(TokenText("<s>", None), -1.0)
    trail = TokenTrail()
    trail.push([special, *tokens(b"a"), special])
    assert said(trail.take(1)) == b"a"
    assert trail.finish() == ()
    assert [token.offset for token in placed([special, *tokens(b"ab"), special])] == [0, 0, 2]
