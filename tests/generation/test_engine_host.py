"""The engine in a process of its own, met through its client."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
from engine_kit import answer, answers, poll, prompt, request, save_base

from sintonia.errors import EngineUnavailable, InvalidValue, RefusedModel, TooManyRequests
from sintonia.generation import wire
from sintonia.generation.client import EngineClient
from sintonia.settings import Settings


def start(home, *arguments, **settings) -> subprocess.Popen:
    variables = {f"SINTONIA_{name.upper()}": str(value) for name, value in settings.items()}
    return subprocess.Popen(
        [sys.executable, "-m", "sintonia.generation.host", *arguments],
        env={**os.environ, "SINTONIA_HOME": str(home), "SINTONIA_THREADS": "1", **variables},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def end(host: subprocess.Popen) -> str:
    """Kill ``host`` if it still runs; return what it said."""
    host.kill()
    _, said = host.communicate()
    return said.decode()


@asynccontextmanager
async def client_of(home):
    client = EngineClient(wire.socket_path(Settings(home=home)))
    try:
        yield client
    finally:
        await client.close()


async def until_it_answers(client):
    async def is_there():
        try:
            await client.status()
        except EngineUnavailable:
            return False
        return True

    await poll(is_there, 60)


@asynccontextmanager
async def echo_host(home, *arguments, **settings):
    host = start(home, *arguments, engine="echo", **settings)
    try:
        async with client_of(home) as client:
            await until_it_answers(client)
            yield host, client
    finally:
        end(host)


def test_many_requests_share_a_connection_each_with_its_own_answer(tmp_path):
    async def run():
        async with echo_host(tmp_path) as (_, client):
            wanted = [request(tmp_path, prompt(n, 16)) for n in range(40)]
            found = await answers(client, wanted)
            assert [tuple(one.token_ids) for one in found] == [one.prompt_ids for one in wanted]

    asyncio.run(run())


def test_only_the_user_can_open_the_socket(tmp_path):
    async def run():
        async with echo_host(tmp_path):
            mode = (tmp_path / "engine.sock").stat().st_mode
            assert stat.S_ISSOCK(mode)
            assert stat.S_IMODE(mode) == 0o600

    asyncio.run(run())


def test_a_home_with_a_long_path_is_served_too(tmp_path):
    home = tmp_path / ("x" * 120)
    home.mkdir()

    async def run():
        async with echo_host(home) as (_, client):
            assert (await answer(client, request(home, (1, 2)))).token_ids == [1, 2]

    asyncio.run(run())
    assert not (home / "engine.sock").exists()


def test_errors_arrive_as_what_they_were(tmp_path):
    async def run():
        async with echo_host(tmp_path, engine_slots=1, engine_queue=0) as (_, client):
            with pytest.raises(InvalidValue, match="0 tokens"):
                await answer(client, request(tmp_path, ()))
            stream = client.stream(request(tmp_path, range(1000, 3000), max_tokens=2000))
            await anext(stream)
            refused = await asyncio.gather(
                *(answer(client, request(tmp_path, prompt(n, 16))) for n in range(8)),
                return_exceptions=True,
            )
            assert TooManyRequests in {type(one) for one in refused}
            await stream.aclose()
            await poll(lambda: _is_idle(client))
            assert (await answer(client, request(tmp_path, (5, 6)))).token_ids == [5, 6]

    asyncio.run(run())


async def _is_idle(client):
    status = await client.status()
    return status.running == status.waiting == 0


def test_a_second_host_of_a_home_is_refused_and_the_first_goes_on(tmp_path):
    async def run():
        async with echo_host(tmp_path) as (_, client):
            second = await asyncio.to_thread(_outcome, start(tmp_path, engine="echo"))
            assert second[0] == 2
            assert "running for this home already" in second[1]
            assert "Traceback" not in second[1]
            assert (await answer(client, request(tmp_path, (5, 6)))).token_ids == [5, 6]

    asyncio.run(run())


def _outcome(host):
    status = host.wait(30)
    return status, end(host)


def test_a_line_that_is_no_message_ends_its_connection_only(tmp_path):
    async def run():
        async with echo_host(tmp_path) as (_, client):
            for line in (b"not json\n", b"[1]\n", b'{"op": "status"}\n'):
                reader, writer = await asyncio.open_unix_connection(tmp_path / "engine.sock")
                writer.write(line)
                assert await reader.read() == b""
                writer.close()
            reader, writer = await asyncio.open_unix_connection(tmp_path / "engine.sock")
            writer.write(b'{"op": "dance", "id": 1}\n{"op": "generate", "id": 2}\n')
            first, second = [wire.decode_line(await reader.readline()) for _ in range(2)]
            assert (first["id"], first["error"]["class"]) == (1, "InvalidValue")
            assert (second["id"], second["error"]["class"]) == (2, "InvalidValue")
            writer.close()
            assert (await answer(client, request(tmp_path, (5, 6)))).token_ids == [5, 6]

    asyncio.run(run())


def test_a_connection_that_ends_takes_its_requests_with_it(tmp_path):
    async def run():
        async with echo_host(tmp_path, engine_slots=1) as (_, client):
            wanted = request(tmp_path, range(200_000), max_tokens=200_000)
            reader, writer = await asyncio.open_unix_connection(tmp_path / "engine.sock")
            writer.write(
                wire.encode_line(
                    {"op": "generate", "id": 1, "request": wire.encode_request(wanted)}
                )
            )
            await reader.readline()
            assert (await client.status()).running == 1
            writer.close()
            await poll(lambda: _is_idle(client), 5)

    asyncio.run(run())


def test_a_reader_that_does_not_read_holds_up_nobody_and_grows_nothing(tmp_path):
    psutil = pytest.importorskip("psutil")

    async def run():
        async with echo_host(tmp_path) as (host, client):
            wanted = request(tmp_path, range(200_000), max_tokens=200_000)
            line = wire.encode_line(
                {"op": "generate", "id": 1, "request": wire.encode_request(wanted)}
            )
            _, writer = await asyncio.open_unix_connection(tmp_path / "engine.sock")
            writer.write(line)
            await poll(lambda: _is_running(client))
            before = psutil.Process(host.pid).memory_info().rss
            for number in range(200):
                assert await answer(client, request(tmp_path, prompt(number)))
            assert (await client.status()).running == 1, "it waits for its reader"
            assert psutil.Process(host.pid).memory_info().rss - before < 8 * 2**20
            writer.close()

    asyncio.run(run())


async def _is_running(client):
    return (await client.status()).running == 1


def test_it_ends_cleanly_at_sigterm_and_when_its_parent_is_gone(tmp_path):
    async def run():
        async with echo_host(tmp_path) as (host, client):
            host.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(host.wait, 10) == 0
            assert not (tmp_path / "engine.sock").exists()
            with pytest.raises(EngineUnavailable) as caught:
                await answer(client, request(tmp_path, (1,)))
            assert caught.value.retry_after_seconds > 0
        async with echo_host(tmp_path, "--until-stdin-closes") as (host, _):
            host.stdin.close()
            assert await asyncio.to_thread(host.wait, 10) == 0
            host.stdin = None

    asyncio.run(run())


def test_a_killed_engine_ends_the_stream_and_a_new_one_takes_over(tmp_path):
    """The native engine: SIGKILL in the middle of an answer, restart, the same answer."""
    base = save_base(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    long, short = (request(base, prompt(1), max_tokens=m) for m in (900, 8))

    async def run():
        async with client_of(home) as client:
            with pytest.raises(EngineUnavailable):
                await client.status()
            host = start(home)
            try:
                await until_it_answers(client)
                before = await answer(client, short)
                assert (await client.status()).resident_bases == (base.name,)
                with pytest.raises(RefusedModel):
                    await answer(client, request(home, prompt(1)))
                stream = client.stream(long)
                await anext(stream)
                host.kill()
                with pytest.raises(EngineUnavailable):
                    async for _ in stream:
                        pass
            finally:
                end(host)
            with pytest.raises(EngineUnavailable):
                await answer(client, short)
            host = start(home)
            try:
                await until_it_answers(client)
                assert await answer(client, short) == before
                await client.unload(base.name)
                assert (await client.status()).resident_bases == ()
                host.terminate()
                assert await asyncio.to_thread(host.wait, 20) == 0
            finally:
                end(host)

    asyncio.run(run())
