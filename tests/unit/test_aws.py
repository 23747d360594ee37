"""Signatures are equal to the SDK's, and every failure of a request to AWS is an AwsError."""

import contextlib
import http.server
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from handler.database import https
from handler.database.credentials import aws, iam_token, secrets_manager, signature
from handler.database.deadline import timeout_after
from tests.support.certificates import Authority, authority, issue

text = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
signers = st.builds(aws.AwsCredentials, text, text, text | st.just(""))
NOW = datetime(2026, 11, 22, 17, 2, 15, tzinfo=UTC)


def signed_by_the_sdk(auth: Any, request: AWSRequest) -> Any:
    """The request with the SDK's signature, which the SDK computes for the time NOW."""
    import botocore.auth

    real = botocore.auth.get_current_datetime
    botocore.auth.get_current_datetime = lambda *_, **__: NOW.replace(tzinfo=None)
    try:
        auth.add_auth(request)
    finally:
        botocore.auth.get_current_datetime = real
    return request.prepare()


def credentials(signer: aws.AwsCredentials) -> Credentials:
    return Credentials(signer.access_key, signer.secret_key, signer.session_token or None)


@given(signer=signers, user=st.text(min_size=1, max_size=20).filter(lambda user: user.isprintable()))
def test_a_token_is_the_one_that_the_sdk_makes(signer: aws.AwsCredentials, user: str) -> None:
    request = AWSRequest("GET", "https://db.example:5432/", params={"Action": "connect", "DBUser": user})
    url = signed_by_the_sdk(SigV4QueryAuth(credentials(signer), "rds-db", "eu-central-1", expires=900), request).url
    token = iam_token.database_token("db.example:5432", user, "eu-central-1", signer, NOW)
    assert split(token) == split(url.removeprefix("https://"))


def split(token: str) -> tuple[str, set[str]]:
    server, _, query = token.partition("?")
    return server, set(query.split("&"))


@given(signer=signers, body=st.binary(max_size=100))
def test_a_request_is_signed_as_the_sdk_signs_it(signer: aws.AwsCredentials, body: bytes) -> None:
    headers = {"content-type": "application/x-amz-json-1.1", "host": "s.example", "x-amz-target": "t"}
    request = AWSRequest("POST", "https://s.example/", headers=headers, data=body)
    expected = signed_by_the_sdk(SigV4Auth(credentials(signer), "secretsmanager", "eu-central-1"), request).headers
    signed = signature.signed_headers(headers, body, "eu-central-1", signer, NOW)
    assert signed["authorization"] == expected["Authorization"]


class Endpoint(http.server.BaseHTTPRequestHandler):
    next_responses: ClassVar[list[tuple[int, bytes]]] = []
    seen: ClassVar[list[dict[str, str]]] = []

    def _respond(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.seen.append({name.lower(): value for name, value in self.headers.items()})
        status, body = self.next_responses.pop(0)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _respond  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Endpoint]]:
    """A server that responds in place of AWS."""
    server = http.server.HTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", address)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{address}/credentials")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "the-token")
    monkeypatch.setattr(aws, "_container_credentials", None)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    Endpoint.next_responses, Endpoint.seen = [], []
    yield Endpoint
    server.shutdown()
    thread.join()
    server.server_close()


def container_response(lifetime: timedelta) -> bytes:
    expiration = (datetime.now(UTC) + lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")
    keys = {"AccessKeyId": "a", "SecretAccessKey": "s", "Token": "t", "Expiration": expiration}
    return json.dumps(keys).encode()


def test_an_empty_access_key_counts_as_unset(endpoint: type[Endpoint], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "")
    endpoint.next_responses = [(200, container_response(timedelta(minutes=6)))]
    assert aws.load_credentials() == ("a", "s", "t")


def test_credentials_of_the_environment_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "s"), ("SESSION_TOKEN", "t")):
        monkeypatch.setenv(f"AWS_{name}", value)
    assert aws.load_credentials() == ("a", "s", "t")


def test_credentials_of_the_container_are_cached_until_they_are_about_to_expire(endpoint: type[Endpoint]) -> None:
    endpoint.next_responses = [(200, container_response(timedelta(minutes=lifetime))) for lifetime in (6, 4)]
    assert aws.load_credentials() == aws.load_credentials() == ("a", "s", "t")
    assert [seen["authorization"] for seen in endpoint.seen] == ["the-token"]
    assert aws._container_credentials is not None
    aws._container_credentials = (aws._container_credentials[0], datetime.now(UTC) + timedelta(minutes=4))
    aws.load_credentials()
    assert len(endpoint.seen) == 2


@pytest.mark.parametrize("response", [(200, b"{}"), (200, b"no JSON"), (500, b'{"message": "SECRET"}'), (200, b"[]")])
def test_unavailable_credentials_are_an_aws_error(response: tuple[int, bytes], endpoint: type[Endpoint]) -> None:
    endpoint.next_responses = [response]
    with pytest.raises(aws.AwsError) as error:
        aws.load_credentials()
    assert "SECRET" not in str(error.value)


@pytest.mark.usefixtures("endpoint")
def test_missing_credentials_are_an_aws_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    with pytest.raises(aws.AwsError, match="no AWS credentials"):
        aws.load_credentials()


