"""The settings of the service as pydantic models: names of the variables, types, limits, and rules between settings.

docs/configuration.md documents each of them.
"""

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from handler.settings.cors_origins import read_origins

AuthMode = Literal["none", "iam", "jwt"]
AUTH_MODES = get_args(AuthMode)
# Python's names and Lambda's (Lambda developer guide, "Log-level filtering").
LogLevel = Literal["NOTSET", "TRACE", "DEBUG", "INFO", "WARN", "WARNING", "ERROR", "FATAL", "CRITICAL"]
# `make ca-bundle` writes this file. Where it exists, only its certificates are trusted, unless a setting names another
# file.
CA_BUNDLE = Path(__file__).parents[1] / "ca-bundle.pem"

# Text for a login. PostgreSQL's protocol ends a user and a database with NUL, and SASLprep prohibits control characters
# in a password (RFC 4013, 2.3). A control character is usually a line end that was copied by mistake.
Text = Annotated[str, StringConstraints(pattern=r"^\P{Cc}*$")]
Port = Annotated[int, Field(ge=1, le=65535)]
TEXT = "a value without control characters, such as a line end"


def _in_url(part: str) -> AliasPath:
    return AliasPath("DATABASE_URL", part)


def _sslmode(mode: str) -> str:
    """In libpq, `require` encrypts and does not verify the certificate; here it is verify-full."""
    return {"require": "verify-full"}.get(mode, mode)


def _channel_binding(mode: str) -> bool | None:
    return {"prefer": False, "require": True}.get(mode)


def _log_level(level: str) -> str:
    """TRACE is DEBUG, as in Lambda's own runtime."""
    return {"TRACE": "DEBUG"}.get(level, level)


def _base_path(path: str) -> str:
    key = path.strip("/")
    return f"/{key}" if key else ""


