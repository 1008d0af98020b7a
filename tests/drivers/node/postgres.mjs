// SPDX-License-Identifier: MIT
// postgres.js: it pipelines all queries of a connection, as named statements.

import assert from "node:assert/strict";
import { pipeline } from "node:stream/promises";
import { Readable } from "node:stream";
import { require, runAll, session } from "./checks.mjs";

const postgres = require("postgres");

async function withSql(options, work) {
  const sql = postgres({
    connect_timeout: 10,
    max: 4,
    onnotice: () => {},
    ...options,
  });
  try {
    return await work(sql);
  } finally {
    await sql.end({ timeout: 5 });
  }
}

const checks = {
  async queries() {
    await withSql({}, async (sql) => {
      await sql`SELECT 1`; // it learns the array types when it connects
      const text = "0123456789".repeat(100_000);
      const [row] = await sql`
        SELECT ${"4611686018427387904"}::int8 AS big, ${text}::text AS text,
               ${sql.json({ a: ["naïve 東京"] })}::jsonb AS json,
               ${sql.array([1, 2])}::int[] AS list, ${null}::text AS nothing`;
      assert.deepEqual({ ...row }, {
        big: "4611686018427387904",
        text,
        json: { a: ["naïve 東京"] },
        list: [1, 2],
        nothing: null,
      });
      const several = await sql`SELECT 1 AS a; SELECT 2 AS b`.simple();
      assert.deepEqual(several.map((rows) => ({ ...rows[0] })), [{ a: 1 }, { b: 2 }]);
    });
  },

  async errors() {
    await withSql({ max: 1 }, async (sql) => {
      for (let round = 0; round < 5; round += 1) {
        await assert.rejects(sql`SELECT 1 / ${0}::int`, { code: "22012" });
        await assert.rejects(sql`SELEKT ${1}`, { code: "42601" });
      }
      assert.equal((await sql`SELECT 1 AS a`)[0].a, 1);
    });
  },

  // One connection: all of them are on the way before the first is answered.
  async pipelined() {
    await withSql({ max: 1 }, async (sql) => {
      const asked = Array.from({ length: 500 }, (_, n) =>
        n % 10 === 7 ? sql`SELECT 1 / ${0}::int`.catch((error) => error.code) : sql`SELECT ${n}::int AS n`,
      );
      const answers = await Promise.all(asked);
      answers.forEach((one, n) => assert.equal(n % 10 === 7 ? one : one[0].n, n % 10 === 7 ? "22012" : n));
    });
  },

  async atOnce() {
    await withSql({ max: 10 }, async (sql) => {
      await sql`CREATE TABLE postgresjs_many (n int)`;
      const work = (n) =>
        sql.begin(async (tx) => {
          await tx`INSERT INTO postgresjs_many VALUES (${n})`;
          const [row] = await tx`SELECT ${n}::int AS n`;
          assert.equal(row.n, n);
        });
      await Promise.all(Array.from({ length: 300 }, (_, n) => work(n)));
      assert.equal((await sql`SELECT FROM postgresjs_many`).count, 300);
    });
  },

  // More connections than servers; each makes up the same names for other texts.
  async preparedAtOnce() {
    const work = (number) =>
      withSql({ max: 1 }, async (sql) => {
        const ask = async (on, n) => {
          const kind = (n * (number + 1)) % 11;
          const text = `SELECT $1::int * 1000 + ${number * 20 + kind} AS n, $2::text AS "t${kind}"`;
          const [row] = await on.unsafe(text, [n, `${number} ${n}`], { prepare: true });
          assert.deepEqual({ ...row }, { n: n * 1000 + number * 20 + kind, [`t${kind}`]: `${number} ${n}` });
        };
        for (let n = 0; n < 40; n += 1) {
          await Promise.all([ask(sql, n), ask(sql, n + 1), ask(sql, n + 2)]);
          await sql.begin((tx) => ask(tx, n));
          await assert.rejects(sql`SELECT ${n} / ${0}::int`, { code: "22012" });
        }
      });
    await Promise.all(Array.from({ length: 10 }, (_, number) => work(number)));
  },

  async transactions() {
    await withSql({}, async (sql) => {
      await sql`CREATE TABLE postgresjs_moves (id int PRIMARY KEY)`;
      await sql.begin(async (tx) => {
        await tx`INSERT INTO postgresjs_moves VALUES (1)`;
        const inner = tx.savepoint((sp) => sp`INSERT INTO postgresjs_moves VALUES (1)`);
        await assert.rejects(inner, { code: "23505" });
        await tx`INSERT INTO postgresjs_moves VALUES (2)`;
      });
      await assert.rejects(sql.begin(async (tx) => {
        await tx`INSERT INTO postgresjs_moves VALUES (3)`;
        throw new Error("no");
      }), { message: "no" });
      const rows = await sql`SELECT id FROM postgresjs_moves ORDER BY 1`;
      assert.deepEqual(rows.map((row) => row.id), [1, 2]);
    });
  },

  async cursor() {
    await withSql({}, async (sql) => {
      let sum = 0;
      await sql.begin(async (tx) => {
        for await (const rows of tx`SELECT generate_series(1, 1000) AS n`.cursor(70)) {
          sum += rows.reduce((total, row) => total + row.n, 0);
        }
      });
      assert.equal(sum, 500_500);
      // Outside a transaction, and left in the middle.
      for await (const rows of sql`SELECT generate_series(1, 1000) AS n`.cursor(10)) {
        if (rows[0].n > 50) break;
      }
      assert.equal((await sql`SELECT 1 AS a`)[0].a, 1);
    });
  },

  async copy() {
    await withSql({}, async (sql) => {
      await sql`CREATE TABLE postgresjs_copied (id int, name text)`;
      const lines = Array.from({ length: 20_000 }, (_, n) => `${n}\tnaïve ${n}\n`);
      await pipeline(Readable.from(lines), await sql`COPY postgresjs_copied FROM STDIN`.writable());
      const taken = [];
      for await (const chunk of await sql`COPY postgresjs_copied TO STDOUT`.readable()) taken.push(chunk);
      assert.equal(Buffer.concat(taken).toString(), lines.join(""));
    });
  },

  // It opens a second connection and sends a CancelRequest.
  async cancel() {
    await withSql({ max: 1 }, async (sql) => {
      await sql`SELECT 1`;
      const query = sql`SELECT pg_sleep(10)`.execute();
      setTimeout(() => query.cancel(), 300);
      await assert.rejects(query, { code: "57014" });
      assert.equal((await sql`SELECT 1 AS a`)[0].a, 1);
    });
  },

  // It begins a transaction of its own.
  async largeObject() {
    await withSql({}, async (sql) => {
      const data = Buffer.alloc(300_000, "0123456789");
      const large = await sql.largeObject();
      await large.write(data.subarray(0, 100_000));
      await large.write(data.subarray(100_000));
      await large.seek(0);
      const [{ data: taken }] = await large.read(400_000);
      assert.ok(data.equals(taken));
      await large.close();
    });
  },
};

if (session) {
  checks.notifications = async () => {
    await withSql({}, async (sql) => {
      let resolve;
      const heard = new Promise((done) => {
        resolve = done;
      });
      await sql.listen("news", resolve);
      await sql.notify("news", "flash");
      assert.equal(await heard, "flash");
    });
  };
}

await runAll(checks);