def test_an_arn_names_its_region_and_china_its_own_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    for name in ("AWS_ENDPOINT_URL_SECRETS_MANAGER", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")

    def response(_method: str, address: str, *_: object) -> tuple[int, dict[str, str]]:
        asked.append(address)
        return 200, {"SecretString": "x"}

    monkeypatch.setattr(secrets_manager, "request_json", response)
    assert (
        secrets_manager.secret_value("arn:aws-cn:secretsmanager:cn-north-1:1:secret:x", "AWSCURRENT", "eu-central-1")
        == "x"
    )
    assert secrets_manager.secret_value("name", "AWSCURRENT", "eu-central-1") == "x"
    assert asked == [
        "https://secretsmanager.cn-north-1.amazonaws.com.cn",
        "https://secretsmanager.eu-central-1.amazonaws.com",
    ]


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ((400, b'{"__type": "com.amazon#AccessDeniedException", "Message": "SECRET"}'), "AccessDeniedException"),
        ((400, b'{"__type": "ResourceNotFoundException"}'), "ResourceNotFoundException"),
        ((200, b'{"SecretBinary": "SECRET"}'), "and no text"),
        ((200, b"[]"), "and no text"),
        ((503, b"SECRET"), "cannot be reached"),
    ],
)
def test_an_unavailable_secret_is_an_aws_error(
    response: tuple[int, bytes], message: str, endpoint: type[Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    endpoint.next_responses = [response]
    with pytest.raises(aws.AwsError, match=message) as error:
        secrets_manager.secret_value("name", "AWSCURRENT", "eu-central-1")
    assert "SECRET" not in str(error.value)


def test_a_missing_version_is_none(endpoint: type[Endpoint], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    endpoint.next_responses = [(400, b'{"__type": "ResourceNotFoundException"}')]
    assert secrets_manager.secret_value("name", "AWSPENDING", "eu-central-1") is None


@pytest.mark.parametrize("drip", [b"HTTP/1.1 100 Continue\r\n\r\n", b".", b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 65_536])
def test_an_endpoint_that_sends_without_end_is_an_error_before_the_timeout(
    drip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()

    def serve(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer, contextlib.suppress(OSError):
            while not stop.wait(0.01):
                peer.sendall(drip)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", f"http://127.0.0.1:{listener.getsockname()[1]}")
        with timeout_after(0.3), pytest.raises(aws.AwsError, match="cannot be reached"):
            secrets_manager.secret_value("name", "AWSCURRENT", "eu-central-1")
        stop.set()
        thread.join()


@pytest.fixture
def https_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., type[Endpoint]]]:
    """A function that starts an endpoint with TLS. Its authority is the only one that the system trusts."""
    with contextlib.ExitStack() as stack:
        trusted = authority(tmp_path / "ca.pem")

        def start(by: Authority = trusted, host: str = "127.0.0.1") -> type[Endpoint]:
            issue(by, tmp_path, host)
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
            server.handle_error = lambda *_: None  # type: ignore[method-assign] # a refused handshake
            server.socket = context.wrap_socket(server.socket, server_side=True)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            for step in (server.server_close, thread.join, server.shutdown):
                stack.callback(step)
            monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", f"https://127.0.0.1:{server.server_port}")
            return Endpoint

        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "no-more"))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        Endpoint.next_responses, Endpoint.seen = [], []
        https.tls_context.cache_clear()
        yield start
        https.tls_context.cache_clear()


def test_a_secret_is_read_over_verified_tls(https_endpoint: Callable[..., type[Endpoint]], tmp_path: Path) -> None:
    endpoint = https_endpoint()
    endpoint.next_responses = [(200, b'{"SecretString": "x"}')]
    assert secrets_manager.secret_value("name", "AWSCURRENT", "eu-central-1") == "x"
    for by, host in ((authority(tmp_path / "other.pem"), "127.0.0.1"), (authority(tmp_path / "ca.pem"), "db.example")):
        https.tls_context.cache_clear()
        endpoint = https_endpoint(by, host)
        with pytest.raises(aws.AwsError, match="cannot be reached: SSLCertVerificationError"):
            secrets_manager.secret_value("name", "AWSCURRENT", "eu-central-1")
    assert len(endpoint.seen) == 1, "no request was sent to a server that is not verified"


def test_the_tls_context_for_secrets_is_made_once_and_at_init(
    https_endpoint: Callable[..., type[Endpoint]], tmp_path: Path
) -> None:
    """Reading the system's authorities takes 16 ms of a processor, and an invocation has only a share of one."""
    endpoint = https_endpoint()
    endpoint.next_responses = [(200, b'{"SecretString": "x"}')] * 2
    program = f"""
import pathlib, handler.main
pathlib.Path({str(tmp_path / "ca.pem")!r}).unlink()  # from now on, reading the authorities fails
from handler.database.credentials import secrets_manager
from tests.support.client import call
assert call("GET", "/health/ready").status == 503  # "x" is not a secret of RDS
secrets_manager._requested.clear()
assert call("GET", "/health/ready").status == 503
"""
    environ = {"DATABASE_SECRET_ARN": "name", "AWS_REGION": "eu-central-1", "AUTH_MODE": "none", "DATABASE_URL": ""}
    subprocess.run([sys.executable, "-c", program], env=os.environ | environ, check=True, timeout=60)
    assert len(endpoint.seen) == 2


def test_the_repr_of_credentials_contains_no_secret() -> None:
    assert "SECRET" not in repr(aws.AwsCredentials("a", "SECRET", "SECRET"))


def test_an_unreachable_endpoint_is_an_aws_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", "http://127.0.0.1:1")
    with pytest.raises(aws.AwsError, match=r"127\.0\.0\.1 cannot be reached"):
        secrets_manager.secret_value("name", "AWSCURRENT", "eu-central-1")