class DatabaseSettings(BaseModel):
    """The address and the login of the database, and the limits of its connections. Times are in seconds.

    `host` is a folder when it starts with `/` (Unix socket). With a `secret_arn`, the secret has the values that are
    None here. Load balancers and NAT drop a connection that is silent for 350 s, so `recycle` is shorter.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, loc_by_alias=False)

    iam_auth: bool = Field(False, validation_alias="DATABASE_IAM_AUTH", description="true or false")
    secret_arn: Text | None = Field(
        None,
        validation_alias="DATABASE_SECRET_ARN",
        pattern=r"^(arn:[a-z-]+:secretsmanager:[a-z0-9-]+:[0-9]+:secret:.+|[\w/+=.@-]+)$",
        description="the ARN or the name of a secret in Secrets Manager",
    )
    region: Text | None = Field(
        None,
        validation_alias=AliasChoices("AWS_REGION", "AWS_DEFAULT_REGION"),
        description=TEXT,
        validate_default=True,
    )
    host: Text | None = Field(None, validation_alias=_in_url("host"), description=TEXT, validate_default=True)
    port: Port | None = Field(None, validation_alias=_in_url("port"), description="a number from 1 to 65535")
    user: Text | None = Field(None, validation_alias=_in_url("user"), description=TEXT)
    password: Text | None = Field(
        None, validation_alias=_in_url("password"), description=TEXT, repr=False, exclude=True
    )
    database: Text | None = Field(None, validation_alias=_in_url("dbname"), description=TEXT)
    application_name: Text | None = Field(None, validation_alias=_in_url("application_name"), description=TEXT)
    sslmode: Annotated[Literal["disable", "verify-ca", "verify-full"], BeforeValidator(_sslmode)] | None = Field(
        None, validation_alias=_in_url("sslmode"), description="one of disable, require, verify-ca, verify-full"
    )
    ca_bundle: Text | None = Field(
        default_factory=lambda: str(CA_BUNDLE) if CA_BUNDLE.exists() else None,
        validation_alias=AliasChoices("DATABASE_CA_BUNDLE", _in_url("sslrootcert")),
        description=TEXT,
        validate_default=True,
    )
    channel_binding: Annotated[bool, BeforeValidator(_channel_binding)] = Field(
        False, validation_alias=_in_url("channel_binding"), description="prefer or require"
    )
    # The user to whom migrations grant the right to read and change rows.
    api_user: Text | None = Field(
        None,
        validation_alias="DATABASE_API_USER",
        description="a name of at most 63 bytes, without control characters",
    )
    pool_size: int = Field(
        1, validation_alias="DATABASE_POOL_SIZE", ge=1, le=100, description="a whole number from 1 to 100"
    )
    # API Gateway waits for 30 s, so a wait of more than 20 s for a connection does not help a client.
    checkout_timeout: float = Field(
        3.0, validation_alias="DATABASE_CHECKOUT_TIMEOUT", ge=0.1, le=20, description="seconds from 0.1 to 20"
    )
    connect_timeout: float = Field(
        3.0,
        validation_alias=AliasChoices("DATABASE_CONNECT_TIMEOUT", _in_url("connect_timeout")),
        ge=0.1,
        le=20,
        description="seconds from 0.1 to 20",
    )
    idle_check: float = Field(
        1.0, validation_alias="DATABASE_IDLE_CHECK", ge=0, le=300, description="seconds from 0 to 300"
    )
    recycle: float = Field(
        300.0, validation_alias="DATABASE_RECYCLE", ge=1, le=3600, description="seconds from 1 to 3600"
    )

    # Validators of single fields, in the order of the fields. pydantic does not run a validator of the whole model
    # while a field has a problem, and not every problem would be reported.

    @field_validator("secret_arn")
    @classmethod
    def _credentials_have_one_source(cls, secret_arn: str | None, info: ValidationInfo) -> str | None:
        if secret_arn and info.data.get("iam_auth"):
            raise ValueError("and DATABASE_IAM_AUTH are both set: choose one")
        return secret_arn

    @field_validator("region")
    @classmethod
    def _signature_has_a_region(cls, region: str | None, info: ValidationInfo) -> str | None:
        if region is None and info.data.get("iam_auth"):
            raise ValueError("is not set, and DATABASE_IAM_AUTH needs it: write the region of the database")
        if region is None and not (info.data.get("secret_arn") or "arn:").startswith("arn:"):
            raise ValueError("is not set, and DATABASE_SECRET_ARN does not name it: write the region, or the whole ARN")
        return region

    @field_validator("host")
    @classmethod
    def _host_is_here_or_in_the_secret(cls, host: str | None, info: ValidationInfo) -> str | None:
        if host and host.startswith("/") and info.data.get("iam_auth"):
            raise ValueError("is a Unix socket, but DATABASE_IAM_AUTH needs TLS: name a host")
        return host or (None if info.data.get("secret_arn") else "localhost")

    @field_validator("password")
    @classmethod
    def _password_has_one_source(cls, password: str | None, info: ValidationInfo) -> str | None:
        for field, variable in (("iam_auth", "DATABASE_IAM_AUTH"), ("secret_arn", "DATABASE_SECRET_ARN")):
            if password and info.data.get(field):
                raise ValueError(f"is not used with {variable}, which has its own: remove it")
        return password

    @field_validator("sslmode")
    @classmethod
    def _token_is_not_sent_without_tls(cls, sslmode: str | None, info: ValidationInfo) -> str | None:
        if sslmode == "disable" and info.data.get("iam_auth"):
            raise ValueError("is disable, but DATABASE_IAM_AUTH needs TLS: remove it")
        return sslmode

    @field_validator("ca_bundle")
    @classmethod
    def _verify_ca_has_a_file(cls, ca_bundle: str | None, info: ValidationInfo) -> str | None:
        """As in libpq: with a public authority, anyone can get a certificate for a host of their own."""
        if info.data.get("sslmode") == "verify-ca" and ca_bundle in (None, "system"):
            raise ValueError(
                "names no file, but sslmode=verify-ca needs a CA file (sslrootcert or DATABASE_CA_BUNDLE):"
                " with the system's authorities use sslmode=verify-full"
            )
        return ca_bundle

    @field_validator("api_user")
    @classmethod
    def _name_is_not_cut(cls, api_user: str | None) -> str | None:
        if api_user and len(api_user.encode()) > 63:
            raise ValueError  # PostgreSQL would truncate the name to that of another user
        return api_user


class Settings(BaseModel):
    """The settings of the service."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, loc_by_alias=False)

    database: DatabaseSettings
    auth_mode: AuthMode = Field(validation_alias="AUTH_MODE", description="one of none, iam, jwt")
    # Whether the documentation and /health/live need no authorization.
    auth_public: bool = Field(False, validation_alias="AUTH_PUBLIC", description="true or false")
    log_level: Annotated[LogLevel, BeforeValidator(str.upper), AfterValidator(_log_level)] = Field(
        "INFO", validation_alias="LOG_LEVEL", description=f"one of {', '.join(get_args(LogLevel))}"
    )
    # The mapping key of a custom domain, as "/key": `key`, `/key` and `/key/` are the same.
    base_path: Annotated[str, AfterValidator(_base_path)] = Field(
        "",
        validation_alias="BASE_PATH",
        pattern=r"^/*([A-Za-z0-9_$.+!*'()-]+(/[A-Za-z0-9_$.+!*'()-]+)*/*)?$",
        description="the mapping key of a custom domain, such as shop or shop/v1",
    )
    cors_origins: tuple[str, ...] = Field(
        (), validation_alias="CORS_ORIGINS", description="origins with commas between, or *"
    )
    # The title of the API, and the namespace of its metrics, which alarms name.
    service_name: Text = Field(
        "API", validation_alias="SERVICE_NAME", min_length=1, max_length=255, description="a name, such as Orders"
    )
    require_if_match: bool = Field(False, validation_alias="REQUIRE_IF_MATCH", description="true or false")
    # How long, in seconds, an Idempotency-Key is kept.
    idempotency_ttl: int = Field(
        86_400,
        validation_alias="IDEMPOTENCY_TTL",
        ge=60,
        le=2_592_000,
        description="a whole number of seconds from 60 to 2592000",
    )

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _read_origins(cls, text: str) -> tuple[str, ...]:
        return read_origins(text)
