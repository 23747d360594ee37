"""Safe retries: a POST with an Idempotency-Key is done once, whatever happens to its answer."""

import os
import subprocess
import sys
from typing import Any

import pytest

from handler.settings import settings
from local.proxy import Proxy
from tests.client import Response, call

LAMP = {"name": "Lamp", "description": "A desk lamp"}


def post(key: str | None = "key-1", body: Any = LAMP) -> Response:
    return call("POST", "/items/", body, headers=[] if key is None else [("Idempotency-Key", key)])


def stored(database: Any) -> int:
    return int(database.run("SELECT count(*) FROM items")[0][0])


def same(one: Response, other: Response) -> bool:
    names = ("location", "etag", "content-type")
    return (one.status, one.body) == (other.status, other.body) and all(
        one.headers[name] == other.headers[name] for name in names
    )


def test_the_same_key_and_body_get_the_same_answer_and_one_row(database: Any) -> None:
    first = post()
    assert first.status == 201
    assert same(post(), first)
    assert same(post(body={"description": "A desk lamp", "name": "Lamp"}), first), "JSON has no order"
    assert stored(database) == 1


def test_the_answer_is_the_first_one_also_when_the_item_has_changed_or_gone(database: Any) -> None:
    first = post()
    call("PATCH", "/items/1", {"name": "Torch"})
    assert same(post(), first)
    call("DELETE", "/items/1")
    assert same(post(), first)
    assert stored(database) == 0


def test_another_body_with_the_same_key_is_422(database: Any) -> None:
    post()
    assert post(body={"name": "Torch"}).status == 422
    assert stored(database) == 1


def test_without_a_key_or_with_another_it_is_another_item(database: Any) -> None:
    for key in (None, None, "key-1", "key-2"):
        assert post(key).status == 201
    assert stored(database) == 4


@pytest.mark.parametrize("key", ["", "a" * 256, "a\tb", "é"])
def test_a_key_that_is_none_is_refused(key: str, database: Any) -> None:
    refused = post(key)
    assert refused.status == 422
    assert [one["where"] for one in refused.json["errors"]] == ["header.Idempotency-Key"]
    assert stored(database) == 0


def test_a_failed_first_try_does_not_burn_the_key(database: Any) -> None:
    assert post(body={"name": ""}).status == 422
    database.run("ALTER TABLE items ADD CONSTRAINT refuses CHECK (name <> 'Lamp')")
    try:
        assert post().status == 422
    finally:
        database.run("ALTER TABLE items DROP CONSTRAINT refuses")
    assert post().status == 201
    assert stored(database) == 1


def test_an_answer_that_was_lost_after_the_commit_is_given_again(proxy: Proxy, database: Any) -> None:
    """The connection breaks under the COMMIT, which the server may have done or not: the client asks again."""
    post("warm")
    for cut in (0, 1, 5, 6, 12, 20):
        key = f"key-{cut}"
        proxy.cut_after(cut + 400)  # somewhere in the replies of the request
        first = post(key)
        assert first.status in (201, 503)
        again = post(key)
        assert again.status == 201
        if first.status == 201:
            assert same(again, first)
    assert stored(database) == 7


def test_a_key_expires(database: Any) -> None:
    first = post()
    database.run("UPDATE idempotency_keys SET expires_at = now() - interval '1 second'")
    second = post(body={"name": "Torch"})
    assert second.status == 201
    assert second.headers["location"] != first.headers["location"]
    assert same(post(body={"name": "Torch"}), second)


def test_expired_keys_go_when_new_ones_come(database: Any) -> None:
    for number in range(25):
        post(f"old-{number}")
    database.run("UPDATE idempotency_keys SET expires_at = now() - interval '1 second'")
    for number in range(3):
        post(f"new-{number}")
    assert database.run("SELECT count(*) FROM idempotency_keys") == [[3]]


def test_how_long_a_key_is_kept_is_a_setting(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(settings()), "idempotency_ttl", 120)
    post()
    seconds = "SELECT extract(epoch FROM expires_at - now())::int FROM idempotency_keys"
    assert 100 < database.run(seconds)[0][0] <= 120


RETRIES = """
import sys
from tests.client import call
for number in range(20):
    headers = [("Idempotency-Key", f"race-{number}")]
    response = call("POST", "/items/", {"name": f"Lamp {number}"}, headers=headers)
    assert response.status == 201, response
    print(response.body.decode())
"""


def test_many_processes_with_the_same_keys_get_the_same_answers_and_store_one_row_each(database: Any) -> None:
    command = [sys.executable, "-c", RETRIES]
    clients = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) for _ in range(4)]
    answers = {client.communicate(timeout=60)[0] for client in clients}
    assert all(client.returncode == 0 for client in clients)
    assert len(answers) == 1
    assert stored(database) == 20
