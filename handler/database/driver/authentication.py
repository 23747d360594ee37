"""The authentication requests of a server that the driver accepts (docs/adr/0023).

pg8000 accepts every request at any time. A server could request the password in cleartext after it has begun SCRAM, or
omit the proof that it knows the password. PostgreSQL manual: 54.7 "Message Formats" has the requests, 54.2.1 "Start-up"
and 54.3 "SASL Authentication" their order.
"""

import re

from pg8000 import dbapi

from handler.database.driver.errors import driver_error

AUTHENTICATED, CLEARTEXT, MD5, SASL, SASL_CONTINUE, SASL_FINAL = 0, 3, 5, 10, 11, 12
# The requests that may follow each request; None is before the first.
NEXT_REQUESTS: dict[int | None, tuple[int, ...]] = {
    None: (AUTHENTICATED, CLEARTEXT, MD5, SASL),
    CLEARTEXT: (AUTHENTICATED,),
    MD5: (AUTHENTICATED,),
    SASL: (SASL_CONTINUE,),
    SASL_CONTINUE: (SASL_FINAL,),
    SASL_FINAL: (AUTHENTICATED,),
    AUTHENTICATED: (),
}
MAX_REQUEST = 2000  # bytes, as in libpq
SCRAM, SCRAM_PLUS = b"SCRAM-SHA-256", b"SCRAM-SHA-256-PLUS"
# The server chooses how often the password is hashed, and a deadline cannot interrupt that. This many take 0.2 s.
MAX_ITERATIONS = 600_000

_iterations = re.compile(rb",i=([0-9]+)").search


def check_request(
    data: bytes, previous: int | None, *, has_password: bool, is_verified: bool, channel_binding: bool
) -> tuple[int, bytes]:
    """Check the authentication request `data` that follows the request `previous`.

    `is_verified` means that the connection uses TLS and that the server's certificate was verified. The password is
    sent in cleartext or as MD5 only then. With `channel_binding`, the server must offer SCRAM with channel binding.

    Returns the code of the request, and the request with only the SASL mechanisms that the driver supports. Raises
    dbapi.OperationalError for a request that is out of order, and dbapi.InterfaceError for one that is not allowed.
    """
    code = int.from_bytes(data[:4])
    if code not in NEXT_REQUESTS[previous] or not 4 <= len(data) <= MAX_REQUEST:
        raise driver_error(
            "08P01", f"the server sent an authentication request out of order, or an unknown one: {code}"
        )
    if code in (CLEARTEXT, MD5, SASL) and not has_password:
        raise dbapi.InterfaceError("the server asks for a password, and there is none")
    if channel_binding and previous is None and code != SASL:
        raise dbapi.InterfaceError("channel_binding=require, and the server does not use SCRAM")
    if code in (CLEARTEXT, MD5) and not is_verified:
        raise dbapi.InterfaceError(
            "the server asks for the password in cleartext or as MD5, and the connection has no verified TLS"
        )
    if code == SASL:
        supported = [name for name in data[4:].split(b"\x00") if name in (SCRAM, SCRAM_PLUS)]
        if channel_binding and not (is_verified and SCRAM_PLUS in supported):
            raise dbapi.InterfaceError("channel_binding=require, and the server does not offer channel binding")
        if not supported:
            raise dbapi.InterfaceError("the server offers neither SCRAM-SHA-256 nor SCRAM-SHA-256-PLUS")
        data = data[:4] + b"\x00".join(supported) + b"\x00\x00"
    if code == SASL_CONTINUE and (found := _iterations(data)) and int(found[1]) > MAX_ITERATIONS:
        raise dbapi.InterfaceError(f"the server asks for more than {MAX_ITERATIONS} iterations of SCRAM")
    return code, data
