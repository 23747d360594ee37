"""The requests and responses of the soak's clients, and their comparison with the tables."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Item:
    """A row as its owner expects it. Only its owner changes it."""

    id: int
    name: str
    etag: str
    # The description at each version that the row may have, including that of a change whose response is pending.
    history: dict[int, str | None] = field(default_factory=lambda: {1: None})
    confirmed: int = 1  # the version in the last response to its owner
    is_being_deleted: bool = False
    is_deleted: bool = False


class Ledger:
    """The requests of all clients, and their responses."""

    def __init__(self, shared: Item) -> None:
        self.items: dict[int, Item] = {}
        self.ids: list[int] = []
        self.attempted: set[str] = set()  # names that may be stored
        self.unconfirmed: set[str] = set()  # names that were sent once, without a response: stored once, or not at all
        self.keys: set[str] = set()  # names that were sent with an Idempotency-Key and got 201
        self.shared = shared  # the item that all clients change
        self.shared_texts: set[str] = set()
        self.shared_versions: list[int] = []  # of the responses
        self.shared_unconfirmed = 0

    def add(self, item: Item) -> None:
        self.items[item.id] = item
        self.ids.append(item.id)

    def mistake(self, found: dict[str, Any], floor: int = 1) -> str | None:
        """Return the mistake in an item of a response, or None. Its version must be at least `floor`."""
        item_id, name, version, description = (found[key] for key in ("id", "name", "version", "description"))
        if item_id == self.shared.id:
            is_right = name == self.shared.name and (description in self.shared_texts or version == 1)
            return None if is_right else "no client stored this"
        if name not in self.attempted:
            return "no client sent this name"
        item = self.items.get(item_id)
        if item is None:  # the response to its POST is pending, or was lost
            return None if (version, description) == (1, None) else "no client changed this"
        if name != item.name:
            return f"the name of another item: this one is {item.name}"
        if version not in item.history or item.history[version] != description:
            return f"never stored in this state: {item.history}"
        return None if version >= floor else f"older than version {floor}, which had been confirmed"

    def compare(self, rows: list[list[Any]], keys: list[list[Any]]) -> list[str]:
        """Return the differences between the ledger and the tables.

        A row is (id, name, description, version) of items, a key (name, whether its response is stored).
        """
        names = Counter(name for _, name, _, _ in rows)
        known = self.attempted | {self.shared.name}
        wrong = [f"stored {number} times: {name}" for name, number in names.items() if number > 1]
        wrong += [f"stored, but no client sent it: {name}" for name in names if name not in known]
        stored = {item_id: (name, description, version) for item_id, name, description, version in rows}
        for item in self.items.values():
            expected = None if item.is_deleted else (item.name, item.history[item.confirmed], item.confirmed)
            found = stored.pop(item.id, None)
            if found != expected:
                wrong.append(f"item {item.id} is {found} instead of {expected}")
        changes, confirmed = stored.pop(self.shared.id)[2] - 1, len(self.shared_versions)
        if len(set(self.shared_versions)) < confirmed or not 0 <= changes - confirmed <= self.shared_unconfirmed:
            wrong.append(
                f"the shared item was changed {changes} times; {confirmed} changes were confirmed, with"
                f" {len(set(self.shared_versions))} versions, and {self.shared_unconfirmed} were not"
            )
        wrong += [f"stored, but not confirmed: {row}" for row in stored.values() if row[0] not in self.unconfirmed]
        if {key for key, _ in keys} != {f"key of {name}" for name in self.keys}:
            wrong.append(f"{len(keys)} keys are stored, and {len(self.keys)} were confirmed")
        return wrong + [f"a key without a response: {key}" for key, has_response in keys if not has_response]
