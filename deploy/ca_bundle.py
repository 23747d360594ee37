"""`make ca-bundle REGION=eu-central-1`: write the CA file that is shipped with the function.

It holds the authorities of one region's RDS instances (Amazon RDS user guide, "Certificate bundles by AWS Region") and
the five roots that Amazon Trust Services recommends for a trust store, to which the certificates of RDS Proxy chain.
Needs nothing but the standard library.
"""

import re
import ssl
import sys
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import urlopen

FILE = Path("handler/ca-bundle.pem")
RDS = "https://truststore.pki.rds.amazonaws.com"
RDS_ELSEWHERE = {  # by the beginning of the region's name
    "us-gov-": "https://truststore.pki.us-gov-west-1.rds.amazonaws.com",
    "cn-": "https://rds-truststore.s3.cn-north-1.amazonaws.com.cn",
}
AMAZON = [
    f"https://www.amazontrust.com/repository/{name}.pem"
    for name in ("AmazonRootCA1", "AmazonRootCA2", "AmazonRootCA3", "AmazonRootCA4", "SFSRootCAG2")
]
MAX_BYTES = 1024 * 1024
CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


class BundleError(Exception):
    """The file cannot be written. The message names the address that failed, and the reason."""


def addresses(region: str) -> list[str]:
    """The URLs of the certificates. Raises BundleError if `region` is not the name of a region."""
    if not re.fullmatch(r"[a-z]+(-[a-z]+)+-[0-9]+", region):
        raise BundleError("name the region of the database: make ca-bundle REGION=eu-central-1")
    rds = next((url for prefix, url in RDS_ELSEWHERE.items() if region.startswith(prefix)), RDS)
    return [f"{rds}/{region}/{region}-bundle.pem", *AMAZON]


def fetch(url: str) -> str:
    """Download the text at `url`. Raises BundleError."""
    try:
        with urlopen(url, timeout=30) as response:  # noqa: S310 - the addresses above, all of them https
            data: bytes = response.read(MAX_BYTES + 1)
    except (OSError, HTTPException) as error:
        raise BundleError(f"{url} cannot be fetched: {error}") from error
    if len(data) > MAX_BYTES:
        raise BundleError(f"{url} has more than {MAX_BYTES} bytes")
    return data.decode("ascii", "replace")


def authorities(url: str, text: str) -> list[str]:
    """The authorities in `text` that have not expired, each as PEM after a comment with its name.

    Raises BundleError if a certificate cannot be read or is not an authority's, and if no authority is left.
    """
    found = []
    for pem in CERTIFICATE.findall(text):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(cadata=pem)
        except (ssl.SSLError, ValueError) as error:
            raise BundleError(f"{url} has a certificate that cannot be read: {error}") from error
        if not context.get_ca_certs():  # get_ca_certs() returns only authorities
            raise BundleError(f"{url} has a certificate that is not an authority's")
        certificate: Any = context.get_ca_certs()[0]
        name = ", ".join(value for ((key, value),) in certificate["subject"] if key == "commonName")
        line = f"{name}, until {certificate['notAfter']}"
        if ssl.cert_time_to_seconds(certificate["notAfter"]) < time.time():
            print(f"ca-bundle: left out, because it has expired: {line}")
        else:
            found.append(f"# {line}\n{pem}\n")
    if not found:
        raise BundleError(f"{url} has no certificate of an authority")
    return found


def write(region: str, file: Path) -> int:
    """Replace `file` with the authorities of `region`, and return their number. Raises BundleError."""
    found = [pem for url in addresses(region) for pem in authorities(url, fetch(url))]
    new = file.with_suffix(".new")
    new.write_text("".join(found))
    new.replace(file)
    return len(found)


def main() -> None:
    try:
        number = write(sys.argv[1], FILE)
    except BundleError as error:
        sys.exit(f"ca-bundle: {error}")
    print(f"ca-bundle: {number} authorities are in {FILE}; commit it")


if __name__ == "__main__":
    main()
