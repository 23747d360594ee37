"""The artifact has the intended files, is for the function's Python and processor, and is the same for each builder."""

import hashlib
import importlib.metadata
import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.build import MACHINES, RUNTIME
from local.authorizer import AUDIENCE, ISSUER
from tests.infra.conftest import HOST_ARCHITECTURE, ROOT
from tests.infra.template.cloudformation import load

LIMIT = 40_000_000  # bytes, unzipped
# The header of unchecked hash-based bytecode of CPython 3.13: magic number, then flags (PEP 552).
UNCHECKED_3_13 = struct.pack("<H2sI", 3571, b"\r\n", 0b01)
ELF_MACHINES = {"arm64": 183, "x86_64": 62}  # EM_AARCH64, EM_X86_64 (elf.h)
# Imports every module, and prints each import that fails although its package is shipped. Optional dependencies may
# fail.
IMPORT_ALL = """
import importlib, pkgutil, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, folder := sys.argv[1])
shipped = {module.name for module in pkgutil.iter_modules([folder])} - {"six", "handler"}
count = 0
for module in pkgutil.walk_packages([folder], onerror=lambda name: None):
    if not module.name.startswith("handler") and not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
            count += 1
        except ImportError as error:
            if (error.name or "").partition(".")[0] in shipped:
                print(module.name, error)
        except RuntimeError as error:  # test clients, without their HTTP client
            if "testclient" not in module.name:
                raise
print(count > 500)
"""

# Starts the function, and prints what it imported of pydantic 1.
START = """
import sys
sys.path.insert(0, sys.argv[1])
import handler.main
print([name for name in sys.modules if name.startswith("pydantic.v1")])
"""


@pytest.fixture(params=MACHINES)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def artifact(build: Callable[..., Path], architecture: str) -> Path:
    return build(architecture)


@pytest.fixture(scope="module")
def template() -> Any:
    return load("template.yaml")


def files(folder: Path, pattern: str = "*") -> list[Path]:
    return sorted(path for path in folder.rglob(pattern) if path.is_file())


def pins() -> dict[str, str]:
    lines = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    return {name.replace("-", "_").lower(): version for name, version in lines}


def test_the_build_is_for_the_runtime_and_the_architectures_of_the_template(template: Any) -> None:
    functions = {
        name: template.get("Globals", {}).get("Function", {}) | resource["Properties"]
        for name, resource in template["Resources"].items()
        if resource["Type"] == "AWS::Serverless::Function" and "Metadata" in resource
    }
    assert "ApiFunction" in functions
    for name, function in functions.items():
        assert template["Resources"][name]["Metadata"] == {"BuildMethod": "makefile"}
        assert function["CodeUri"] == "."
        assert function["Runtime"] == f"python{RUNTIME}"
        assert function["Architectures"] == [{"Ref": "Architecture"}]
        dry = ["make", "--dry-run", f"build-{name}", "ARTIFACTS_DIR=/tmp/artifact"]
        recipe = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert f'-m deploy.build "/tmp/artifact" {template["Parameters"]["Architecture"]["Default"]}' in recipe
    assert template["Parameters"]["Architecture"]["AllowedValues"] == list(MACHINES)


def test_the_artifact_has_only_the_pinned_packages_and_the_handler(artifact: Path) -> None:
    names = [path.name.removesuffix(".dist-info").split("-") for path in artifact.glob("*.dist-info")]
    assert sorted((name.lower(), version) for name, version in names) == sorted(pins().items())
    # The tests run on the same versions, so this environment has their top-level names.
    packages = importlib.metadata.packages_distributions()
    ours = {top for top, (name, *_) in packages.items() if name.replace("-", "_").lower() in pins()}
    top = {path.stem for path in artifact.iterdir() if path.suffix != ".dist-info"}
    assert top - {"__pycache__"} == {name for name in ours if name.isidentifier()} - {"__pycache__"} | {"handler"}


