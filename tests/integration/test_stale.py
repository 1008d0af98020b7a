# SPDX-License-Identifier: MIT
"""Stale statements before a real PostgreSQL, compared with PostgreSQL straight.

A server keeps what all clients share, and tables change behind the pooler's back. A
repeat may never do anything twice, and a client that has just prepared never meets what
was prepared before it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import DATABASE, USER, InProcess, MakePooler, Pooler
from tests.wire_client import (
    FLUSH,
    SYNC,
    Message,
    WireClient,
    bind,
    codes,
    describe,
    execute,
    message,
    parse,
    query,
    text,
)

pytestmark = pytest.mark.timeout(60)

INT8, FLOAT4, TEXT = 20, 700, 25
STALE = "cached plan must not change result type"
TABLE = """
        CREATE TABLE stale (a int, b text, c int);
        INSERT INTO stale VALUES (1, 'one', 11), (2, 'two', 22);
"""


def typed_parse(sql: str, name: str, *types: int) -> bytes:
    """Parse with parameter types."""
    return message(
        "P",
        text(name) + text(sql) + struct.pack(f"!H{len(types)}I", len(types), *types),
    )


def bind_formats(formats: int, *values: bytes, statement: str = "") -> bytes:
    """Bind whose results are wanted in binary, one format for each column."""
    parameters = b"".join(struct.pack("!i", len(one)) + one for one in values)
    return message(
        "B",
        text("")
        + text(statement)
        + struct.pack("!HH", 0, len(values))
        + parameters
        + struct.pack(f"!H{formats}H", formats, *[1] * formats),
    )


def told(answer: list[Message]) -> list[object]:
    """What an answer says, without what may differ: places in PostgreSQL's sources."""
    return [
        {key: one.fields[key] for key in "SCM"} if one.code == "E" else one
        for one in answer
        if one.code != "N"
    ]


def straight(postgres: Postgres) -> WireClient:
    return WireClient(postgres.port).login(USER, DATABASE)


@pytest.fixture
def tables(postgres: Postgres) -> Iterator[Postgres]:
    """A table of the clients' user, a sequence, and functions that fail."""
    made = f"""{TABLE}        CREATE SEQUENCE done;
        CREATE FUNCTION fails(state text, said text) RETURNS int LANGUAGE plpgsql AS $$
        BEGIN PERFORM nextval('done'); RAISE EXCEPTION USING
        ERRCODE = state, MESSAGE = said; END $$;
        CREATE FUNCTION does(command text) RETURNS int LANGUAGE plpgsql AS $$
        BEGIN PERFORM nextval('done'); EXECUTE command; RETURN 1; END $$;
    """
    with straight(postgres) as client:
        assert "E" not in codes(client.ask(query(made)))
        yield postgres
        client.ask(
            query(
                "DROP TABLE IF EXISTS stale; DROP SEQUENCE IF EXISTS done;"
                " DROP FUNCTION fails, does"
            )
        )


def change(postgres: Postgres, sql: str) -> None:
    """What the pooler does not see."""
    with straight(postgres) as client:
        assert "E" not in codes(client.ask(query(sql)))


def done(postgres: Postgres) -> int:
    """How often the sequence was advanced; begins anew."""
    ((count,),) = postgres.psql(
        "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM done", DATABASE
    )
    postgres.psql("ALTER SEQUENCE done RESTART", DATABASE)
    return int(count)


@pytest.fixture
def pooler(worker_in_process: Callable[..., InProcess], tables: Postgres) -> InProcess:
    """One server, so that everybody meets what the others have prepared."""
    return worker_in_process(default_pool_size=1)


# ------------------------------------------------------------ nothing twice


TEXTS = (
    ("26000", 'prepared statement "pooler_0_1" does not exist'),
    ("26000", "FetchPreparedStatement"),
    ("0A000", STALE),
    ("0A000", "RevalidateCachedQuery"),
    ("22012", "pooler_0_2"),
)


