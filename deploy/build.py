"""Put the files that are deployed into a folder: `python -m deploy.build FOLDER arm64|x86_64`.

The Makefile's build-* recipes run it for `sam build`. It needs pip, a package index, and a CPython of the function's
minor version. It uses no virtual environment. Two builds are equal, file by file (docs/adr/0016).
"""

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNTIME = "3.13"  # the minor version of the Runtime in template.yaml
MAGIC = "f30d0d0a"  # the magic number of this version's bytecode: 3571, Lib/importlib/_bootstrap_external.py
MACHINES = {"arm64": "aarch64", "x86_64": "x86_64"}  # Lambda's names, and the wheels'
# Files that no deployed module imports: programs that name this machine's Python, test suites of libraries, dialects of
# other databases (Alembic and SQLAlchemy import dialects by name), type stubs and C sources. RECORD would list removed
# files. The rest of dist-info stays, because pg8000 reads its own.
UNUSED = (
    "bin",
    "alembic/testing",
    "mako/testing",
    "pydantic/v1",  # FastAPI imports it where it is installed, to refuse its models (docs/adr/0046)
    "sqlalchemy/testing",
    "sqlalchemy/dialects/mssql",
    "sqlalchemy/dialects/mysql",
    "sqlalchemy/dialects/oracle",
    "sqlalchemy/dialects/sqlite",
    "sqlalchemy/dialects/postgresql/provision.py",
    "**/*.pyi",
    "**/*.pxd",
    "**/*.c",
    "*.dist-info/RECORD",
    "*.dist-info/INSTALLER",
    "*.dist-info/REQUESTED",
)
CA_BUNDLE = "handler/ca-bundle.pem"


class BuildError(Exception):
    """The artifact cannot be built on this machine. The message names what is missing."""


def build(folder: Path, architecture: str) -> None:
    """Fill the empty `folder` with the artifact for Lambda's `architecture`. Raises BuildError."""
    if architecture not in MACHINES:
        raise BuildError(f"ARCHITECTURE must be one of {', '.join(MACHINES)}, not {architecture!r}")
    python = runtime_python()
    install(ROOT / "requirements.txt", folder, architecture)
    for pattern in UNUSED:
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    for library in folder.rglob("*.so"):
        strip(library)
    shutil.copytree(ROOT / "handler", folder / "handler", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    compile_all(folder, python)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # Lambda reads as another user


def install(requirements: Path, folder: Path, architecture: str) -> None:
    """Install the pinned wheels for Lambda, without bytecode of this machine's Python. Raises BuildError."""
    if find_spec("pip") is None:
        raise BuildError(f"{sys.executable} has no pip: run `make build`, which brings one")
    # Amazon Linux 2023 has glibc 2.34.
    platforms = [f"--platform={tag}_{MACHINES[architecture]}" for tag in ("manylinux2014", "manylinux_2_28")]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    command += ["--no-deps", "--only-binary=:all:", "--no-compile", "--root-user-action=ignore", "--implementation=cp"]
    command += [f"--python-version={RUNTIME}", *platforms, f"--target={folder}", f"--requirement={requirements}"]
    if subprocess.run(command, check=False).returncode:
        raise BuildError(f"no wheel for Python {RUNTIME} on {architecture}, or no package index: see pip's message")


def runtime_python(environ: Mapping[str, str] = os.environ) -> str:
    """The path of a Python of Lambda's minor version: BUILD_PYTHON, or the first one found. Raises BuildError."""
    home = Path(environ.get("HOME", "/"))
    pyenv = Path(environ.get("PYENV_ROOT") or home / ".pyenv")
    uv = Path(environ.get("UV_PYTHON_INSTALL_DIR") or home / ".local/share/uv/python")
    found = [
        sys.executable,
        shutil.which(f"python{RUNTIME}", path=environ.get("PATH", "")) or "",
        # pyenv's shim in PATH fails if its version is installed but not chosen.
        *map(str, pyenv.glob(f"versions/{RUNTIME}.*/bin/python{RUNTIME}")),
        *map(str, uv.glob(f"cpython-{RUNTIME}.*/bin/python{RUNTIME}")),
    ]
    named = environ.get("BUILD_PYTHON")
    for candidate in [named] if named else found:
        if _magic(candidate) == MAGIC:
            return candidate
    if named:
        raise BuildError(f"BUILD_PYTHON={named} is not Python {RUNTIME}, or does not run")
    raise BuildError(
        f"Python {RUNTIME} is not on this machine. Only it writes the bytecode that Lambda reads, without which a cold "
        f"start takes three times as long. Install it (`uv python install {RUNTIME}`, `pyenv install {RUNTIME}`, "
        f"`brew install python@{RUNTIME}`, or your system's package), or name it: BUILD_PYTHON=/path/to/python{RUNTIME}"
    )


def _magic(python: str) -> str:
    code = "import importlib.util as util; print(util.MAGIC_NUMBER.hex())"
    try:
        done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def strip(library: Path) -> None:
    """Remove the section table and the debugging information, which follow the last loaded segment of an ELF file.

    The loader reads only the program headers (ELF-64 Object File Format, chapters 2 and 5). SQLAlchemy's wheels have
    8 MB of such data. The program `strip` of binutils does not support other architectures.
    """
    content = bytearray(library.read_bytes())
    if content[:6] != b"\x7fELF\x02\x01":
        raise BuildError(f"{library} is not a 64-bit little-endian ELF file")
    (first,) = struct.unpack_from("<Q", content, 32)  # e_phoff
    size, number = struct.unpack_from("<HH", content, 54)  # e_phentsize, e_phnum
    ends = [sum(struct.unpack_from("<8xQ16xQ", content, first + i * size)) for i in range(number)]  # p_offset, p_filesz
    del content[max(ends) :]
    struct.pack_into("<Q", content, 40, 0)  # e_shoff
    struct.pack_into("<HH", content, 60, 0, 0)  # e_shnum, e_shstrndx
    library.write_bytes(content)


def compile_all(folder: Path, python: str) -> None:
    """Compile every source. Python never checks the bytecode, because the timestamps in a zip mean nothing.

    The sources stay for tracebacks, which name /var/task.
    """
    command = [python, "-I", "-m", "compileall", "-q", "--invalidation-mode=unchecked-hash", "-s", str(folder)]
    if subprocess.run([*command, "-p", "/var/task", str(folder)], check=False).returncode:
        raise BuildError(f"{python} cannot compile the files that are named above")


def main() -> None:
    folder, architecture = Path(sys.argv[1]), sys.argv[2]
    try:
        build(folder, architecture)
    except BuildError as error:
        sys.exit(f"build: {error}")
    # SAM shows the standard output of a successful build, and hides its standard error.
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"build: {size / 1e6:.1f} MB for Python {RUNTIME} on {architecture}")
    if not (folder / CA_BUNDLE).exists():
        print(f"build: WARNING: {CA_BUNDLE} is missing: the function trusts the system's authorities, and those of")
        print("build: RDS instances are not among them (those of RDS Proxy are). `make ca-bundle` writes the file.")


if __name__ == "__main__":
    main()
