"""`make ca-bundle` with a stand-in for AWS: a proxy that acts as every host, with trusted certificates."""

import os
import shutil
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from deploy.ca_bundle import AMAZON, BundleError, addresses
from tests.support.certificates import authority, issue

ROOT = Path(__file__).parents[2]
RDS = "https://truststore.pki.rds.amazonaws.com/eu-central-1/eu-central-1-bundle.pem"


class Proxy(socketserver.ThreadingTCPServer):
    """After CONNECT, the proxy does not forward, but acts as the requested host over TLS."""

    daemon_threads = True

    def __init__(self, folder: Path, pages: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.pages = folder, pages
        self.system = authority(folder / "system.pem")


class Handler(BaseHTTPRequestHandler):
    server: Proxy

    def do_CONNECT(self) -> None:
        host = self.path.partition(":")[0]
        folder = self.server.folder / host
        folder.mkdir(exist_ok=True)
        issue(self.server.system, folder, host)
        self.send_response(200)
        self.end_headers()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.crt", folder / "server.key")
        with context.wrap_socket(self.connection, server_side=True) as secure:
            path = secure.recv(4096).split(b" ")[1].decode()
            page = self.server.pages.get(f"https://{host}{path}")
            head = "404 Not Found" if page is None else "200 OK"
            secure.sendall(f"HTTP/1.1 {head}\r\nConnection: close\r\n\r\n".encode() + (page or b""))

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def aws(folder: Path, pages: dict[str, bytes]) -> Iterator[dict[str, str]]:
    """The environment variables with which every host is the stand-in."""
    with Proxy(folder, pages) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        yield {
            "PATH": os.environ["PATH"],
            "https_proxy": f"http://127.0.0.1:{proxy.server_address[1]}",
            "SSL_CERT_FILE": str(folder / "system.pem"),
        }
        proxy.shutdown()
        thread.join()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the files that the recipe needs, because it writes into its folder."""
    folder = tmp_path / "checkout"
    (folder / "handler").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copytree(ROOT / "deploy", folder / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def make(
    checkout: Path, environment: dict[str, str], region: str = "eu-central-1"
) -> "subprocess.CompletedProcess[str]":
    command = ["make", "--no-print-directory", "ca-bundle", f"REGION={region}"]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)


def certificate(folder: Path, name: str, days: int = 30) -> bytes:
    authority(folder / name, days)
    return (folder / name).read_bytes()


@pytest.fixture
def pages(tmp_path: Path) -> dict[str, bytes]:
    """A region with two valid authorities and one that has expired, and Amazon's five."""
    roots = {url: certificate(tmp_path, url.rpartition("/")[2]) for url in AMAZON}
    names = {"rds-rsa.pem": 30, "rds-2019.pem": -1, "rds-ecc.pem": 30}
    return roots | {RDS: b"".join(certificate(tmp_path, name, days) for name, days in names.items())}


def test_the_file_has_the_region_s_and_amazon_s_authorities_that_are_valid(
    checkout: Path, tmp_path: Path, pages: dict[str, bytes]
) -> None:
    with aws(tmp_path, pages) as environment:
        done = make(checkout, environment)
    assert done.returncode == 0, done.stderr
    assert "left out, because it has expired: Authority rds-2019.pem" in done.stdout
    assert "7 authorities are in handler/ca-bundle.pem" in done.stdout
    context = ssl.create_default_context(cafile=checkout / "handler" / "ca-bundle.pem")
    found: Any = context.get_ca_certs()
    names = {dict(pair for (pair,) in one["subject"])["commonName"] for one in found}
    roots = {url.rpartition("/")[2] for url in AMAZON}
    assert names == {f"Authority {name}" for name in {"rds-rsa.pem", "rds-ecc.pem"} | roots}


def test_a_response_that_is_not_a_list_of_authorities_is_refused_and_the_file_stays(
    checkout: Path, tmp_path: Path, pages: dict[str, bytes]
) -> None:
    (checkout / "handler" / "ca-bundle.pem").write_text("as before")
    issue(authority(tmp_path / "other.pem"), tmp_path, "db.example")
    broken = {
        "cannot be fetched: HTTP Error 404": None,
        "has no certificate of an authority": b"<html>not found</html>",
        "is not an authority's": (tmp_path / "server.crt").read_bytes(),
        "cannot be read": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        "more than": b"x" * 2_000_000,
    }
    for url in (RDS, AMAZON[4]):
        for problem, page in broken.items():
            served = {**pages, url: page}
            with aws(tmp_path, {url: page for url, page in served.items() if page is not None}) as environment:
                done = make(checkout, environment)
            assert done.returncode != 0
            assert f"ca-bundle: {url} " in done.stderr
            assert problem in done.stderr
            assert (checkout / "handler" / "ca-bundle.pem").read_text() == "as before"


@pytest.mark.parametrize("region", ["", "frankfurt", "../x", "eu-central-1/x", "EU-CENTRAL-1"])
def test_a_region_must_be_named(region: str, checkout: Path) -> None:
    done = make(checkout, {"PATH": os.environ["PATH"], "https_proxy": "http://127.0.0.1:1"}, region)
    assert done.returncode != 0
    assert "ca-bundle: name the region of the database" in done.stderr
    with pytest.raises(BundleError, match="name the region"):
        addresses(region)


@pytest.mark.parametrize(
    ("region", "server"),
    [
        ("eu-central-1", "truststore.pki.rds.amazonaws.com"),
        ("us-gov-east-1", "truststore.pki.us-gov-west-1.rds.amazonaws.com"),
        ("cn-northwest-1", "rds-truststore.s3.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_each_partition_has_its_own_server(region: str, server: str) -> None:
    assert addresses(region)[0] == f"https://{server}/{region}/{region}-bundle.pem"