@pytest.mark.parametrize("form", ["simple", "extended", "flush", "pipeline"])
@pytest.mark.parametrize(("state", "said"), TEXTS)
def test_an_error_from_what_was_executed_is_no_stale_plan(
    pooler: InProcess, tables: Postgres, state: str, said: str, form: str
) -> None:
    sql = f"SELECT fails('{state}', '{said}')"
    with pooler.client() as client:
        client.ask(parse(sql, "a"), SYNC)
        for _ in range(2):
            if form == "simple":
                answer = client.ask(query("EXECUTE a"))
            elif form == "flush":
                client.send(bind(statement="a"), execute(), FLUSH)
                answer = client.read_until("E")
                client.ask(SYNC)
            else:
                answer = client.ask(bind(statement="a"), execute(), SYNC)
            if form == "pipeline":
                client.send(bind(statement="a"), execute(), SYNC, query("SELECT 1"))
                client.read_until("Z")
                client.read_until("Z")
            [error] = [one.fields for one in answer if one.code == "E"]
            assert error["C"] == state
            assert done(tables) == (2 if form == "pipeline" else 1)


@pytest.mark.parametrize("form", ["simple", "explain", "extended"])
@pytest.mark.parametrize("missing", [False, True])
def test_a_stale_execute_inside_a_function(
    pooler: InProcess, tables: Postgres, form: str, missing: bool
) -> None:
    """PostgreSQL's own error, of its own routine, from inside what was executed."""
    with pooler.client() as client:
        client.ask(query("DO $$ BEGIN EXECUTE 'PREPARE hidden AS TABLE stale'; END $$"))
        client.ask(parse("SELECT does('EXECUTE hidden')", "a"), SYNC)
        if missing:
            client.ask(query("DO $$ BEGIN EXECUTE 'DEALLOCATE hidden'; END $$"))
        else:
            change(tables, "ALTER TABLE stale ADD COLUMN d int")
        done(tables)
        asked = {
            "simple": query("EXECUTE a"),
            "explain": query("EXPLAIN ANALYZE EXECUTE a"),
            "extended": bind(statement="a") + execute() + SYNC,
        }
        [error] = [one.fields for one in client.ask(asked[form]) if one.code == "E"]
        assert error["C"] == ("26000" if missing else "0A000")
        assert "W" in error
        assert done(tables) == 1


@pytest.mark.parametrize(
    "argument",
    [
        "nextval('done')",
        "nextval ('done')",
        "1 + nextval('done'), 2",
        "does('SELECT 1')",
        "\"does\"('SELECT 1')",
        "/* ( */ nextval('done')",
        "CASE WHEN true THEN nextval('done') END",
    ],
)
def test_arguments_of_a_stale_execute_run_once(
    pooler: InProcess, tables: Postgres, argument: str
) -> None:
    """PostgreSQL evaluates them before it finds that the plan is stale."""
    more = ", $2::int8" if ", 2" in argument else ""
    with pooler.client() as client:
        client.ask(query(f"PREPARE a AS SELECT *, $1::int8{more} FROM stale"))
        change(tables, "ALTER TABLE stale DROP COLUMN c")
        done(tables)
        answer = client.ask(query(f"EXECUTE a({argument})"))
        assert done(tables) == 1
        [error] = [one.fields for one in answer if one.code == "E"]
        assert error["M"] == STALE


@pytest.mark.parametrize("argument", ["1", "NULL", "'1'", "- 1", "+1::int8", "1.0e0"])
def test_an_execute_of_values_is_repeated(
    pooler: InProcess, tables: Postgres, argument: str
) -> None:
    with pooler.client() as client:
        client.ask(query("PREPARE a AS SELECT *, $1::int8 FROM stale"))
        change(tables, "ALTER TABLE stale DROP COLUMN c")
        assert codes(client.ask(query(f"EXECUTE a ({argument});"))) == "TDDCZ"


