"""The trusted authorities of a server's certificate, and the errors that are found at startup."""

import subprocess
import sys
from pathlib import Path

import pytest

from handler.database.connection import make_engine
from handler.settings import SettingsError, read_database_settings
from tests.support.certificates import authority

URL = "postgresql://ann@db.example/d"
UNREADABLE = r"the CA file of DATABASE_CA_BUNDLE \(or of sslrootcert in DATABASE_URL\) cannot be read: "


@pytest.mark.parametrize("query", ["sslmode=verify-ca", "sslmode=verify-ca&sslrootcert=system"])
def test_verify_ca_without_a_ca_file_is_rejected(query: str) -> None:
    with pytest.raises(SettingsError, match=r"sslmode=verify-ca needs a CA file \(sslrootcert or DATABASE_CA_BUNDLE\)"):
        read_database_settings({"DATABASE_URL": f"{URL}?{query}"})


def test_verify_ca_accepts_the_ca_file_of_either_setting(tmp_path: Path) -> None:
    file = str(tmp_path / "ca.pem")
    named = {"DATABASE_URL": f"{URL}?sslmode=verify-ca", "DATABASE_CA_BUNDLE": file}
    assert read_database_settings(named).ca_bundle == file
    assert read_database_settings({"DATABASE_URL": f"{URL}?sslmode=verify-ca&sslrootcert={file}"}).ca_bundle == file


def test_an_unreadable_ca_file_is_an_error_when_the_engine_is_created(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    (tmp_path / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    problems = {
        "missing": "No such file",
        ".": "Is a directory",
        "empty.pem": "it holds no",
        "broken.pem": "it holds no",
    }
    for name, problem in problems.items():
        for mode in ("verify-ca", "verify-full"):
            settings = read_database_settings({"DATABASE_URL": f"{URL}?sslmode={mode}&sslrootcert={tmp_path}/{name}"})
            with pytest.raises(SettingsError, match=UNREADABLE + problem):
                make_engine(settings)
    authority(tmp_path / "ca.pem")
    make_engine(read_database_settings({"DATABASE_URL": f"{URL}?sslrootcert={tmp_path}/ca.pem"}))


@pytest.mark.parametrize("query", ["sslmode=disable&", "host=/run/pg&"])
def test_a_connection_without_tls_reads_no_ca_file(query: str) -> None:
    make_engine(read_database_settings({"DATABASE_URL": f"{URL}?{query}sslrootcert=/nowhere/ca.pem"}))


@pytest.mark.parametrize("program", ["import handler.main", "from handler import migrate; migrate.main()"])
def test_the_function_and_the_migration_do_not_start_without_their_ca_file(program: str) -> None:
    environment = {"DATABASE_URL": f"{URL}?sslrootcert=/nowhere/ca.pem", "AUTH_MODE": "none"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "sslrootcert in DATABASE_URL) cannot be read: No such file or directory" in done.stderr
