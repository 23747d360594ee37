"""The application runs on an event loop of its own, in every thread and inside a running loop."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.event_sources import Request, http_api_2, send

LIST = http_api_2(Request("GET", "/probes/"))


@pytest.fixture
def current_loop() -> Iterator[None]:
    """Remove the current event loop of the thread after the test."""
    yield
    asyncio.set_event_loop(None)


@pytest.mark.usefixtures("current_loop")
def test_the_handler_works_without_a_current_event_loop_and_with_a_closed_one() -> None:
    asyncio.set_event_loop(None)
    assert send(LIST).status == 200
    closed = asyncio.new_event_loop()
    closed.close()
    asyncio.set_event_loop(closed)
    assert send(LIST).status == 200
    asyncio.run(asyncio.sleep(0))
    assert send(LIST).status == 200


def test_the_handler_works_inside_a_running_event_loop() -> None:
    async def call() -> int:
        return send(LIST).status

    assert asyncio.run(call()) == 200
    assert send(LIST).status == 200


def test_the_handler_works_from_threads_in_sequence_and_at_once() -> None:
    statuses = []
    for _ in range(3):
        thread = threading.Thread(target=lambda: statuses.append(send(LIST).status))
        thread.start()
        thread.join()
    with ThreadPoolExecutor(max_workers=4) as threads:
        statuses += [response.status for response in threads.map(send, [LIST] * 20)]
    assert set(statuses) == {200}