def test_an_execute_of_an_execute_is_not_repeated(
    pooler: InProcess, tables: Postgres
) -> None:
    """The inner one has evaluated its arguments when its plan is found to be stale."""
    with pooler.client() as client:
        client.ask(query("PREPARE b AS SELECT *, $1::int8 FROM stale"))
        client.ask(parse("EXECUTE b(nextval('done'))", "a"), SYNC)
        client.ask(query("EXECUTE a"))
        change(tables, "ALTER TABLE stale DROP COLUMN c")
        done(tables)
        client.ask(query("EXECUTE a"))
        assert done(tables) == 1


@pytest.mark.parametrize("before", [0, 1, 2])
def test_work_in_front_of_a_stale_plan_is_done_once(
    pooler: InProcess, tables: Postgres, before: int
) -> None:
    """In whatever position of a batch."""
    work = parse("SELECT nextval('done')", "w")
    with pooler.client() as client:
        client.ask(work, parse("SELECT * FROM stale", "a"), SYNC)
        change(tables, "ALTER TABLE stale DROP COLUMN c")
        answer = client.ask(
            *[bind(statement="w") + execute()] * before,
            bind(statement="a") + execute(),
            bind(statement="w") + execute(),
            SYNC,
        )
        assert done(tables) == (before or 1)
        assert ("E" in codes(answer)) == (before > 0)


# ------------------------------------------------------------ one format a column


@pytest.mark.parametrize("also", [b"", describe()], ids=["bare", "described"])
@pytest.mark.parametrize(
    "changed", ["DROP COLUMN c", "ADD COLUMN d int", "ALTER COLUMN b TYPE varchar"]
)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_format_for_each_column(
    worker_in_process: Callable[..., InProcess],
    tables: Postgres,
    changed: str,
    also: bytes,
    elsewhere: bool,
) -> None:
    """Who binds so knows the columns: it hears 0A000, as drivers wait for."""
    pooler = worker_in_process(default_pool_size=2)
    asked = bind_formats(3, statement="a") + also + execute() + SYNC
    with (
        pooler.client() as client,
        pooler.client() as other,
        straight(tables) as alone,
    ):
        for one in (client, alone):
            one.ask(parse("SELECT * FROM stale", "a"), describe("a", "S"), SYNC)
            assert "E" not in codes(one.ask(asked))
        change(tables, f"ALTER TABLE stale {changed}")
        if elsewhere:
            other.ask(query("BEGIN"))
        answers = [told(one.ask(asked)) for one in (client, alone)]
        assert answers[0] == answers[1]
        # As a driver does then: it prepares anew, under another name or the same.
        for one in (client, alone):
            said = one.ask(
                message("C", b"Sa\0"),
                parse("SELECT * FROM stale", "a"),
                describe("a", "S"),
                SYNC,
            )
            assert codes(said) == "31tTZ"


def test_a_format_for_each_column_behind_a_parse(
    pooler: InProcess, tables: Postgres
) -> None:
    """It is parsed by PostgreSQL then, which knows today's columns."""
    asked = (parse("SELECT * FROM stale", "a"), bind_formats(2, statement="a"))
    with pooler.client() as client, pooler.client() as other:
        client.ask(parse("SELECT * FROM stale", "a"), SYNC)
        change(tables, "ALTER TABLE stale DROP COLUMN c")
        assert codes(other.ask(*asked, execute(), SYNC)) == "12DDCZ"


@pytest.mark.parametrize("rows", ["a", "b"])
@pytest.mark.parametrize("reads", [False, True], ids=["nobody", "parsed-anew"])
def test_a_value_in_binary_is_never_read_as_another_type(
    pooler: InProcess, tables: Postgres, rows: str, reads: bool
) -> None:
    """It is sent as the type that its client was told; four bytes are four bytes."""
    sql = f"SELECT {rows} FROM stale WHERE a = $1"
    asked = (
        message(
            "B",
            text("") + text("n") + struct.pack("!HHHiiH", 1, 1, 1, 4, 1, 0),
        )
        + describe()
        + execute()
        + SYNC
    )
    with pooler.client() as client, straight(tables) as alone:
        for one in (client, alone):
            one.ask(parse(sql, "n"), describe("n", "S"), SYNC)
            assert codes(one.ask(asked)) == "2TDCZ"
        change(tables, "ALTER TABLE stale ALTER COLUMN a TYPE float4")
        if reads:
            with pooler.client() as other:
                other.ask(parse(sql, "n"), describe("n", "S"), SYNC)
        ours, right = told(client.ask(asked)), told(alone.ask(asked))
        if ours != right:  # as if its rows had changed: it prepares anew
            assert reads
            assert rows == "b"
            assert {"S": "ERROR", "C": "0A000", "M": STALE} in ours


