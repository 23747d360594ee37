"""`make resource` writes a resource from the example's files, or one line with the reason why it writes nothing."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from local import resource
from local.resource import Names, ResourceError, names_of

ROOT = Path(__file__).parents[2]
IGNORED = shutil.ignore_patterns("__pycache__")
NAMES = [Names("orders", "order"), Names("people", "person"), Names("purchase_order_lines", "purchase_order_line")]

if not (ROOT / "handler" / "items").exists():
    pytest.skip("the example that the command copies was removed", allow_module_level=True)


# Names.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "NAME has lower-case letters, digits and single underscores"),
        (["Orders"], "NAME has lower-case letters"),
        (["order-lines"], "NAME has lower-case letters"),
        (["order lines"], "NAME has lower-case letters"),
        (["_orders"], "NAME has lower-case letters"),
        (["order__lines"], "NAME has lower-case letters"),
        (["2orders"], "NAME has lower-case letters"),
        (["bestellungen_für"], "NAME has lower-case letters"),
        (["../orders"], "NAME has lower-case letters"),
        (["import"], "'import' is a keyword of Python"),
        (["classes"], "SINGULAR: 'class' is a keyword of Python"),
        (["matches"], "SINGULAR: 'match' is a keyword of Python"),
        (["lists"], "'list' is a built-in name of Python"),
        (["references"], "'references' is a reserved word of SQL"),
        (["sessions"], "'Session' has another meaning in the example"),
        (["people"], "the singular of 'people' is not clear: add SINGULAR="),
        (["sheep", "sheep"], "both are 'sheep'"),
        (["people", "Person"], "SINGULAR has lower-case letters"),
        (["items"], "'items' is taken: handler/items exists"),
        (["api"], "'api' is taken: handler/api exists"),
        (["health"], "'health' is taken: handler/health.py exists"),
        (["database"], "'database' is taken: handler/database exists"),
        (["integration"], "'integration' is taken: tests/integration exists"),
        (["idempotency_keys"], "'idempotency_keys' is taken: there is a table of that name"),
        (["alembic_version"], "'alembic_version' is taken: there is a table of that name"),
        (["docs"], "'docs' is taken: the path /docs is served already"),
        (["stock_movement_reconciliation_statement_lines"], "and PostgreSQL's identifiers at most 63"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_in_one_line(arguments: list[str], message: str) -> None:
    before = git_status()
    with pytest.raises(ResourceError, match=re.escape(message)) as raised:
        resource.add(*arguments)
    assert "\n" not in str(raised.value)
    assert git_status() == before


def git_status() -> str:
    return subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("plural", "singular"),
    [
        ("orders", "order"),
        ("categories", "category"),
        ("boxes", "box"),
        ("houses", "house"),
        ("statuses", "status"),
        ("addresses", "address"),
        ("branches", "branch"),
        ("order_lines", "order_line"),
    ],
)
def test_the_singular_of_a_regular_plural_need_not_be_given(plural: str, singular: str) -> None:
    assert names_of(plural) == (plural, singular)


def test_an_irregular_singular_is_given() -> None:
    assert names_of("people", "person") == ("people", "person")


# What is written.


@pytest.mark.parametrize("names", NAMES, ids=lambda names: names.plural)
def test_every_file_of_the_example_is_written_about_the_new_resource(names: Names) -> None:
    with resource.staging() as root:
        folders = resource.copy_example(ROOT, root, names)
        resource.format_code(root, *folders[:2])
        for folder in ("handler", "tests", "events"):
            example, written = (files(base / folder / name) for base, name in ((ROOT, "items"), (root, names.plural)))
            assert written == {path.replace("items", names.plural) for path in example} - {"test_readme.py"}
        text = "".join(path.read_text() for one in folders for path in (root / one).rglob("*.*"))
    assert re.findall(r"\S*item\S*", re.sub(r'json\["items"\]|\.items\b', "", text), re.IGNORECASE) == []


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.*") if path.suffix != ".pyc"}


@pytest.mark.parametrize(
    ("source", "written"),
    [
        ("class ItemCreate: ...", "class OrderLineCreate: ..."),
        ("items = list_items(item_id)", "order_lines = list_order_lines(order_line_id)"),
        ("models.ListItemsOrder", "models.ListOrderLinesOrder"),
        ("[item.id for item in page.items]", "[order_line.id for order_line in page.items]"),
        ("from handler.items import queries", "from handler.order_lines import queries"),
        ("ITEMS = 1", "ORDER_LINES = 1"),
        ("for name, item in items.items(): ...", "for name, order_line in order_lines.items(): ..."),
        ("from handler.items.models import Item", "from handler.order_lines.models import OrderLine"),
        ('call("GET", f"/items/{item_id}")', 'call("GET", f"/order-lines/{order_line_id}")'),
        ('location == "https://localhost/items/"', 'location == "https://localhost/order-lines/"'),
        ('EVENTS / "items"  # events/items/', 'EVENTS / "order_lines"  # events/order_lines/'),
        ('page.json["items"] == items', 'page.json["items"] == order_lines'),
        ('run("SELECT id FROM items WHERE id = 1")', 'run("SELECT id FROM order_lines WHERE id = 1")'),
        ('Index("ix_items_name", "name")', 'Index("ix_order_lines_name", "name")'),
        ('requires_scopes("items:read")', 'requires_scopes("order_lines:read")'),
        ('detail = "Item not found"', 'detail = "Order line not found"'),
        ('"""The items; an item\'s id."""', '"""The order lines; an order line\'s id."""'),
        ("def test_an_item(): ...", "def test_an_order_line(): ..."),
        ("# An item with itemized reitems.", "# An order line with itemized reitems."),
    ],
)
def test_each_use_of_the_example_s_name_gets_the_form_of_its_place(source: str, written: str) -> None:
    assert resource.rename_python(source, Names("order_lines", "order_line")) == written


