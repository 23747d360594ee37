"""The documentation names what exists, and what exists is documented."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/adr/*.md")]
TEXT = "\n".join(path.read_text() for path in PAGES if path.name != "CHANGELOG.md")
# Set by Lambda, by the shell and by other tools.
FOREIGN = re.compile(r"AWS_(LAMBDA|CONTAINER|ACCESS|SECRET|SESSION)_\w+|_X_AMZN_TRACE_ID|HOME|PATH|PYENV_ROOT|UV_\w+")


def targets() -> set[str]:
    output = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^\s*make ([a-z-]+)", output, re.MULTILINE))


def test_every_make_target_of_the_help_is_documented() -> None:
    assert targets() - set(re.findall(r"make ([a-z][a-z-]*)", TEXT)) == set()


def test_every_make_target_that_the_documentation_names_exists() -> None:
    named = set(re.findall(r"`make ([a-z][a-z-]*)|^make ([a-z][a-z-]*)", TEXT, re.MULTILINE))
    assert {a or b for a, b in named} - targets() == set()


def test_every_environment_variable_that_the_code_reads_is_documented() -> None:
    read: set[str] = set()
    for folder in ("handler", "local", "deploy"):
        for path in (ROOT / folder).rglob("*.py"):
            read |= set(re.findall(r"""environ(?:\.get\(|\.pop\(|\[)\s*["']([A-Z_]+)""", path.read_text()))
    assert read
    documented = set(re.findall(r"[A-Z_]{2,}", TEXT))
    assert {name for name in read - documented if not FOREIGN.fullmatch(name)} == set()


DECISIONS = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_has_its_form(path: Path) -> None:
    text = path.read_text()
    assert re.match(rf"# {int(path.stem[:4])}\. \S", text)
    assert re.search(r"^- Status: (accepted|replaced|rejected)", text, re.MULTILINE)
    assert re.search(r"^- Date: \d{4}-\d\d-\d\d$", text, re.MULTILINE)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences", "Alternatives"]


def test_the_index_of_the_decisions_lists_them_all_by_their_titles() -> None:
    rows = [
        f"| {int(path.stem[:4])} | [{path.read_text().partition('. ')[2].splitlines()[0]}]({path.name}) |"
        for path in DECISIONS
    ]
    index = (ROOT / "docs/adr/README.md").read_text()
    assert [line for line in index.splitlines() if re.match(r"\| \d", line)] == rows