# ------------------------------------------------------------ a known text

BY_A = "SELECT * FROM stale WHERE a = $1"
CHANGES = {
    "column": "ALTER TABLE stale DROP COLUMN c",
    "result": "ALTER TABLE stale ALTER COLUMN c TYPE text",
    "parameter": "ALTER TABLE stale ALTER COLUMN a TYPE text",
    "silent": "ALTER TABLE stale ALTER COLUMN a TYPE float8",
    "gone": "DROP TABLE stale",
    "none": "SELECT 1",
}


def value_of(changed: str) -> bytes:
    return b"one" if changed == "parameter" else b"2"


FORMS: dict[str, Callable[[bytes], tuple[bytes, ...]]] = {
    "describe": lambda v: (parse(BY_A, "n") + describe("n", "S") + SYNC,),
    "describe, bind": lambda v: (
        parse(BY_A, "n") + describe("n", "S") + SYNC,
        bind(v, statement="n") + execute() + SYNC,
    ),
    "flush": lambda v: (
        parse(BY_A, "n") + describe("n", "S") + FLUSH + SYNC,
        bind(v, statement="n") + describe() + execute() + SYNC,
    ),
    "at once": lambda v: (
        parse(BY_A, "n") + bind(v, statement="n") + describe() + execute() + SYNC,
    ),
    "at once, typed": lambda v: (
        typed_parse("SELECT *, $1::text FROM stale", "n", TEXT)
        + bind(v, statement="n")
        + describe()
        + execute()
        + SYNC,
    ),
    "no values": lambda v: (
        parse("SELECT * FROM stale", "n") + bind(statement="n") + execute() + SYNC,
    ),
    "alone, then bind": lambda v: (
        parse(BY_A, "n") + SYNC,
        bind(v, statement="n") + describe() + execute() + SYNC,
    ),
    "alone, then describe": lambda v: (
        parse(BY_A, "n") + SYNC,
        describe("n", "S") + SYNC,
        bind(v, statement="n") + execute() + SYNC,
    ),
    "in a transaction": lambda v: (
        query("BEGIN"),
        parse(BY_A, "n") + SYNC,
        bind(v, statement="n") + describe() + execute() + SYNC,
        query("ROLLBACK"),
    ),
    "behind work": lambda v: (
        parse("SELECT 1")
        + bind()
        + execute()
        + parse("SELECT * FROM stale", "n")
        + bind(statement="n")
        + execute()
        + SYNC,
    ),
    "two": lambda v: (
        parse("SELECT * FROM stale", "n")
        + bind(statement="n")
        + execute()
        + parse("SELECT *, $1::text FROM stale", "m")
        + bind(v, statement="m")
        + describe()
        + execute()
        + SYNC,
    ),
    "again": lambda v: (
        parse("SELECT * FROM stale", "n")
        + bind(statement="n")
        + execute()
        + bind(statement="n")
        + describe("n", "S")
        + execute()
        + SYNC,
    ),
}
KNOWN = (
    parse(BY_A, "k1"),
    typed_parse("SELECT *, $1::text FROM stale", "k2", TEXT),
    parse("SELECT * FROM stale", "k3"),
    parse("SELECT *, $1::text FROM stale", "k4"),
)


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
@pytest.mark.parametrize("form", FORMS)
def test_a_known_text_is_prepared_as_if_it_were_new(
    pooler: InProcess, tables: Postgres, form: str, split: bool
) -> None:
    """Whatever has changed, every new client is answered as by PostgreSQL."""
    for changed, sql in CHANGES.items():
        with pooler.client() as first:
            assert codes(first.ask(*KNOWN, SYNC)) == "1111Z"
            for name in ("k1", "k2", "k3", "k4"):
                first.ask(describe(name, "S"), SYNC)
        change(tables, sql)
        asked = FORMS[form](value_of(changed))
        for _ in range(2):  # the second time behind a server that was put right
            with pooler.client() as client, straight(tables) as alone:
                ours = answers_to(client, asked, 7 if split else 0)
                right = answers_to(alone, asked)
            if form.startswith("alone") and changed == "gone":
                # That the table is gone is heard with the first use of the name.
                assert "42P01" in str(ours)
            else:
                assert ours == right, changed
        change(tables, f"DROP TABLE IF EXISTS stale; {TABLE}")


