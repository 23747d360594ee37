"""`make resource` and `make resource-remove`: create a resource from the example's files, and remove a resource.

`python -m local.resource add NAME [SINGULAR]` copies handler/items/, tests/items/ and events/items/ under another name,
registers the resource, and writes its migration and docs/openapi.json. `python -m local.resource remove NAME` removes
any resource. Everything is prepared in a folder beside the project and moved into it at the end, so a
failure or an interruption leaves the project as it was (docs/adr/0039).
"""

import ast
import builtins
import io
import json
import keyword
import os
import re
import shutil
import signal
import subprocess
import symtable
import sys
import tarfile
import tempfile
import tokenize
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import pg8000.exceptions
import pg8000.native
from sqlalchemy.dialects.postgresql.base import RESERVED_WORDS

from handler import resources
from handler.database.base import Base
from local.postgres import PostgresError, server

ROOT = Path(__file__).parents[1]
FOLDERS = ("handler", "tests", "events")  # each of them has a folder for each resource
PATTERN = "items"
NOT_COPIED = ("test_readme.py",)  # the README shows the example, and no other resource
REGISTRY = Path("handler/resources.py")
CONTRACT = Path("docs/openapi.json")
VERSIONS = Path("handler/migrations/versions")
DOCUMENTATION_PATHS = ("docs", "redoc")
# Endings of regular English plurals, and those of their singulars.
SINGULARS = (("ies", "y"), ("(?<=ss|sh|ch)es", ""), ("xes", "x"), ("(?<=[^ao]us)es", ""), ("(?<![su])(?<!i)s", ""))
MAX_IDENTIFIER = 63  # bytes of a name in PostgreSQL (manual, 4.1.1 "Identifiers and Key Words")
# A word of the example, as a whole or as a part of an identifier; `page.items` and `dict.items()` are not.
WORD = re.compile(
    r"(?!(?<=\.)(?<!handler\.)(?<!tests\.)items(?![\w.]))"
    r"((?<![A-Za-z])(?:items|item|ITEMS|ITEM)|(?<![A-Z])(?:Items|Item))(?![a-z])"
)
# The field of a page, which every resource's page has.
PAGE_FIELD, PLACEHOLDER = 'json["items"]', 'json["field of a page"]'
URL_PATH = re.compile(r"(?<!handler)(?<!tests)(?<!events)/items\b")
ARTICLE = re.compile(r"\b([Aa])n(?=[ _]items?(?![a-z]))|(?<=_)(a)n(?=_items?(?![a-z]))")
# A word of the example within a sentence. Text in capitals is SQL, not a sentence.
SENTENCE_WORD = re.compile(r"(?<=[a-z] )(items?)(?=[ ,.;:'\"]|$)|\b(Items?)(?=[ :][a-z ])", re.MULTILINE)


class ResourceError(Exception):
    """The command cannot be executed. The message is one line with the reason."""


class Names(NamedTuple):
    """The words of a resource, such as `order_lines` and `order_line`."""

    plural: str
    singular: str

    def like(self, word: str) -> str:
        """The resource's word for the example's `word`, in the same number and case."""
        new = self.plural if word.lower() == "items" else self.singular
        if word.isupper():
            return new.upper()
        return _camel_case(new) if word[0].isupper() else new

    def in_a_sentence(self, word: str) -> str:
        new = (self.plural if word.lower() == "items" else self.singular).replace("_", " ")
        return new.capitalize() if word[0].isupper() else new


