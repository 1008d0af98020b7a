# SPDX-License-Identifier: MIT
"""Makes a scenario smaller as long as it still shows the same kind of difference."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.differential.messages import Exchange, Message, Query, Scenario

Shows = Callable[[Scenario], Scenario | None]
"""Whether a scenario (still) shows it: cut behind the exchange that does, or None."""


class _OutOfTime(Exception):
    pass


def shrink(scenario: Scenario, shows: Shows, deadline: float) -> Scenario:
    """The smallest scenario found before ``deadline`` (of ``time.monotonic``)."""
    best = scenario

    def attempt(candidate: Scenario) -> Scenario | None:
        nonlocal best
        if time.monotonic() > deadline:
            raise _OutOfTime
        found = shows(candidate)
        if found is not None:
            best = found
        return found

    before = None
    try:
        while before != best:
            before = best
            for sweep in SWEEPS:
                sweep(best, attempt)
            for step in STEPS:
                while any(attempt(candidate) for candidate in step(best)):
                    continue
    except _OutOfTime:
        pass
    return best


def _fewer_exchanges(scenario: Scenario, attempt: Shows) -> None:
    """Without a run of exchanges: halves, quarters … single ones, from the end."""
    size = len(scenario.exchanges) // 2
    while size:
        at = len(scenario.exchanges) - size
        while at >= 0:
            now = scenario.exchanges
            rest = now[:at] + now[at + size :]
            scenario = attempt(replace(scenario, exchanges=rest)) or scenario
            at = min(at, len(scenario.exchanges)) - size
        size //= 2


def _fewer_messages(scenario: Scenario, attempt: Shows) -> None:
    """Without single messages, from the end."""
    for at in reversed(range(len(scenario.exchanges))):
        if at >= len(scenario.exchanges):
            continue
        for gone in reversed(range(len(scenario.exchanges[at].messages))):
            one = scenario.exchanges[at]
            rest = one.messages[:gone] + one.messages[gone + 1 :]
            if rest:
                candidate = _with(scenario, at, replace(one, messages=rest, cuts=()))
                scenario = attempt(candidate) or scenario
            if at >= len(scenario.exchanges):
                break


def _fewer_clients(scenario: Scenario) -> Iterator[Scenario]:
    used = sorted({one.client for one in scenario.exchanges})
    if len(used) < len(scenario.logins):
        yield _with_clients(scenario, used)
    for gone in used:
        kept = [one for one in used if one != gone]
        if kept:
            # Somebody else says it, or nobody does.
            for heir in kept:
                yield replace(
                    scenario,
                    exchanges=tuple(
                        replace(one, client=heir if one.client == gone else one.client)
                        for one in scenario.exchanges
                    ),
                )


def _with_clients(scenario: Scenario, used: list[int]) -> Scenario:
    numbers = {old: new for new, old in enumerate(used)}
    return replace(
        scenario,
        logins=tuple(scenario.logins[old] for old in used),
        exchanges=tuple(
            replace(one, client=numbers[one.client]) for one in scenario.exchanges
        ),
    )


def _no_cuts(scenario: Scenario) -> Iterator[Scenario]:
    if any(one.cuts for one in scenario.exchanges):
        yield replace(
            scenario,
            exchanges=tuple(replace(one, cuts=()) for one in scenario.exchanges),
        )
    for at, one in enumerate(scenario.exchanges):
        for gone in range(len(one.cuts)):
            cuts = one.cuts[:gone] + one.cuts[gone + 1 :]
            yield _with(scenario, at, replace(one, cuts=cuts))


def _simpler_setting(scenario: Scenario) -> Iterator[Scenario]:
    if scenario.max_prepared_statements != 200:
        yield replace(scenario, max_prepared_statements=200)
    if scenario.pool_size != 1:
        yield replace(scenario, pool_size=1)
    for at, login in enumerate(scenario.logins):
        if login:
            logins = (*scenario.logins[:at], {}, *scenario.logins[at + 1 :])
            yield replace(scenario, logins=logins)


def _simpler_texts(scenario: Scenario) -> Iterator[Scenario]:
    for at, exchange in enumerate(scenario.exchanges):
        for place, one in enumerate(exchange.messages):
            for simpler in _simpler(one):
                messages = (
                    *exchange.messages[:place],
                    simpler,
                    *exchange.messages[place + 1 :],
                )
                changed = replace(exchange, messages=messages, cuts=())
                yield _with(scenario, at, changed)


def _simpler(one: Message) -> Iterator[Message]:
    """The message with less in it; each has less than the one that it replaces."""
    for size in (0, 1000, 20_000, 70_000):
        if size < getattr(one, "pad", 0):
            yield _changed(one, pad=size)
    for name in ("types", "formats", "results"):
        if getattr(one, name, ()):
            yield _changed(one, **{name: ()})
    if getattr(one, "rows", 0):
        yield _changed(one, rows=0)
    if isinstance(one, Query) and ";" in one.sql:
        commands = one.sql.split(";")
        for gone in range(len(commands)):
            rest = commands[:gone] + commands[gone + 1 :]
            yield replace(one, sql=";".join(rest).strip())


def _changed(one: Message, **fields: object) -> Message:
    """With other fields, which the message is known to have."""
    made: Message = dataclasses.replace(one, **fields)  # type: ignore[arg-type]
    return made


def _with(scenario: Scenario, at: int, exchange: Exchange) -> Scenario:
    rest = scenario.exchanges
    return replace(scenario, exchanges=(*rest[:at], exchange, *rest[at + 1 :]))


SWEEPS = (_fewer_exchanges, _fewer_messages)
STEPS = (_no_cuts, _fewer_clients, _simpler_setting, _simpler_texts)