def answers_to(
    client: WireClient, asked: tuple[bytes, ...], split: int = 0
) -> list[object]:
    """What a client is told, which asks one after the other."""
    answers: list[object] = []
    for raw in asked:
        client.send_split(raw, split or len(raw))
        for _ in range(raw.count(SYNC) or 1):
            answers += told(client.read_until("Z"))
    return answers


def test_a_batch_that_waits_for_the_proof(pooler: InProcess, tables: Postgres) -> None:
    """What is sent behind the batch is not carried out before it may be repeated."""
    sql = "SELECT * FROM stale"
    with pooler.client() as first:
        first.ask(parse(sql, "k"), SYNC)
    change(tables, "ALTER TABLE stale DROP COLUMN c")
    with pooler.client() as client:
        client.send(
            *(parse(sql, "n"), bind(statement="n"), execute(), SYNC),
            *(bind(statement="n"), execute(), SYNC),
            query("SELECT 1"),
        )
        assert codes(client.read_until("Z")) == "12DDCZ"
        assert codes(client.read_until("Z")) == "2DDCZ"
        assert codes(client.read_until("Z")) == "TDCZ"


@pytest.mark.parametrize("count", [2, 400])
@pytest.mark.parametrize("size", [10, 4000, 30_000])
def test_a_long_batch_behind_a_known_text(
    pooler: InProcess, tables: Postgres, count: int, size: int
) -> None:
    """Longer than what is kept to be sent again."""
    sql = "SELECT *, $1::text FROM stale"
    with pooler.client() as first:
        first.ask(typed_parse(sql, "k", TEXT), SYNC)
    change(tables, "ALTER TABLE stale DROP COLUMN c")
    with pooler.client() as client:
        each = bind(b"v" * size, statement="n") + execute()
        said = client.ask(typed_parse(sql, "n", TEXT), each * count, SYNC)
        assert codes(said) == "1" + "2DDC" * count + "Z"


def test_parameters_are_told_once(pooler: InProcess, tables: Postgres) -> None:
    """Of an older name, whose Describe is repeated."""
    sql = "SELECT *, $1::text FROM stale"
    with pooler.client() as client:
        client.ask(parse(sql, "a"), SYNC)
        client.ask(bind(b"x", statement="a"), execute(), SYNC)
        change(tables, "ALTER TABLE stale DROP COLUMN c")
        assert codes(client.ask(describe("a", "S"), SYNC)) == "tTZ"
        asked = bind_formats(3, b"x", statement="a") + execute() + SYNC
        assert codes(client.ask(asked)) == "2DDCZ"
        change(tables, "ALTER TABLE stale ADD COLUMN e int")
        said = client.ask(asked)
        assert [one.fields["M"] for one in said if one.code == "E"] == [STALE]


