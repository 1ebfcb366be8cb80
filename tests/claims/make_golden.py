"""Makes the golden files of a claim, for a format that has none yet; `openssl` plays the time-stamping authority.

    python -m tests.claims.make_golden NEW-FOLDER

What lies in tests/golden is never made again: it shows that what was once written can be read.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from taggants.claims.timestamps import timestamp_request
from taggants.keys import KeySpec, create_key_file
from taggants.storage import Root
from tests.claims.claims import claim, signed_run
from tests.detection.test_certificate import certificate

ROOT_CONFIG = """[req]
distinguished_name=dn
prompt=no
x509_extensions=v3
[dn]
CN=Test root
[v3]
basicConstraints=critical,CA:TRUE
keyUsage=critical,keyCertSign
subjectKeyIdentifier=hash
"""
AUTHORITY_CONFIG = """[req]
distinguished_name=dn
prompt=no
[dn]
CN=Test time stamping
[v3]
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=critical,timeStamping
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
[authority]
serial=serial
signer_cert=authority.pem
signer_key=authority.key
certs=authority.pem
default_policy=1.2.3.4.1
digests=sha256
signer_digest=sha256
"""
KEY = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"


def token(request: bytes) -> tuple[bytes, bytes]:
    """Returns an authority's response to a request, and its root certificate in PEM form."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "root.cnf").write_text(ROOT_CONFIG)
        (folder / "authority.cnf").write_text(AUTHORITY_CONFIG)
        (folder / "serial").write_text("01")
        (folder / "request.tsq").write_bytes(request)
        for words in (
            f"req -x509 {KEY} -keyout root.key -out root.pem -days 36500 -config root.cnf",
            f"req {KEY} -keyout authority.key -out authority.csr -config authority.cnf",
            "x509 -req -in authority.csr -CA root.pem -CAkey root.key -CAcreateserial -out authority.pem -days 36500 "
            "-extfile authority.cnf -extensions v3",
            "ts -reply -queryfile request.tsq -out response.tsr -config authority.cnf -section authority",
        ):
            subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True)
        return (folder / "response.tsr").read_bytes(), (folder / "root.pem").read_bytes()


def main(destination: Path) -> None:
    destination.mkdir()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = signed_run(folder)
        response, root = token(timestamp_request(run.registration.canonical))
        files, here = claim(run, folder), Path(run.uri)
        (destination / "registration.tsr").write_bytes(response)
        (destination / "tsa-root.pem").write_bytes(root)
        for source, copied in (
            (files["registration"], "registration-2.json"),
            (files["certificate"], "certificate-3.json"),
            (files["all"], "disclosure-1-keys.json"),
            (files["secret"], "disclosure-1-secret.json"),
            (here / "signing.json", "signing-1.json"),
            (here / "commitment.json", "keys-commitment-1.json"),
            (folder / "secrets" / "digits.json", "key-file-2.json"),
        ):
            (destination / copied).write_bytes(source.read_bytes())
        (destination / "answers").mkdir()
        for path in files["answers"]:
            shutil.copyfile(path, destination / "answers" / path.name)
    spec = KeySpec(4, 10, 1, 16, "block", {"cell_size": 4})
    create_key_file(Root(str(destination)), "key-file-1.json", spec, bytes(range(32)))
    content = certificate().to_json()
    for copied, value in (("certificate-2.json", content), ("registration-1.json", content["registration"])):
        (destination / copied).write_text(json.dumps(value, indent=1) + "\n")
    for path in destination.rglob("*.*"):
        path.chmod(0o644)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
