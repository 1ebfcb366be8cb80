"""Timestamps: somebody else's word that a number was there at a time. Requests are made, and answers are read, without a network.

The number is the SHA-256 over the canonical JSON of a registration or of a signing record. An RFC 3161 token is a time-stamping
authority's signature over it (`rfc3161-client`, an extra); an OpenTimestamps proof leads from it to a block of Bitcoin, which its
own program `ots` checks.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from taggants.errors import InputError
from taggants.storage import Root
from taggants.text import one_line

_MOST_BYTES: Final = 2**20
_MOST_SECONDS: Final = 60


@dataclass(frozen=True)
class Timestamp:
    """A file that dates a number.

    Attributes:
        name: of the file, as findings name it. One that ends in .ots is an OpenTimestamps proof, any other an RFC 3161 response.
        data: its bytes.
        roots: certificates in PEM form that a time-stamping authority is trusted by.
    """

    name: str
    data: bytes
    roots: tuple[bytes, ...] = ()


def timestamp_request(content: bytes) -> bytes:
    """Returns an RFC 3161 request, DER, for a token over the SHA-256 of the content; what a time-stamping authority answers is a
    .tsr file.

    Raises:
        InputError: rfc3161-client is not installed.
    """
    client = _client()
    builder = client.TimestampRequestBuilder().data(content).hash_algorithm(client.HashAlgorithm.SHA256)
    request: bytes = builder.nonce(nonce=False).cert_request(cert_request=True).build().as_bytes()
    return request


def check_timestamp(
    timestamp: Timestamp, numbers: Mapping[str, str], tested_at: datetime | None
) -> tuple[bool | None, str]:
    """Returns whether a timestamp holds for one of some numbers, and a sentence that names the time.

    None: a program or certificate is missing that would tell.

    Args:
        numbers: what they are of, to 64 hex digits.
        tested_at: the time of the test, aware; a later stamp of the registration is refused. None: it is not known.

    Raises:
        InputError: the file is none of the known kinds, or rfc3161-client is not installed.
    """
    if len(timestamp.data) > _MOST_BYTES:
        raise InputError(f"it is longer than {_MOST_BYTES} bytes, so it is no timestamp")
    if timestamp.name.endswith(".ots"):
        return _check_ots(timestamp, numbers, tested_at)
    return _check_token(timestamp, numbers, tested_at)


def _check_token(
    timestamp: Timestamp, numbers: Mapping[str, str], tested_at: datetime | None
) -> tuple[bool | None, str]:
    client = _client()
    try:
        response = client.decode_timestamp_response(timestamp.data)
        info = response.tst_info
        imprint, time = info.message_imprint.message.hex(), info.gen_time
    except Exception:  # of several kinds, as the library's parser finds them
        raise InputError("it is no RFC 3161 response; give the .tsr file of the time-stamping authority") from None
    dated = time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    said = f"{dated:%Y-%m-%d %H:%M:%S} UTC"
    named = next((name for name, number in numbers.items() if number == imprint), None)
    if named is None:
        return False, f"it dates {imprint}, which is not the number of {' or '.join(numbers)}"
    if tested_at is not None and dated > tested_at:
        return False, f"{named} is dated {said}, after the test at {tested_at:%Y-%m-%d %H:%M:%S} UTC"
    if not timestamp.roots:
        return (
            None,
            f"it says that {named} was there at {said}; --tsa-root with the authority's root certificate tells if so",
        )
    builder = client.VerifierBuilder()
    for certificate in _certificates(timestamp.roots):
        builder = builder.add_root_certificate(certificate)
    try:
        builder.build().verify(response, bytes.fromhex(imprint))
    except Exception as error:  # VerificationError, and what its libraries raise for damaged certificates
        return False, f"its signature does not hold under --tsa-root ({str(error)[:200]})"
    return True, f"{named} was there at {said}, signed by the authority"


def _certificates(roots: tuple[bytes, ...]) -> list[Any]:
    from cryptography import x509

    try:
        found = [certificate for pem in roots for certificate in x509.load_pem_x509_certificates(pem)]
    except ValueError:
        raise InputError("--tsa-root holds no certificate in PEM form; give the authority's root certificate") from None
    return list(dict.fromkeys(found))


def is_dated_by(timestamp: Timestamp, number: str) -> bool:
    """Returns whether a timestamp is of a number, 64 hex digits, whoever signed it; False where it cannot be read."""
    if timestamp.name.endswith(".ots"):  # a proof begins with 33 bytes of header and kind, then the hash
        return bytes.fromhex(number) in timestamp.data[:100]
    try:
        imprint = _client().decode_timestamp_response(timestamp.data).tst_info.message_imprint.message
    except Exception:  # as in `_check_token`, which says why
        return False
    return bool(imprint.hex() == number)


def _dated_by_ots(name: str, said: str, tested_at: datetime | None) -> tuple[bool | None, str]:
    text = f"ots verify says of {name}: {said}"
    found = re.search(r"as of ([0-9]{4}-[0-9]{2}-[0-9]{2})", said)
    if found is None:
        return None, f"{text}; compare its date with that of the test"
    if tested_at is not None and found[1] > f"{tested_at + timedelta(days=1):%Y-%m-%d}":  # ots names the local day
        return False, f"{text}, which is after the test at {tested_at:%Y-%m-%d %H:%M:%S} UTC"
    return True, text


def _check_ots(timestamp: Timestamp, numbers: Mapping[str, str], tested_at: datetime | None) -> tuple[bool | None, str]:
    program = shutil.which("ots")
    if program is None:
        return None, "the program ots is not installed (pip install opentimestamps-client); it reads this proof"
    with tempfile.TemporaryDirectory() as folder:
        root = Root(folder)
        root.write_bytes("proof.ots", timestamp.data)
        said = ""
        for name, number in numbers.items():
            try:
                done = subprocess.run(
                    [program, "verify", "-d", number, root.uri_of("proof.ots")],
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=_MOST_SECONDS,
                )
            except subprocess.TimeoutExpired:
                return None, f"ots gave no answer in {_MOST_SECONDS} s"
            said = one_line(" ".join((done.stdout + done.stderr).split())[-200:])
            if done.returncode == 0:
                return _dated_by_ots(name, said, tested_at)
    return False, f"ots verify refuses it: {said}"


def _client() -> Any:
    try:
        import rfc3161_client
    except ImportError:
        raise InputError("timestamps need the package rfc3161-client; pip install 'taggants[timestamps]'") from None
    return rfc3161_client