@pytest.mark.parametrize("columns", [200, 1000, 1600])
def test_rows_of_many_columns(
    worker_in_process: Callable[..., InProcess], tables: Postgres, columns: int
) -> None:
    """Their description is longer than a read: it is known all the same."""
    pooler = worker_in_process(default_pool_size=2)
    names = [f"{'c' * 58}{i:05}" for i in range(columns)]
    sql = "SELECT " + ", ".join(f"{i} AS {name}" for i, name in enumerate(names))
    asked = bind(statement="a") + execute() + SYNC
    with pooler.client() as client, pooler.client() as other:
        assert codes(client.ask(parse(sql, "a"), describe("a", "S"), SYNC)) == "1tTZ"
        for begin in (True, False) * 2:
            other.ask(query("BEGIN" if begin else "COMMIT"))
            assert codes(client.ask(asked)) == "2DCZ"
            assert codes(client.ask(describe("a", "S"), SYNC)) == "tTZ"


def test_parameters_of_many_types(
    worker_in_process: Callable[..., InProcess], tables: Postgres
) -> None:
    """Their description is longer than what may be held."""
    pooler = worker_in_process(default_pool_size=2)
    count = 20_000
    sql = "SELECT 1 WHERE 0 = ANY(ARRAY[{}]::int[])".format(
        ", ".join(f"${i + 1}" for i in range(count))
    )
    asked = bind(*[b"1"] * count, statement="a") + execute() + SYNC
    with pooler.client() as client, pooler.client() as other:
        assert codes(client.ask(parse(sql, "a"), describe("a", "S"), SYNC)) == "1tTZ"
        for begin in (True, False):
            other.ask(query("BEGIN" if begin else "COMMIT"))
            assert codes(client.ask(asked)) == "2CZ"
            assert codes(client.ask(describe("a", "S"), SYNC)) == "tTZ"


# ------------------------------------------------------------ changes that are seen

CHOOSES = typed_parse("SELECT chosen($1::int)", "n", 23)


def chosen(pooler: InProcess | Pooler, clients: int = 16) -> set[bytes | None]:
    """What new clients, of all workers, get from a text that all of them prepare."""
    found = set()
    for _ in range(clients):
        with pooler.client() as client:
            read = client.ask(CHOOSES, bind(b"1", statement="n"), execute(), SYNC)
            found |= {one.row[0] for one in read if one.code == "D"}
            assert codes(read) == "12DCZ"
    return found


def make_chosen(of: str) -> str:
    """PostgreSQL prefers that of int, if it is there when a text is read."""
    return (
        f"CREATE FUNCTION chosen({of}) RETURNS text LANGUAGE sql AS $$ SELECT '{of}' $$"
    )


@pytest.fixture
def overloads(postgres: Postgres) -> Iterator[Postgres]:
    change(postgres, make_chosen("float8"))
    yield postgres
    change(
        postgres,
        "DROP FUNCTION chosen(float8), chosen(int)",
    )


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("form", ["alone", "do", "batch", "many", "transaction"])
def test_a_change_is_seen_by_all_workers(
    make_pooler: MakePooler, overloads: Postgres, workers: int, form: str
) -> None:
    pooler = make_pooler(default_pool_size=2 * workers, workers=workers)
    assert chosen(pooler) == {b"float8"}
    made = make_chosen("int")
    with pooler.client() as client, pooler.client() as other:
        other.ask(query("SELECT 1"))
        if form == "alone":
            client.ask(query(made))
        elif form == "do":
            client.ask(query(f"DO $do$ BEGIN EXECUTE $made${made}$made$; END $do$"))
        elif form == "batch":
            client.ask(parse(made), bind(), execute(), SYNC)
        elif form == "many":
            client.ask(query(f"SELECT 1; {made}; SELECT 1"))
        else:
            client.ask(query("BEGIN"))
            client.ask(query(made))
            assert chosen(pooler) == {b"float8"}
            client.ask(query("SELECT 1"))
            assert chosen(pooler) == {b"float8"}
            client.ask(query("COMMIT"))
        assert chosen(pooler) == {b"int"}


# ------------------------------------------------------------ on another server