@pytest.mark.parametrize(
    ("singular", "text"),
    [("customer", "A customer, a customer"), ("user", "A user, a user"), ("order", "An order, an order")],
)
def test_the_article_is_that_of_the_new_word(singular: str, text: str) -> None:
    assert resource.rename("An item, an item", Names(f"{singular}s", singular)) == text


@pytest.mark.parametrize("packages", [(), ("handler.items",), ("handler.items", "handler.orders")])
def test_zero_one_and_more_resources_can_be_registered(packages: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "handler").mkdir()
    shutil.copy(ROOT / resource.REGISTRY, tmp_path / resource.REGISTRY)
    resource.register(tmp_path, packages)
    module: dict[str, object] = {}
    exec((tmp_path / resource.REGISTRY).read_text(), module)  # noqa: S102 - the project's own file
    assert module["RESOURCES"] == packages


def test_no_test_outside_of_the_example_s_folder_names_the_example() -> None:
    """Such a test would fail after the example was removed. The soak is an exception, and skips itself."""
    named = re.compile(r"\b(?:handler|tests|events)[./]items\b|(?<![\w}])/items/|\bitems:(?:read|write)\b")
    own = {ROOT / "tests" / "items", ROOT / "tests" / "soak"}
    found = [path for path in (ROOT / "tests").rglob("*.py") if own.isdisjoint(path.parents) and path != Path(__file__)]
    assert [str(path.relative_to(ROOT)) for path in found if named.search(path.read_text())] == []


# All changes or none.