def _camel_case(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


# Names.


def names_of(plural: str, singular: str | None = None) -> Names:
    """The names of a new resource. `singular` is guessed where it is not given. Raises ResourceError."""
    check_name("NAME", plural)
    singular = singular or guess_singular(plural)
    check_name("SINGULAR", singular)
    if plural == singular:
        raise ResourceError(f"NAME is the plural and SINGULAR the singular; both are {plural!r}: choose another word")
    if hasattr(builtins, singular) or hasattr(builtins, plural):
        taken = singular if hasattr(builtins, singular) else plural
        raise ResourceError(f"{taken!r} is a built-in name of Python, which the code would hide: choose another word")
    if plural in RESERVED_WORDS:
        raise ResourceError(f"{plural!r} is a reserved word of SQL, and cannot name a table: choose another word")
    return Names(plural, singular)


def check_name(variable: str, name: str) -> None:
    """Raises ResourceError unless `name` can name a package, a table and a variable."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise ResourceError(
            f"{variable} has lower-case letters, digits and single underscores, as in order_lines, and is not {name!r}"
        )
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise ResourceError(f"{variable}: {name!r} is a keyword of Python: choose another word")


def guess_singular(plural: str) -> str:
    """The singular of a regular English plural. Raises ResourceError where the word does not look like one."""
    for ending, replacement in SINGULARS:
        if re.search(rf"[a-z]{ending}$", plural):
            return re.sub(f"{ending}$", replacement, plural)
    raise ResourceError(f"NAME is a plural, and the singular of {plural!r} is not clear: add SINGULAR=…")


def check_free(plural: str) -> None:
    """Raises ResourceError where a file, a table or a path has the name already."""
    for folder in FOLDERS:
        for path in (Path(folder, plural), Path(folder, f"{plural}.py")):
            if (ROOT / path).exists():
                raise ResourceError(f"the name {plural!r} is taken: {path} exists")
    resources.import_models()
    if plural in {*Base.metadata.tables, "alembic_version"}:
        raise ResourceError(f"the name {plural!r} is taken: there is a table of that name")
    paths = json.loads((ROOT / CONTRACT).read_text())["paths"]
    segment = plural.replace("_", "-")
    if segment in {*DOCUMENTATION_PATHS, *(path.split("/")[1] for path in paths)}:
        raise ResourceError(f"the name {plural!r} is taken: the path /{segment} is served already")


# Renaming.


def rename(text: str, names: Names) -> str:
    """`text` of the example with the names of another resource, in identifiers, paths and single words of sentences."""
    text = ARTICLE.sub(lambda found: (found[1] or found[2]) + _n_of_article(names.singular), text)
    text = URL_PATH.sub(f"/{names.plural.replace('_', '-')}", text)
    return WORD.sub(lambda found: names.like(found[0]), text)


def _n_of_article(word: str) -> str:
    """`n` where the article of the word is `an`, else nothing."""
    return "n" if re.match(r"[ao]|e(?!u)|i|u(?!s|ni)|hour|heir|honou?r", word) and not word.startswith("one") else ""


def rename_python(source: str, names: Names) -> str:
    """As `rename`; in strings and comments, sentences get words that are separated by spaces."""
    source = source.replace(PAGE_FIELD, PLACEHOLDER)
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    result, end = [], 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.STRING, tokenize.COMMENT):
            begin = starts[token.start[0] - 1] + token.start[1]
            result.append(rename(source[end:begin], names))
            result.append(_rename_sentences(token.string, names))
            end = begin + len(token.string)
    result.append(rename(source[end:], names))
    return "".join(result).replace(PLACEHOLDER, PAGE_FIELD)


def _rename_sentences(text: str, names: Names) -> str:
    text = ARTICLE.sub(lambda found: (found[1] or found[2]) + _n_of_article(names.singular), text)
    parts, end = [], 0
    for found in SENTENCE_WORD.finditer(text):
        parts += [rename(text[end : found.start()], names), names.in_a_sentence(found[0])]
        end = found.end()
    return "".join([*parts, rename(text[end:], names)])


def check_scopes(path: Path, source: str, names: Names) -> None:
    """Raises ResourceError where renaming gives two variables of one scope the same name."""
    tables = [symtable.symtable(source, str(path), "exec")]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        renamed: dict[str, str] = {}
        for variable in sorted(table.get_identifiers()):
            other = renamed.setdefault(rename(variable, names), variable)
            if other != variable:
                raise ResourceError(
                    f"the name {rename(variable, names)!r} has another meaning in the example ({path.name}): "
                    "choose another word"
                )


# What is written.


def pattern(folder: Path) -> Path:
    """A folder with the example's folders: the project, or `folder` with the files of the last commit that had them.

    Raises ResourceError.
    """
    if (ROOT / "handler" / PATTERN / "routes.py").exists():
        return ROOT
    paths = [f"{one}/{PATTERN}" for one in FOLDERS]
    archive = _git("archive", "HEAD", *paths)
    if archive is None:
        removal = _git("log", "-1", "--format=%H", "--diff-filter=D", "--", f"handler/{PATTERN}/routes.py") or b""
        archive = _git("archive", f"{removal.decode().strip()}^", *paths)
    if archive is None:
        raise ResourceError(
            f"the example handler/{PATTERN}/ is not here, and not in the history of git either: copy the folders of"
            " another resource by hand (docs/adding-a-resource.md)"
        )
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


def _git(*arguments: str) -> bytes | None:
    """The output of git; None without git or a repository, or if the command fails."""
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run([git, *arguments], cwd=ROOT, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


def copy_example(source: Path, target: Path, names: Names) -> list[Path]:
    """Write the example's files below `target`, about another resource. Returns the new folders, relative to it."""
    for folder in FOLDERS:
        for path in sorted((source / folder / PATTERN).rglob("*.*")):
            relative = path.relative_to(source / folder / PATTERN)
            if path.suffix not in (".py", ".json") or path.name in NOT_COPIED:
                continue
            text = path.read_text()
            if path.suffix == ".py":
                check_scopes(path, text, names)
                text = rename_python(text, names)
                check_identifiers(text, names)
            else:
                text = rename(text, names)
            new = target / folder / names.plural / rename(str(relative), names)
            new.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(text)
    return [Path(folder, names.plural) for folder in FOLDERS]


def check_identifiers(source: str, names: Names) -> None:
    """Raises ResourceError where a table, a constraint or an index has a longer name than PostgreSQL keeps."""
    found = [names.plural, f"pk_{names.plural}", *re.findall(rf'"(\w*{names.plural}\w*)"', source)]
    found += [f"ck_{names.plural}_{name}" for name in re.findall(r'CheckConstraint\(.*name="(\w+)"', source)]
    longest = max(found, key=len)
    if len(longest) > MAX_IDENTIFIER:
        raise ResourceError(
            f"the name is too long: {longest!r} would have {len(longest)} characters, and PostgreSQL's identifiers at"
            f" most {MAX_IDENTIFIER}"
        )


def registered() -> tuple[str, ...]:
    return resources.RESOURCES


def register(root: Path, packages: tuple[str, ...]) -> None:
    """Make `packages` the value of RESOURCES."""
    path = root / REGISTRY
    source = path.read_text()
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "RESOURCES":
            lines = source.splitlines(keepends=True)
            lines[node.lineno - 1 : node.end_lineno] = [f"RESOURCES: tuple[str, ...] = {packages!r}\n"]
            path.write_text("".join(lines))
            return
    raise ResourceError(f"{REGISTRY} has no line that starts with `RESOURCES: tuple[str, ...] =`")


@contextmanager
def staging() -> Iterator[Path]:
    """A folder on the project's own file system, with a copy of what the commands below need."""
    (ROOT / ".local").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="resource-", dir=ROOT / ".local") as name:
        root = Path(name)
        for folder in ("handler", "local", "tests"):
            shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
        (root / "docs").mkdir()
        shutil.copy(ROOT / "pyproject.toml", root)
        yield root