class Turns:
    """Two servers of which one is held: after each turn clients get the other one."""

    def __init__(self, pooler: InProcess) -> None:
        self.pooler = pooler
        self._pair = [pooler.client() for _ in range(2)]
        self._pair[0].ask(query("BEGIN"))

    def turn(self) -> None:
        holding, idle = self._pair
        idle.ask(query("BEGIN"))
        holding.ask(query("COMMIT"))
        self._pair.reverse()

    def close(self) -> None:
        for client in self._pair:
            client.close()


@pytest.fixture
def turns(
    worker_in_process: Callable[..., InProcess], tables: Postgres
) -> Iterator[Turns]:
    made = Turns(worker_in_process(default_pool_size=2))
    yield made
    made.close()


TYPE_MADE, TYPE_GONE = "CREATE TYPE made AS (a int, b int)", "DROP TYPE made"
TYPED = "SELECT CAST($1 AS made)"
STEPS: dict[str, Callable[[str], tuple[bytes, ...]]] = {
    "bind": lambda name: (parse(TYPED, name),),
    "describe, bind": lambda name: (parse(TYPED, name) + describe(name, "S"),),
    "alone": lambda name: (parse(TYPED, name), describe(name, "S")),
    "twice": lambda name: (parse(TYPED, name), describe(name, "S") * 2),
}


@pytest.mark.parametrize("name", ["", "a"], ids=["unnamed", "named"])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("ddl", ["simple", "extended"])
def test_a_statement_that_another_server_knew_before_its_type_was_made_anew(
    turns: Turns, tables: Postgres, steps: str, ddl: str, name: str
) -> None:
    """What was parsed before is not what this client has parsed."""
    asked = (*STEPS[steps](name), bind(b"(1,)", statement=name) + execute())

    def change_by(client: WireClient, sql: str) -> None:
        raw = query(sql) if ddl == "simple" else parse(sql) + bind() + execute() + SYNC
        assert "E" not in codes(client.ask(raw))

    for _ in range(4):
        with turns.pooler.client() as client:
            change_by(client, TYPE_MADE)
            answers = []
            for one in asked:
                answers.append(codes(client.ask(one, SYNC)))
                turns.turn()
            change_by(client, TYPE_GONE)
            assert "E" not in "".join(answers), answers
            assert answers[-1] == "2DCZ"
        turns.turn()


CHANGED_ROWS = {
    "column": ("ALTER TABLE stale DROP COLUMN c", 2),
    "type": ("ALTER TABLE stale ALTER COLUMN b TYPE varchar", 3),
    "anew": ("DROP TABLE stale; CREATE TABLE stale (x text); TABLE stale", 1),
}


@pytest.mark.parametrize("changed", CHANGED_ROWS)
@pytest.mark.parametrize("seen", [False, True], ids=["unseen", "seen"])
@pytest.mark.parametrize("name", ["", "b"], ids=["unnamed", "named"])
@pytest.mark.parametrize("formats", [False, True], ids=["rows", "formats"])
def test_a_client_that_prepares_anew_is_not_refused_on_another_server(
    turns: Turns,
    tables: Postgres,
    changed: str,
    seen: bool,
    name: str,
    formats: bool,
) -> None:
    """asyncpg does so after 0A000, and tells its caller of a second one."""
    sql, columns = CHANGED_ROWS[changed]
    with turns.pooler.client() as client, turns.pooler.client() as other:
        for one in (other, client):  # each of the two servers has it
            one.ask(parse("SELECT * FROM stale", "a"), describe("a", "S"), SYNC)
            one.ask(bind(statement="a"), execute(), SYNC)
            turns.turn()
            one.ask(bind(statement="a"), execute(), SYNC)
        if seen:
            other.ask(query(sql))
        else:
            change(tables, sql)
        said = client.ask(parse("SELECT * FROM stale", name), describe(name, "S"), SYNC)
        assert codes(said) == "1tTZ"
        turns.turn()
        asked = (
            bind_formats(columns, statement=name) if formats else bind(statement=name)
        )
        assert "E" not in codes(client.ask(asked, execute(), SYNC))
