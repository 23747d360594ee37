"""The finished example in handler/, as in the project of a reader of the guide, and the tests' own resource."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from local.resource import VERSIONS, register
from tests.support.database import connect, temporary_database
from tests.support.probe_project import PACKAGE, REVISION, add_probe

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples"
CREATE_PROBES = "import sys; from tests.support.migrated import create_probe_tables; create_probe_tables(sys.argv[1])"


def project_with_orders(folder: Path) -> Path:
    for name in ("handler", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    package = shutil.copytree(EXAMPLE / "orders", folder / "handler" / "orders")
    for path in package.glob("*.py"):
        path.write_text(path.read_text().replace("examples.orders", "handler.orders"))
    shutil.copy(EXAMPLE / "migrations" / "0004_orders.py", folder / VERSIONS)
    register(folder, ("handler.orders",))
    return folder


def run(project: Path, url: str, *arguments: str) -> None:
    environ = os.environ | {"DATABASE_URL": url, "PYTHONPATH": str(ROOT)}  # local/ is not in the copy
    subprocess.run([sys.executable, *arguments], cwd=project, env=environ, check=True)


def test_tables_of_the_tests_come_without_an_enum_type_of_another_resource(server_url: str, tmp_path: Path) -> None:
    project = project_with_orders(tmp_path)
    with temporary_database(server_url, f"beside_{os.getpid()}") as url:
        run(project, url, "-c", CREATE_PROBES, url)
        run(project, url, "-m", "handler.migrate")
        with connect(url) as database:
            assert database.run("SELECT to_regclass('orders'), to_regclass('probes')") == [["orders", "probes"]]


def test_a_copy_with_the_probe_migrates(server_url: str, tmp_path: Path) -> None:
    project = project_with_orders(tmp_path)
    add_probe(project)
    register(project, ("handler.orders", PACKAGE))
    with temporary_database(server_url, f"beside_{os.getpid()}") as url:
        run(project, url, "-m", "handler.migrate")
        with connect(url) as database:
            assert database.run("SELECT version_num FROM alembic_version") == [[REVISION]]
