"""The official ``openai`` package as the demo's only way to the server.

It is an optional dependency: nothing else of the product imports it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintonia.cli.tickets import Question
from sintonia.errors import RemoteError, ServerUnreachable, SintoniaError

if TYPE_CHECKING:
    from collections.abc import Callable

    from openai import OpenAI

THREADS = 12
"""Questions under way at once; the engine answers them together."""
MAX_ANSWER_TOKENS = 48


def open_sdk(url: str) -> OpenAI:
    """Return an unmodified client of the package, pointed at a server.

    Raises ``SintoniaError`` when the package is not installed.
    """
    try:
        import openai
    except ImportError:
        raise SintoniaError(
            "The demo talks to the server through the official `openai` package, which is not "
            "installed. Install it with `pip install 'sintonia[demo]'`."
        ) from None
    # A proxy of the environment cannot reach this machine's loopback.
    http_client = openai.DefaultHttpxClient(trust_env=False)
    return openai.OpenAI(
        base_url=f"{url}/v1", api_key="none", max_retries=8, http_client=http_client
    )


class SdkJobs:
    """A ``JobSource`` over the package."""

    def __init__(self, sdk: OpenAI, url: str) -> None:
        self._sdk = sdk
        self._url = url

    def upload(self, path: Path) -> str:
        """Upload a file for fine-tuning and return its id."""
        with in_our_words(self._url):
            return self._sdk.files.create(file=path, purpose="fine-tune").id

    def create(self, **request: Any) -> str:
        """Create a job and return its id."""
        with in_our_words(self._url):
            return self._sdk.fine_tuning.jobs.create(**request).id

    def job(self, job_id: str) -> Mapping[str, Any]:
        """Return the job object."""
        with in_our_words(self._url):
            return self._sdk.fine_tuning.jobs.retrieve(job_id).to_dict()

    def events(self, job_id: str) -> Iterator[Mapping[str, Any]]:
        """Yield the job's events, newest first."""
        with in_our_words(self._url):
            for event in self._sdk.fine_tuning.jobs.list_events(job_id, limit=100):
                yield event.to_dict()

    def answers(
        self, model: str, questions: Sequence[Question], answered: Callable[[], None]
    ) -> list[str]:
        """Return the answers of a model; ``answered`` is called after each."""

        def ask(question: Question) -> str:
            text = self._answer(model, question)
            answered()
            return text

        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(ask, questions))

    def _answer(self, model: str, question: Question) -> str:
        messages: Any = question.messages
        with in_our_words(self._url):
            answer = self._sdk.chat.completions.create(
                model=model, messages=messages, temperature=0, max_tokens=MAX_ANSWER_TOKENS
            )
        return answer.choices[0].message.content or ""


@contextmanager
def in_our_words(url: str) -> Iterator[None]:
    """Turn the package's errors into ours."""
    import openai

    try:
        yield
    except openai.APIStatusError as problem:
        raise RemoteError(
            problem.message, http_status=problem.status_code, param=problem.param, code=problem.code
        ) from None
    except openai.APIConnectionError:
        raise ServerUnreachable(f"The server at {url} does not answer.") from None
