// SPDX-License-Identifier: MIT
// A reporter of mocha for the suites: one line of JSON for each test.
"use strict";

const fs = require("fs");
const path = require("path");

const OUTCOMES = { pass: "passed", fail: "failed", pending: "skipped" };

module.exports = function Lines(runner) {
  for (const [event, outcome] of Object.entries(OUTCOMES)) {
    runner.on(event, (test, error) => {
      const file = path.relative(process.cwd(), test.file || "");
      const name = `${file}::${test.titlePath().join("::")}`;
      const line = JSON.stringify({ name, outcome });
      fs.appendFileSync(process.env.SUITE_RESULTS, line + "\n");
      console.log(outcome, name, error ? error.stack : "");
    });
  }
};
