"""What an answer's usage tells of prompts that were read before."""

from __future__ import annotations

from live import LiveServer, home_with_tiny

LONG = "Tell me about the sea, the wind and the ships that went out. " * 4


def test_usage_tells_what_was_read_before(tiny_home, tmp_path):
    server = LiveServer(home_with_tiny(tiny_home, tmp_path / "home"), {"SINTONIA_THREADS": "1"})
    server.start()
    try:

        def cached(**how) -> int:
            asked = [{"role": "system", "content": LONG}, {"role": "user", "content": "Go."}]
            answer = server.client.chat.completions.create(
                model="tiny", messages=asked, max_tokens=4, **how
            )
            if how.get("stream"):
                *_, last = answer
                return last.usage.prompt_tokens_details.cached_tokens
            details = answer.usage.prompt_tokens_details
            assert details.cached_tokens < answer.usage.prompt_tokens
            return details.cached_tokens

        assert cached(n=3) == 0, "of several answers one reads the prompt"
        again = cached()
        assert again > 0
        assert again % 64 == 0
        assert cached(n=2) == again, "a prompt counts once"
        assert cached(stream=True, stream_options={"include_usage": True}) == again
    finally:
        server.stop()
