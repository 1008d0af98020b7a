# SPDX-License-Identifier: MIT
"""A real OpenLDAP server on free ports, with a few people in it."""

from __future__ import annotations

import base64
import glob
import os
import shutil
import subprocess
from pathlib import Path

from tests.certificates import Certificates
from tests.integration.harness import DEADLINE_S, HOST, free_port, wait_until

OTHER_HOST = "127.0.0.2"
SUFFIX = "dc=example,dc=net"
PEOPLE = f"ou=people,{SUFFIX}"
READER = f"uid=reader,{SUFFIX}"
READER_PASSWORD = "reader, secret"
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/libexec"

_CONFIG = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
pidfile {folder}/pid
modulepath {modules}
moduleload back_mdb
allow bind_anon_cred
TLSCACertificateFile {ca}
TLSCertificateFile {cert}
TLSCertificateKeyFile {key}
database mdb
suffix "{suffix}"
rootdn "cn=root,{suffix}"
directory {folder}/data
access to attrs=userPassword by anonymous auth by * none
access to dn.subtree="ou=hidden,{suffix}" by dn.exact="{reader}" read
access to * by * read
"""
_UNIT = "dn: {dn}\nobjectClass: organizationalUnit\n\n"
_PERSON = (
    "dn:: {dn}\nobjectClass: inetOrgPerson\nuid:: {uid}\nsn: x\ncn: x\n"
    "mail:: {mail}\nuserPassword:: {password}\n\n"
)
_REFERRAL = (
    "dn: {dn}\nobjectClass: referral\nobjectClass: extensibleObject\nref: {to}\n\n"
)


def is_installed() -> bool:
    """Whether the programs are here."""
    return all(shutil.which(name, path=PATH) for name in ("slapd", "slapadd"))


class Slapd:
    """It listens on ``port``, and by TLS on ``tls_port``, of HOST and OTHER_HOST.

    ``allow bind_anon_cred``: it takes a bind without a password for one of nobody and
    says that it has worked, as RFC 4513 once wanted it and some servers do.
    """

    def __init__(
        self,
        folder: Path,
        certificates: Certificates,
        people: dict[str, str],
        referral_to: str,
    ) -> None:
        self.port, self.tls_port = free_port(), free_port()
        (folder / "data").mkdir(parents=True)
        config, entries = folder / "slapd.conf", folder / "entries.ldif"
        (modules,) = glob.glob("/usr/lib/ldap") or glob.glob("/usr/lib*/openldap")
        config.write_text(
            _CONFIG.format(
                folder=folder,
                modules=modules,
                suffix=SUFFIX,
                reader=READER,
                ca=certificates.ca_file,
                cert=certificates.cert_file,
                key=certificates.key_file,
            )
        )
        entries.write_text(_entries(people, referral_to))
        given = ["-f", str(config)]
        added = subprocess.run(
            [_program("slapadd"), *given, "-l", str(entries)],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert added.returncode == 0, added.stderr
        urls = " ".join(
            (
                f"ldap://{HOST}:{self.port}",
                f"ldap://{OTHER_HOST}:{self.port}",
                f"ldaps://{HOST}:{self.tls_port}",
                f"ldaps://{OTHER_HOST}:{self.tls_port}",
            )
        )
        self._process = subprocess.Popen(
            [_program("slapd"), *given, "-h", urls, "-d", "0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until((folder / "pid").exists, "slapd serves")
        assert self._process.poll() is None

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(DEADLINE_S)
        finally:
            self._process.kill()


def _program(name: str) -> str:
    found = shutil.which(name, path=PATH)
    assert found is not None
    return found


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _person(uid: str, password: str, where: str) -> str:
    return _PERSON.format(
        dn=_coded(f"uid={uid.replace(',', chr(92) + ',')},{where}"),
        uid=_coded(uid),
        mail=_coded(f"{uid}@example.net".replace("ü", "ue")),
        password=_coded(password),
    )


def _entries(people: dict[str, str], referral_to: str) -> str:
    units = ["people", "hidden", "a", "b", "guests,ou=people"]
    parts = [f"dn: {SUFFIX}\nobjectClass: domain\ndc: example\n\n"]
    parts += [_UNIT.format(dn=f"ou={name},{SUFFIX}") for name in units]
    parts += [_person(*one, PEOPLE) for one in people.items()]
    parts += [
        _person(uid, "secret", f"ou={where},{SUFFIX}")
        for uid, where in (
            ("spy", "hidden"),
            ("guest", "guests,ou=people"),
            ("twin", "a"),
            ("twin", "b"),
        )
    ]
    parts.append(_person("reader", READER_PASSWORD, SUFFIX))
    parts.append(_REFERRAL.format(dn=f"ou=elsewhere,{SUFFIX}", to=referral_to))
    return "".join(parts)
