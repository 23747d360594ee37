"""`make setup`: install pinned packages with pip, and say how far it is. The argument is the requirements file.

It runs in an environment that has nothing but pip yet.
"""

import re
import subprocess
import sys
from pathlib import Path

PIP = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-color", "--progress-bar=off"]
# Only files that are in the requirements file by their hash, and no program of a package is run to build it.
PINNED = ["--require-hashes", "--no-deps", "--only-binary", ":all:"]
CLEAR = "\r\033[K"  # the line of a terminal
STEP = 10  # packages between two lines, where the output is no terminal


def main() -> None:
    file = sys.argv[1]
    total = len(re.findall(r"^[\w.-]+==", Path(file).read_text(), re.MULTILINE))
    command = [*PIP, *PINNED, "--requirement", file]
    count, is_terminal = 0, sys.stdout.isatty()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as pip:
        for line in pip.stdout or ():
            word, _, rest = line.strip().partition(" ")
            if word == "Collecting":
                count += 1
                if is_terminal:
                    name = rest.partition("==")[0]
                    print(f"{CLEAR}setup: {count} of {total} packages: {name}", end="", flush=True)
                elif count % STEP == 0:
                    print(f"setup: {count} of {total} packages", flush=True)
            elif word == "Installing":
                print(f"{CLEAR if is_terminal else ''}setup: unpacking {count} packages", flush=True)
    sys.exit(pip.returncode)


if __name__ == "__main__":
    main()
