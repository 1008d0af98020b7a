# SPDX-License-Identifier: MIT
"""No setting is missing: the sample, the page, SHOW CONFIG and the parser have all."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pooler.config import loading, model, sample
from pooler.config.settings import Database, Peer, Settings, User, rows
from pooler.console.commands import SHOWS
from pooler.console.grammar import Command
from pooler.console.rows import Console

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "packaging" / "pooler.ini"


def test_the_sample_is_current() -> None:
    assert SAMPLE.read_text() == sample.render(), (
        "run: python -m pooler.config.sample > packaging/pooler.ini"
    )


def test_the_sample_says_the_defaults(tmp_path: Path) -> None:
    """With every setting uncommented, and as it is but for files that are not here."""
    text = SAMPLE.read_text()
    settings = {row.name for row in rows(Settings)}
    found = re.findall(r"^;(\w+) =", text, re.MULTILINE)
    main = text[text.index("[pgbouncer]") :]
    assert {name for name in found if f"\n;{name} =" in main} == settings
    spoken = re.sub(r"^;(\w+ =)", r"\1", main, flags=re.MULTILINE)
    unset = "\n".join(
        line for line in spoken.splitlines() if line.split(" = ")[-1] not in CHOSEN
    )
    config = loading.load_text(unset + "\nauth_type = any\n", "p.ini")
    for row in rows(Settings):
        if row.name not in ("auth_type", "conffile"):
            assert getattr(config.settings, row.name) == row.default, row.name
    users = tmp_path / "users"
    users.write_text("")
    as_it_is = text.replace("/etc/pooler/userlist.txt", str(users))
    assert loading.load_text(as_it_is, "p.ini").warnings == ()


CHOSEN = set(sample.CHOSEN.values())


def test_keys_of_entries_are_in_the_sample_and_on_the_page() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    for table in (Database, User, Peer):
        for row in rows(table):
            assert f";   {row.name}: " in SAMPLE.read_text()
            assert f"| `{row.name}`" in page
    for row in rows(Settings):
        assert f"| `{row.name}`" in page


@dataclass
class ConsoleStub:
    config: model.Config


def test_show_config_has_every_setting() -> None:
    config = loading.load_text("[pgbouncer]\nauth_type = any\n", "p.ini")
    console = cast("Console", ConsoleStub(config))

    async def ask() -> set[object]:
        answer = await SHOWS["CONFIG"].run(console, Command("SHOW", "CONFIG"))
        return {row[0] for row in answer.rows}

    assert asyncio.run(ask()) == {row.name for row in rows(Settings)}
