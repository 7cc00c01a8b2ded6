"""How much longer eight requests at once take than one, on the embedded model.

``python benchmarks/concurrency.py [--requests 8] [--new-tokens 32] [--repeats 5]``

Both are measured in turns in one run, each with its own prompt of about 40 tokens so that no
prefix is shared; medians are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from pathlib import Path

from sintonia import catalog, settings
from sintonia.bases.library import Library
from sintonia.data.renderer import Renderer
from sintonia.domain.examples import Message
from sintonia.generation.base import Engine, GenerationRequest, ModelRef, SamplingParams
from sintonia.generation.engines import native


def prompts(renderer: Renderer, count: int, offset: int) -> list[tuple[int, ...]]:
    """Return ``count`` different chat prompts."""
    texts = [f"{offset + n}. Tell me what the number {offset + n} brings." for n in range(count)]
    return [tuple(renderer.chat_prompt([Message("user", text)])) for text in texts]


async def measure(
    engine: Engine, ref: ModelRef, asked: list[tuple[int, ...]], new_tokens: int
) -> float:
    """Return the seconds until all of ``asked`` are answered."""

    async def answer(number: int, prompt: tuple[int, ...]) -> None:
        sampling = SamplingParams(max_tokens=new_tokens, temperature=0.0)
        request = GenerationRequest(f"{time.monotonic_ns()}-{number}", ref, prompt, sampling)
        async for _ in engine.stream(request):
            pass

    began = time.perf_counter()
    await asyncio.gather(*(answer(number, prompt) for number, prompt in enumerate(asked)))
    return time.perf_counter() - began


async def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    chosen = settings.load()
    library = Library(chosen.home, catalog.load(chosen.aliases))
    base = library.fetch("smollm2-135m-instruct", lambda _what, _part: None).ref
    renderer = Renderer.from_folder(Path(base.folder))
    engine, ref = native.create(chosen), ModelRef(base.folder, base.sha256)
    await measure(engine, ref, prompts(renderer, 1, 0), given.new_tokens)
    alone, together = [], []
    for repeat in range(given.repeats):
        first = 1000 * (repeat + 1)
        alone.append(await measure(engine, ref, prompts(renderer, 1, first), given.new_tokens))
        asked = prompts(renderer, given.requests, first + 100)
        together.append(await measure(engine, ref, asked, given.new_tokens))
    await engine.close()
    one, many = statistics.median(alone), statistics.median(together)
    print(f"1 request {one:.2f} s; {given.requests} at once {many:.2f} s: {many / one:.2f} x")


if __name__ == "__main__":
    asyncio.run(main())
