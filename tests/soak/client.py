"""A client of the soak, which sends requests of all kinds one after the other and checks each response."""

import json
import random
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote

from local.events import HttpResponse
from tests.soak.ledger import Item, Ledger
from tests.soak.service import Service

PATIENCE = 120.0  # seconds for which a client repeats a request


class NoResponse(Exception):
    """A client has repeated a request for PATIENCE seconds without a response."""


class Client:
    """A client and the items that it has created."""

    def __init__(self, service: Service, ledger: Ledger, number: int, seed: int) -> None:
        self.service, self.ledger, self.number = service, ledger, number
        self.choice = random.Random(f"{seed} client {number}")
        self.turn = 0
        self.own: list[Item] = []

    def run(self) -> None:
        weights: dict[Callable[[], None], int] = {
            self.read: 40,
            self.read_unchanged: 4,
            self.list: 8,
            self.search: 2,
            self.create: 8,
            self.create_with_key: 14,
            self.change: 15,
            self.change_shared: 5,
            self.delete: 4,
        }
        try:
            while not self.service.over.is_set():
                self.turn += 1
                (action,) = self.choice.choices(list(weights), list(weights.values()))
                action()
        except NoResponse as error:
            self.service.violate(f"client {self.number}: no response in {PATIENCE:g} s: {error}")
        except Exception as error:  # noqa: BLE001 - a response of another shape than documented
            self.service.violate(f"client {self.number}: {type(error).__name__}: {error}")

    def text(self) -> str:
        """Return a text that no other client sends and that no other text contains."""
        return f"<{self.number}.{self.turn}.{self.choice.randrange(10**6)}>"

    def expect(self, is_right: object, what: str, response: HttpResponse) -> bool:
        if not is_right:
            self.service.violate(f"client {self.number}, turn {self.turn}, {what}: {response}")
        return bool(is_right)

    def until_response(
        self, kind: str, method: str, target: str, body: Any, **headers: str
    ) -> tuple[HttpResponse, int]:
        """Repeat a request until there is a response. Returns it and the number of failed attempts."""
        give_up = time.monotonic() + PATIENCE
        failures = 0
        while time.monotonic() < give_up:
            response = self.service.request(kind, method, target, body, may_be_held=failures > 0, **headers)
            if response:
                return response, failures
            failures += 1
        raise NoResponse(f"{method} {target} {body} {headers}")

    def read(self) -> None:
        if not self.ledger.ids:
            return
        item = self.ledger.items[self.choice.choice(self.ledger.ids)]
        floor, was_deleted = item.confirmed, item.is_deleted
        response = self.service.request("GET", "GET", f"/items/{item.id}")
        if response is None:
            return
        if response.status == 404:
            self.expect(item.is_being_deleted, f"item {item.id} is not found", response)
        elif self.expect(response.status == 200 and not was_deleted, f"item {item.id}", response):
            found = json.loads(response.body)
            mistake = self.ledger.mistake(found, floor) if found["id"] == item.id else "another item"
            self.expect(mistake is None, f"item {item.id}: {mistake}", response)

    def read_unchanged(self) -> None:
        if self.own:
            item = self.choice.choice(self.own)
            response = self.service.request("GET, 304", "GET", f"/items/{item.id}", if_none_match=item.etag)
            if response:
                is_right = response.status == 304 and not response.body
                self.expect(is_right, f"item {item.id} has not changed", response)

    def list(self) -> None:
        order = self.choice.choice(["newest", "name"])
        target = f"/items/?limit={self.choice.randint(1, 30)}&order={order}"
        before: tuple[Any, ...] | None = None
        for _ in range(2):
            response = self.service.request("list", "GET", target)
            if response is None or not self.expect(response.status == 200, target, response):
                return
            page = json.loads(response.body)
            for item in page["items"]:
                key = (-item["id"],) if order == "newest" else (item["name"], item["id"])
                self.expect(before is None or key > before, f"{item['id']} in {target} is not in order", response)
                mistake = self.ledger.mistake(item)
                self.expect(mistake is None, f"{item['id']} in {target}: {mistake}", response)
                before = key
            if page["next_cursor"] is None:
                return
            target = re.sub("&cursor=.*", "", target) + f"&cursor={page['next_cursor']}"

    def search(self) -> None:
        if self.own:
            item = self.choice.choice(self.own)
            response = self.service.request("search", "GET", f"/items/?q={quote(item.name)}")
            if response and self.expect(response.status == 200, f"search for {item.name}", response):
                found = [one["id"] for one in json.loads(response.body)["items"]]
                self.expect(found == [item.id], f"search for {item.name} finds {found}, not {item.id}", response)

    def created(self, response: HttpResponse, name: str) -> None:
        found, headers = json.loads(response.body), dict(response.headers)
        is_right = (found["name"], found["version"], found["description"]) == (name, 1, None)
        is_new = found["id"] not in self.ledger.items and headers["location"] == f"/items/{found['id']}"
        if self.expect(is_right and is_new, f"POST of {name}", response):
            item = Item(found["id"], name, headers["etag"])
            self.ledger.add(item)
            self.own.append(item)

    def create(self) -> None:
        """Create an item without a key. The request is not repeated, and without a response it may be stored or not."""
        name = self.text()
        self.ledger.attempted.add(name)
        response = self.service.request("POST", "POST", "/items/", {"name": name})
        if response is None:
            self.ledger.unconfirmed.add(name)
        elif self.expect(response.status == 201, "POST", response):
            self.created(response, name)

    def create_with_key(self) -> None:
        name = self.text()
        self.ledger.attempted.add(name)
        post = partial(self.until_response, "POST with a key", "POST", "/items/", idempotency_key=f"key of {name}")
        response, _ = post({"name": name})
        if not self.expect(response.status == 201, f"POST of {name} with a key", response):
            return
        self.ledger.keys.add(name)
        if self.choice.random() < 0.2:  # as if the response had been lost on the way to the client
            again, _ = post({"name": name})
            first = {name: value for name, value in response.headers if name in ("location", "etag", "content-type")}
            has_headers = first.items() <= dict(again.headers).items()
            is_same = (again.status, again.body) == (201, response.body) and has_headers
            self.expect(is_same, f"POST of {name} again, after {response}", again)
        if self.choice.random() < 0.05:
            other, _ = post({"name": f"not {name}"})
            self.expect(other.status == 422, f"POST of another item with the key of {name}", other)
        self.created(response, name)

    def change(self) -> None:
        if not self.own:
            return
        item, text = self.choice.choice(self.own), self.text()
        version = item.confirmed + 1
        item.history[version] = text
        method = self.choice.choice(["PATCH", "PUT"])
        body = {"description": text} | ({"name": item.name} if method == "PUT" else {})
        path = f"/items/{item.id}"
        response, failures = self.until_response(method, method, path, body, if_match=item.etag)
        if response.status == 412 and failures:  # an earlier attempt changed it, and its response was lost
            response, _ = self.until_response("GET", "GET", path, None)
        found = json.loads(response.body)
        is_right = response.status == 200 and found["id"] == item.id and found["name"] == item.name
        is_right = is_right and (found["version"], found["description"]) == (version, text)
        if self.expect(is_right, f"{method} of item {item.id} to version {version}, {text}", response):
            item.confirmed, item.etag = version, dict(response.headers)["etag"]
        else:
            self.own.remove(item)

    def change_shared(self) -> None:
        """Change the shared item without If-Match. Without a response, the change is stored or not."""
        shared, text = self.ledger.shared, self.text()
        self.ledger.shared_texts.add(text)
        body = {"description": text}
        response = self.service.request("shared PATCH", "PATCH", f"/items/{shared.id}", body, may_be_held=True)
        if response is None:
            self.ledger.shared_unconfirmed += 1
            return
        found = json.loads(response.body)
        is_right = response.status == 200 and (found["id"], found["description"]) == (shared.id, text)
        if self.expect(is_right, "PATCH of the shared item", response):
            self.ledger.shared_versions.append(found["version"])

    def delete(self) -> None:
        if len(self.own) < 10:
            return
        item = self.own.pop(self.choice.randrange(len(self.own)))
        item.is_being_deleted = True
        path = f"/items/{item.id}"
        response, failures = self.until_response("DELETE", "DELETE", path, None, if_match=item.etag)
        is_right = response.status == 204 or (response.status == 404 and failures)
        item.is_deleted = self.expect(is_right, f"DELETE of item {item.id}", response)
