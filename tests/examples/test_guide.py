"""The code in docs/adding-a-resource.md is copied from examples/."""

import re
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "adding-a-resource.md").read_text()
# A path in the reader's project, and the folder of examples/ that has the file.
FOLDERS = {"handler/orders": "examples/orders", "handler/migrations/versions": "examples/migrations"}
BLOCKS = re.findall(r"^```python(.*)\n((?:.*\n)*?)```$", GUIDE, re.MULTILINE)


@pytest.mark.parametrize(("title", "code"), BLOCKS, ids=[f"{n}" for n in range(len(BLOCKS))])
def test_a_block_of_python_is_a_part_of_the_example_s_file(title: str, code: str) -> None:
    named = re.fullmatch(r' title="(.+)"', title)
    assert named, 'a block names its file: ```python title="handler/orders/models.py"'
    path = Path(named[1])
    file = ROOT / FOLDERS[str(path.parent)] / path.name
    assert f"\n{code}" in "\n" + file.read_text().replace("examples.orders", "handler.orders")


@pytest.mark.parametrize("name", ["models.py", "schemas.py", "queries.py", "routes.py", "0004_orders.py"])
def test_the_guide_shows_a_part_of_every_file(name: str) -> None:
    assert any(f'/{name}"' in title for title, _ in BLOCKS)


def test_the_migration_follows_a_migration_of_the_service() -> None:
    migration = (ROOT / "examples" / "migrations" / "0004_orders.py").read_text()
    (previous,) = re.findall(r'^down_revision = "(\w+)"$', migration, re.MULTILINE)
    assert previous in {script.revision for script in ScriptDirectory("handler/migrations").walk_revisions()}


def test_every_link_of_the_guide_to_the_example_leads_to_a_file() -> None:
    links = re.findall(r"\]\(\.\./([^)#]+)\)", GUIDE)
    assert "examples/orders/models.py" in links
    assert [link for link in links if not (ROOT / link).exists()] == []