def test_the_artifact_has_the_whole_handler(artifact: Path) -> None:
    def source(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in files(folder)
            if "__pycache__" not in path.parts and not path.name.startswith(".")
        }

    assert source(artifact / "handler") == source(ROOT / "handler")


def test_the_artifact_has_no_tests_no_programs_and_no_files_for_compilers_or_installers(artifact: Path) -> None:
    folders = {path.name for path in artifact.rglob("*") if path.is_dir()}
    assert not folders & {"bin", "test", "tests", "testing"}
    assert not {path.suffix for path in files(artifact)} & {".c", ".h", ".pxd", ".pyi", ".pyx"}
    assert not {path.name for path in files(artifact)} & {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}


def test_knows_no_local_authorizer(artifact: Path) -> None:
    """Tokens of `make token` are valid for `make run` only. tests/local/test_authorization.py reads the sources."""
    words = [word.encode() for word in (ISSUER, AUDIENCE, "token-key", "local.authorizer")]
    handler = files(artifact / "handler")
    assert any(path.suffix == ".pyc" for path in handler)
    assert [path for path in handler if any(word in path.read_bytes() for word in words)] == []
    assert not (artifact / "local").exists()


def test_every_module_has_bytecode_that_is_not_compared_with_its_source(artifact: Path) -> None:
    compiled = files(artifact, "*.pyc")
    expected = [path.parent / "__pycache__" / f"{path.stem}.cpython-313.pyc" for path in files(artifact, "*.py")]
    assert compiled == sorted(expected)
    assert {path.read_bytes()[:8] for path in compiled} == {UNCHECKED_3_13}


def test_every_shared_object_is_for_the_architecture_and_without_debugging_information(
    artifact: Path, architecture: str
) -> None:
    libraries = [path for path in files(artifact) if ".so" in path.suffixes]
    assert len(libraries) > 5
    for path in libraries:
        header = path.read_bytes()[:64]
        assert header[:5] == b"\x7fELF\x02"
        assert struct.unpack_from("<H", header, 18) == (ELF_MACHINES[architecture],)
        assert struct.unpack_from("<H", header, 60) == (0,)  # e_shnum: no section table, so no .debug_*
        assert f"cpython-313-{MACHINES[architecture]}" in path.name


def test_the_artifact_is_below_the_size_limit(artifact: Path) -> None:
    assert sum(path.stat().st_size for path in files(artifact)) < LIMIT


def test_two_builds_are_equal_and_any_user_reads_them(artifact: Path, architecture: str, build: Any) -> None:
    def content(folder: Path) -> dict[str, tuple[str, int]]:
        return {
            str(path.relative_to(folder)): (
                hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
                path.stat().st_mode & 0o7777,
            )
            for path in folder.rglob("*")
        }

    first, second = content(artifact), content(build(architecture, "the-second-of-two-builds", umask="077"))
    assert first == second
    assert {mode for _, mode in first.values()} == {0o644, 0o755}


def test_the_artifact_names_no_folder_of_the_machine_that_built_it(artifact: Path) -> None:
    content = {path: path.read_bytes() for path in files(artifact)}
    assert not [path for path, data in content.items() if bytes(artifact) in data or bytes(ROOT) in data]
    assert b"/var/task/handler/main.py" in content[artifact / "handler/__pycache__/main.cpython-313.pyc"]


def test_a_start_of_the_artifact_imports_nothing_of_pydantic_1(build: Callable[..., Path], runtime: str) -> None:
    """FastAPI would import its 23 modules to recognize models that it refuses (docs/adr/0046)."""
    environ = {"DATABASE_URL": "postgresql://ann@db.example/shop", "AUTH_MODE": "none"}
    command = [runtime, "-I", "-S", "-B", "-c", START, str(build(HOST_ARCHITECTURE))]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_no_module_imports_a_removed_file(build: Callable[..., Path], runtime: str) -> None:
    artifact = build(HOST_ARCHITECTURE)
    before = files(artifact)
    command = [runtime, "-I", "-S", "-c", IMPORT_ALL, str(artifact)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")
    assert files(artifact) == before  # no module was compiled again