def run(root: Path, *command: str, **environment: str) -> None:
    """Run one of the project's own programs in `root`. Raises ResourceError with the last line that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=root, env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise ResourceError(f"{command[0]} failed: {lines[-1].strip() if lines else done.returncode}")


def format_code(root: Path, *paths: Path) -> None:
    """Format and check the written files. With a long name, a line may be too long."""
    names = [str(path) for path in paths]
    run(root, "ruff", "check", "--quiet", "--no-respect-gitignore", "--fix-only", *names)
    run(root, "ruff", "format", "--quiet", "--no-respect-gitignore", *names)
    run(root, "ruff", "check", "--no-respect-gitignore", "--output-format=concise", "--quiet", *names)


def tables(root: Path) -> list[str]:
    """The tables of the resources that are registered in `root`. Each one follows the tables that it refers to."""
    program = (
        "from handler import resources; from handler.database.base import Base; resources.import_models();"
        "print(*(table.fullname for table in Base.metadata.sorted_tables))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ResourceError(f"the models cannot be imported: {done.stderr.splitlines()[-1]}")
    return done.stdout.split()


def write_migration(root: Path, message: str, dropped: Iterable[str] = ()) -> Path:
    """Write the migration from the committed migrations to the models, as `make revision` does.

    It uses a temporary database. For `dropped` tables, which the models still have, it is reversed: its upgrade drops
    them, and its downgrade creates them from the models. A migration from the database would have the constraints in
    PostgreSQL's spelling.
    """
    before = set((root / VERSIONS).iterdir())
    with tempfile.TemporaryDirectory(prefix="resource-") as folder, server(Path(folder), "-c", "fsync=off") as url:
        run(root, "handler.migrate", DATABASE_URL=url)
        if dropped:
            _drop(url, dropped)
        run(root, "alembic", "revision", "--autogenerate", "-m", message, DATABASE_URL=url)
    (path,) = (path for path in (root / VERSIONS).iterdir() if path not in before and path.suffix == ".py")
    text = "".join(
        line for line in path.read_text().splitlines(keepends=True) if "# ###" not in line
    )  # the comments of Alembic
    if dropped:
        head, create, drop = re.split(r"^def (?:up|down)grade\(\) -> None:\n", text, flags=re.MULTILINE)
        text = f"{head}def upgrade() -> None:\n{drop}\n\ndef downgrade() -> None:\n{create}"
    path.write_text(text)
    return path.relative_to(root)


def _drop(url: str, names: Iterable[str]) -> None:
    """Drop tables of the database at `url`, a URL of `server`. Raises ResourceError where another table needs them."""
    parts = urlsplit(url)
    port = parse_qs(parts.query)["port"][0]
    socket = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.{port}"
    connection = pg8000.native.Connection(parts.username, password=parts.password, unix_sock=socket, ssl_context=False)
    try:
        connection.run(f"DROP TABLE {', '.join(names)}")
    except pg8000.exceptions.DatabaseError as error:
        raise ResourceError(f"the table cannot be dropped: {error.args[0].get('D', error.args[0]['M'])}") from error
    finally:
        connection.close()


def write_contract(root: Path) -> None:
    run(root, "local.openapi", DATABASE_URL="postgresql://nobody@localhost", AUTH_MODE="jwt")


def publish(moves: list[tuple[Path, Path]]) -> None:
    """Rename each path to the other. If one cannot be renamed, all of them get their old names again."""
    try:
        for source, target in moves:
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)
    except BaseException:
        for source, target in reversed(moves):
            if target.exists() and not source.exists():
                target.rename(source)
        raise


def _replace(root: Path, path: Path) -> list[tuple[Path, Path]]:
    """The moves that replace a file of the project by that of `root`."""
    return [(ROOT / path, root / "replaced" / path), (root / path, ROOT / path)]


# The commands.


def add(plural: str, singular: str | None = None) -> None:
    """Raises ResourceError, PostgresError, OSError; then nothing was written."""
    check_name("NAME", plural)
    check_free(plural)
    names = names_of(plural, singular)
    with staging() as root:
        folders = copy_example(pattern(root / "pattern"), root, names)
        register(root, (*registered(), f"handler.{names.plural}"))
        format_code(root, *folders[:2], REGISTRY)
        migration = write_migration(root, f"Create the {names.plural.replace('_', ' ')}")
        format_code(root, migration)
        write_contract(root)
        check_free(plural)
        moves = [(root / path, ROOT / path) for path in [*folders, migration]]
        publish([*moves, *_replace(root, CONTRACT), *_replace(root, REGISTRY)])
    for path in folders:
        print(f"resource: wrote {path}/")
    print(f"resource: wrote {migration} and {CONTRACT}")
    print(f"resource: registered handler.{names.plural} in {REGISTRY}; one of them is called {names.singular!r}")
    print(f"resource: next: make check, make test ARGS=tests/{names.plural}, make run")


def remove(plural: str) -> None:
    """Raises ResourceError, PostgresError, OSError; then nothing was removed."""
    package = f"handler.{plural}"
    if package not in registered():
        raise ResourceError(f"{package!r} is not registered in {REGISTRY}; it has {', '.join(registered()) or 'none'}")
    folders = [path for folder in FOLDERS if (ROOT / (path := Path(folder, plural))).is_dir()]
    if changes := _git("status", "--porcelain", "--", *map(str, folders)):
        changed = changes.decode().splitlines()[0].split()[-1]
        raise ResourceError(f"{changed} has changes that are not committed and would be lost: commit them first")
    if users := imported_by(plural):
        raise ResourceError(f"{plural!r} is still imported by {', '.join(map(str, users))}")
    with staging() as root:
        before = tables(root)
        register(root, tuple(name for name in registered() if name != package))
        dropped = set(before) - set(tables(root))
        register(root, registered())
        migration = write_migration(root, f"Drop the {plural.replace('_', ' ')}", sorted(dropped))
        register(root, tuple(name for name in registered() if name != package))
        shutil.rmtree(root / "handler" / plural)
        format_code(root, REGISTRY, migration)
        write_contract(root)
        moves = [*_replace(root, REGISTRY), *_replace(root, CONTRACT), (root / migration, ROOT / migration)]
        publish([*moves, *((ROOT / path, root / "removed" / path) for path in folders)])
    print(f"resource: removed {', '.join(f'{path}/' for path in folders)} and {package} in {REGISTRY}")
    print(f"resource: wrote {migration} and {CONTRACT}")
    print(
        f"resource: the migration drops the table. If {plural} is deployed, deploy the removal first and the migration"
        " in a later release: the release that is still running would lose its table"
    )


def imported_by(plural: str) -> list[Path]:
    """The project's Python files, except the benchmarks, that import the resource from outside its own folders."""
    modules = re.compile(rf"^\s*(?:from|import) (?:handler|tests)(?:\.| import (?:.*\b)?){plural}\b", re.MULTILINE)
    found = [
        path.relative_to(ROOT) for folder in ("handler", "local", "tests") for path in (ROOT / folder).rglob("*.py")
    ]
    own = tuple(Path(folder, plural) for folder in FOLDERS)
    return sorted(path for path in found if path.parent not in own and modules.search((ROOT / path).read_text()))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    signal.signal(signal.SIGTERM, _interrupt)
    match sys.argv[1:]:
        case ["add", name, *singular] if name:
            command = partial(add, name, *singular)
        case ["remove", name] if name:
            command = partial(remove, name)
        case ["remove", *_]:
            sys.exit("resource: NAME is missing: make resource-remove NAME=items")
        case _:
            sys.exit("resource: NAME is missing, in the plural: make resource NAME=orders")
    try:
        command()
    except (ResourceError, PostgresError) as error:
        sys.exit(f"resource: {error}")
    except OSError as error:
        sys.exit(f"resource: {error.filename}: {error.strerror}; nothing was written")
    except KeyboardInterrupt:
        sys.exit("resource: interrupted; nothing was written")


if __name__ == "__main__":
    main()
