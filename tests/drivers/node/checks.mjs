// SPDX-License-Identifier: MIT
// Run named checks and report each as one line of JSON: {"name": "ok" or the error}.

import { createRequire } from "node:module";

// dev/fetch_drivers.sh puts the packages into a folder that is not above this file.
export const require = createRequire(`${process.env.NODE_DRIVERS}/package.json`);
export const session = process.env.POOL_MODE !== "transaction";

const CHECK_LIMIT_MS = 15_000;

function limited(promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("not in time")), CHECK_LIMIT_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

export async function runAll(checks) {
  for (const [name, check] of Object.entries(checks)) {
    let outcome = "ok";
    try {
      await limited(check());
    } catch (error) {
      outcome = String(error.stack ?? error);
    }
    console.log(JSON.stringify({ [name]: outcome }));
  }
  // Whatever a failed check has left open must not keep us.
  process.exit(0);
}