def test_a_failure_between_two_renames_undoes_the_first(tmp_path: Path) -> None:
    for name in ("new", "replacement", "old"):
        (tmp_path / name).write_text(name)
    moves = [(tmp_path / "new", tmp_path / "a" / "new"), (tmp_path / "old", tmp_path / "saved")]
    moves += [(tmp_path / "replacement", tmp_path / "old"), (tmp_path / "missing", tmp_path / "b")]
    with pytest.raises(FileNotFoundError):
        resource.publish(moves)
    assert {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()} == {
        name: name for name in ("new", "replacement", "old")
    }


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the files that the command reads and writes, in a repository of git."""
    for folder in ("handler", "local", "tests", "events"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=IGNORED)
    (tmp_path / "docs").mkdir()
    for file in ("pyproject.toml", "docs/openapi.json", ".gitignore"):
        shutil.copy(ROOT / file, tmp_path / file)
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    return tmp_path


def git(project: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=True).stdout


def commit(project: Path) -> None:
    git(project, "add", "--all")
    git(project, "commit", "-q", "-m", "change")


def run(project: Path, *arguments: str) -> SimpleNamespace:
    command = [sys.executable, "-m", "local.resource", *arguments]
    ours = ("DATABASE_URL", "AUTH_MODE", "COVERAGE_")  # coverage measures nothing in a copy
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    return SimpleNamespace(status=done.returncode, error=done.stderr.strip(), output=done.stdout)


def test_a_resource_is_written_once_and_removed_when_it_is_committed(project: Path) -> None:
    assert run(project, "add", "people", "person").status == 0
    written = git(project, "status", "--porcelain", "--untracked-files=all").split()[1::2]
    assert {name for name in written if "people/" in name} == {
        f"{folder}/people/{name.replace('items', 'people')}"
        for folder in ("handler", "tests", "events")
        for name in files(ROOT / folder / "items") - {"test_readme.py"}
    }
    (migration,) = (project / "handler/migrations/versions").glob("*_create_the_people.py")
    assert {name for name in written if "people/" not in name} == {
        str(migration.relative_to(project)), "docs/openapi.json", "handler/resources.py",
    }  # fmt: skip
    assert "/people/{person_id}" in json.loads((project / "docs/openapi.json").read_text())["paths"]

    again, uncommitted = run(project, "add", "people", "person"), run(project, "remove", "people")
    assert (again.status, again.error) == (1, "resource: the name 'people' is taken: handler/people exists")
    assert (uncommitted.status, uncommitted.error[-23:]) == (1, "lost: commit them first")
    assert git(project, "status", "--porcelain", "--untracked-files=all").split()[1::2] == written

    commit(project)
    assert run(project, "remove", "people").status == 0
    (dropped,) = (project / "handler/migrations/versions").glob("*_drop_the_people.py")
    migration.unlink()
    dropped.unlink()
    changed = git(project, "diff", "--name-only", "HEAD~1").split()
    assert changed == [], "only the two migrations are new"


def test_a_resource_that_other_modules_import_is_not_removed(project: Path) -> None:
    (project / "tests/test_other.py").write_text("from handler.items.models import Item\n")
    refused = run(project, "remove", "items")
    assert refused.status == 1
    assert "tests/test_other.py" in refused.error
    assert (project / "handler/items/models.py").exists()


def test_a_resource_that_is_not_registered_is_not_removed(project: Path) -> None:
    for name in ("orders", "api", "../items"):
        refused = run(project, "remove", name)
        assert refused.status == 1
        assert refused.error.startswith(f"resource: 'handler.{name}' is not registered in handler/resources.py")


def test_the_example_is_found_in_the_history_when_it_was_removed(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "ROOT", project)
    assert resource.pattern(tmp_path / "pattern") == project
    for folder in ("handler", "tests", "events"):
        shutil.rmtree(project / folder / "items")
    for name in ("removed", "committed"):
        found = resource.pattern(tmp_path / name)
        assert (found / "handler/items/routes.py").read_text() == (ROOT / "handler/items/routes.py").read_text()
        commit(project) if name == "removed" else None
    shutil.rmtree(project / ".git")
    with pytest.raises(ResourceError, match="is not here, and not in the history of git either"):
        resource.pattern(tmp_path / "nowhere")


def test_a_command_without_a_name_prints_its_usage() -> None:
    for arguments, message in [
        (["add", ""], "make resource NAME=orders"),
        (["remove"], "make resource-remove NAME=items"),
    ]:
        done = run(ROOT, *arguments)
        assert done.status == 1
        assert done.error.endswith(message)
