"""The build finds the function's Python or says what to do, and ships the authorities of RDS if the file exists."""

import subprocess
import sys
from pathlib import Path

import pytest

from deploy import build

SHIM = "#!/bin/sh\necho 'pyenv: python3.13: command not found' >&2\nexit 127\n"
RIGHT = f"#!/bin/sh\necho {build.MAGIC}\n"
OLDER = "#!/bin/sh\necho cb0d0d0a\n"  # 3.12's


def python(path: Path, script: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script)
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A machine with an older Python, whose python3.13 is a shim of pyenv that fails."""
    monkeypatch.setattr(sys, "executable", python(tmp_path / "python", OLDER))
    python(tmp_path / "shims" / "python3.13", SHIM)
    return {"HOME": str(tmp_path), "PATH": f"{tmp_path}/shims:/usr/bin:/bin"}


@pytest.mark.parametrize(
    "path",
    [
        "shims/python3.13",
        ".pyenv/versions/3.13.0/bin/python3.13",
        ".local/share/uv/python/cpython-3.13.9-linux-x86_64-gnu/bin/python3.13",
    ],
)
def test_the_python_is_found_in_path_and_where_pyenv_and_uv_keep_it(
    path: str, tmp_path: Path, environ: dict[str, str]
) -> None:
    expected = python(tmp_path / path, RIGHT)
    assert build.runtime_python(environ) == expected


def test_a_build_without_the_functions_python_is_refused_with_what_to_do(environ: dict[str, str]) -> None:
    with pytest.raises(build.BuildError, match=r"not on this machine.*uv python install 3\.13.*BUILD_PYTHON="):
        build.runtime_python(environ)


@pytest.mark.parametrize("script", [OLDER, SHIM, None])
def test_a_named_python_that_is_not_the_functions_is_refused(
    script: str | None, tmp_path: Path, environ: dict[str, str]
) -> None:
    python(tmp_path / ".pyenv/versions/3.13.0/bin/python3.13", RIGHT)
    named = tmp_path / "named"
    if script:
        python(named, script)
    with pytest.raises(build.BuildError, match="BUILD_PYTHON="):
        build.runtime_python(environ | {"BUILD_PYTHON": str(named)})


def test_a_named_python_takes_precedence(tmp_path: Path, environ: dict[str, str]) -> None:
    python(tmp_path / ".pyenv/versions/3.13.0/bin/python3.13", RIGHT)
    named = python(tmp_path / "named", RIGHT)
    assert build.runtime_python(environ | {"BUILD_PYTHON": named}) == named


@pytest.mark.parametrize("is_here", [True, False])
def test_the_authorities_of_rds_are_shipped_and_their_absence_is_reported(
    is_here: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handler, artifact = tmp_path / "handler", tmp_path / "artifact"
    handler.mkdir()
    artifact.mkdir()
    (handler / "main.py").write_text("")
    if is_here:
        (handler / "ca-bundle.pem").write_text("authorities")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "install", lambda *_: None)
    monkeypatch.setattr(build, "runtime_python", lambda: sys.executable)
    monkeypatch.setattr(sys, "argv", ["build", str(artifact), "arm64"])
    build.main()
    assert (artifact / "handler" / "ca-bundle.pem").exists() == is_here
    assert ("make ca-bundle" in capsys.readouterr().out) != is_here  # SAM hides standard error


def test_an_architecture_that_lambda_does_not_have_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.build", str(tmp_path), "arm"]
    done = subprocess.run(command, cwd=build.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "build: ARCHITECTURE must be one of arm64, x86_64, not 'arm'\n"
