"""`make setup`: install a file of pinned packages into a virtual environment with pip, and show the progress.

`python3 -m local.install STAMP FILE TEXT` installs FILE into the environment whose folder has the file STAMP, and
writes STAMP when all is installed. TEXT says what is installed. With `--create` the environment is created again first.
With `--compile`, or where Python writes no bytecode (PYTHONDONTWRITEBYTECODE), all of its modules are compiled at the
end; else Python compiles each at its first import. Two commands that do the same at once wait for each other, and only
the first one installs.

It runs on the Python that the environment is made of, which has nothing but the standard library.
"""

import argparse
import fcntl
import re
import signal
import subprocess
import sys
import venv
from pathlib import Path

PIP = ["-m", "pip", "install", "--disable-pip-version-check", "--no-color", "--progress-bar=off"]
# Only files that are in the requirements file by their hash, and no program of a package is run to build it.
PINNED = ["--require-hashes", "--no-deps", "--only-binary", ":all:"]
# `compileall` does it on all cores.
UNCOMPILED = ["--no-compile"]
# What pip says first of each package: of one in an index, in a folder, and in the environment.
PACKAGE = re.compile(r"(?:Collecting|Processing|Requirement already satisfied:) (?:\S*/)?([\w.-]+?)(?:==|-\d| )")
CLEAR = "\r\033[K"  # the line of a terminal
STEP = 10  # packages between two lines, where the output is no terminal


def install(python: Path, file: Path) -> int:
    """Install `file` into the environment of `python`, and return pip's status."""
    total = len(re.findall(r"^[\w.-]+==", file.read_text(), re.MULTILINE))
    count, is_terminal = 0, sys.stdout.isatty()
    command = [str(python), *PIP, *PINNED, *UNCOMPILED, "--requirement", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as pip:
        for line in pip.stdout or ():
            if found := PACKAGE.match(line.strip()):
                count += 1
                if is_terminal:
                    print(f"{CLEAR}setup: {count} of {total} packages: {found[1]}", end="", flush=True)
                elif count % STEP == 0:
                    print(f"setup: {count} of {total} packages", flush=True)
            elif line.startswith("Installing "):
                print(f"{CLEAR if is_terminal else ''}setup: unpacking them", flush=True)
    return pip.returncode


def main() -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # KeyboardInterrupt is lost where Python ignores exceptions: in callbacks
    parser = argparse.ArgumentParser()
    parser.add_argument("stamp", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("text")
    parser.add_argument("--create", action="store_true")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    try:
        make_environment(arguments)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"setup: {error}")


def make_environment(arguments: argparse.Namespace) -> None:
    stamp, file = arguments.stamp, arguments.file
    with file.open("r+") as lock:  # NFS locks only what is open for writing
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.stat().st_mtime >= file.stat().st_mtime:
            return  # another command has installed it meanwhile
        print(f"setup: installing {arguments.text} into {stamp.parent}, once", flush=True)
        if arguments.create:
            venv.create(stamp.parent, clear=True, symlinks=True, with_pip=True)
        python = stamp.parent / "bin" / "python"
        if status := install(python, file):
            sys.exit(status)
        if arguments.compile or sys.dont_write_bytecode:
            # Its status says nothing: some packages have files for other versions of Python, which do not compile.
            subprocess.run([str(python), "-m", "compileall", "-qq", "-j0", str(stamp.parent / "lib")], check=False)
        stamp.touch()


if __name__ == "__main__":
    main()
