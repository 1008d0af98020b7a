// SPDX-License-Identifier: MIT
// node-postgres: unnamed queries, and named ones, which it prepares.

import assert from "node:assert/strict";
import { pipeline } from "node:stream/promises";
import { Readable } from "node:stream";
import { require, runAll, session } from "./checks.mjs";

const pg = require("pg");
const Cursor = require("pg-cursor");
const { from, to } = require("pg-copy-streams");

async function withClient(work) {
  const client = new pg.Client({ connectionTimeoutMillis: 10_000 });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

const checks = {
  async queries() {
    await withClient(async (client) => {
      const text = "0123456789".repeat(100_000);
      const { rows } = await client.query(
        "SELECT $1::int8 AS big, $2::text AS text, $3::jsonb AS json, $4::bytea AS raw," +
          " $5::int[] AS list, $6::text AS nothing",
        ["4611686018427387904", text, { a: ["naïve 東京"] }, Buffer.from([0, 255]), [1, 2], null],
      );
      assert.deepEqual(rows[0], {
        big: "4611686018427387904",
        text,
        json: { a: ["naïve 東京"] },
        raw: Buffer.from([0, 255]),
        list: [1, 2],
        nothing: null,
      });
      const several = await client.query("SELECT 1 AS a; SELECT 2 AS b");
      assert.deepEqual(several.map((one) => one.rows), [[{ a: 1 }], [{ b: 2 }]]);
    });
  },

  async errors() {
    await withClient(async (client) => {
      for (let round = 0; round < 5; round += 1) {
        await assert.rejects(client.query("SELECT 1 / $1::int", [0]), { code: "22012" });
        await assert.rejects(client.query("SELEKT"), { code: "42601" });
        await assert.rejects(client.query("SELEKT $1", [1]), { code: "42601" });
      }
      assert.equal((await client.query("SELECT 1 AS a")).rows[0].a, 1);
    });
  },

  // It sends Terminate and nothing else; the connection ends, and nobody complains.
  async endedBeforeItBegan() {
    const complaints = [];
    for (let round = 0; round < 20; round += 1) {
      const client = new pg.Client();
      client.on("error", (error) => complaints.push(error.message));
      client.connect().catch((error) => complaints.push(error.message));
      await client.end();
    }
    assert.deepEqual(complaints, []);
  },

  // It sends the next query when the one before is ready; all are asked at once.
  async queued() {
    await withClient(async (client) => {
      const asked = Array.from({ length: 200 }, (_, n) => client.query("SELECT $1::int AS n", [n]));
      const answers = await Promise.all(asked);
      assert.deepEqual(answers.map((one) => one.rows[0].n), [...asked.keys()]);
    });
  },

  async transactions() {
    await withClient(async (client) => {
      await client.query("CREATE TABLE node_moves (id int PRIMARY KEY)");
      await client.query("BEGIN");
      await client.query("INSERT INTO node_moves VALUES ($1)", [1]);
      await client.query("COMMIT");
      await client.query("BEGIN");
      await assert.rejects(client.query("INSERT INTO node_moves VALUES ($1)", [1]), { code: "23505" });
      await assert.rejects(client.query("SELECT 1"), { code: "25P02" });
      await client.query("ROLLBACK");
      assert.equal((await client.query("SELECT FROM node_moves")).rowCount, 1);
    });
  },

  async poolAtOnce() {
    const pool = new pg.Pool({ max: 10, connectionTimeoutMillis: 10_000 });
    try {
      await pool.query("CREATE TABLE node_many (n int)");
      const work = async (n) => {
        const client = await pool.connect();
        try {
          await client.query("BEGIN");
          await client.query("INSERT INTO node_many VALUES ($1)", [n]);
          const found = await client.query("SELECT $1::int AS n", [n]);
          await client.query("COMMIT");
          assert.equal(found.rows[0].n, n);
        } finally {
          client.release();
        }
      };
      await Promise.all(Array.from({ length: 300 }, (_, n) => work(n)));
      assert.equal((await pool.query("SELECT FROM node_many")).rowCount, 300);
    } finally {
      await pool.end();
    }
  },

  async cursor() {
    await withClient(async (client) => {
      await client.query("BEGIN");
      const cursor = client.query(new Cursor("SELECT generate_series(1, $1::int) AS n", [1000]));
      let sum = 0;
      for (let rows = await cursor.read(70); rows.length; rows = await cursor.read(70)) {
        sum += rows.reduce((total, row) => total + row.n, 0);
      }
      assert.equal(sum, 500_500);
      await cursor.close();
      await client.query("COMMIT");
      // Outside a transaction its batch stays open (Flush, no Sync) until it is closed.
      const open = client.query(new Cursor("SELECT generate_series(1, 1000) AS n"));
      assert.equal((await open.read(10)).length, 10);
      assert.equal((await open.read(10))[9].n, 20);
      await open.close();
      assert.equal((await client.query("SELECT 1 AS a")).rows[0].a, 1);
    });
  },

  async copy() {
    await withClient(async (client) => {
      await client.query("CREATE TABLE node_copied (id int, name text)");
      const lines = Array.from({ length: 20_000 }, (_, n) => `${n}\tnaïve ${n}\n`);
      await pipeline(Readable.from(lines), client.query(from("COPY node_copied FROM STDIN")));
      const taken = [];
      await pipeline(client.query(to("COPY node_copied TO STDOUT")), async (source) => {
        for await (const chunk of source) taken.push(chunk);
      });
      assert.equal(Buffer.concat(taken).toString(), lines.join(""));
      const bad = pipeline(
        Readable.from(["no number\n"]),
        client.query(from("COPY node_copied (id) FROM STDIN")),
      );
      await assert.rejects(bad, { code: "22P02" });
      assert.equal((await client.query("SELECT FROM node_copied")).rowCount, 20_000);
    });
  },

  async statementTimeout() {
    await withClient(async (client) => {
      await client.query("BEGIN");
      await client.query("SET LOCAL statement_timeout = 200");
      await assert.rejects(client.query("SELECT pg_sleep(10)"), { code: "57014" });
      await client.query("ROLLBACK");
      assert.equal((await client.query("SELECT 1 AS a")).rows[0].a, 1);
    });
  },

  async namedQueries() {
    await withClient(async (client) => {
      for (let n = 0; n < 20; n += 1) {
        const query = { name: "plus", text: "SELECT $1::int + 1 AS n", values: [n] };
        assert.equal((await client.query(query)).rows[0].n, n + 1);
      }
    });
  },

  // More connections than servers; a name stands for another text in each of them.
  async namedAtOnce() {
    const work = (number) =>
      withClient(async (client) => {
        for (let n = 0; n < 80; n += 1) {
          const kind = n % 7;
          const inTransaction = n % 5 === 0;
          if (inTransaction) await client.query("BEGIN");
          const { rows } = await client.query({
            name: `query${kind}`,
            text: `SELECT $1::int * 100 + ${number * 10 + kind} AS n, $2::text AS "t${kind}"`,
            values: [n, `${number} ${n}`],
          });
          assert.deepEqual(rows, [{ n: n * 100 + number * 10 + kind, [`t${kind}`]: `${number} ${n}` }]);
          if (inTransaction) await client.query("COMMIT");
          const divide = { name: "divide", text: `SELECT ${number} / $1::int AS n`, values: [n % 2] };
          if (n % 2 === 0) await assert.rejects(client.query(divide), { code: "22012" });
          else assert.equal((await client.query(divide)).rows[0].n, number);
        }
      });
    await Promise.all(Array.from({ length: 10 }, (_, number) => work(number)));
  },
};

if (session) {
  checks.notifications = async () => {
    await withClient((listener) =>
      withClient(async (speaker) => {
        const heard = new Promise((resolve) => listener.once("notification", resolve));
        await listener.query("LISTEN news");
        await speaker.query("SELECT pg_notify('news', $1)", ["flash"]);
        assert.equal((await heard).payload, "flash");
      }),
    );
  };
}

await runAll(checks);
