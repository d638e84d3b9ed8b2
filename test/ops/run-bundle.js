/**
 * Runs a bundle of compiled programs in a process of its own, so that LATHE_ISA, which is read once, can differ:
 *   node run-bundle.js ADDON BUNDLE RESULTS
 * BUNDLE is a v8-serialised list of Runnables (test/ops/program.ts), RESULTS receives their outputs in order.
 * Plain JavaScript on purpose: a child starts in a few milliseconds.
 */
'use strict';

const { readFileSync, writeFileSync } = require('node:fs');
const { deserialize, serialize } = require('node:v8');

async function main([addonPath, bundlePath, resultsPath]) {
  const addon = require(addonPath);
  const { threads, programs } = deserialize(readFileSync(bundlePath));
  const session = new addon.Session({ device: 'cpu', threads });
  const results = [];
  for (const { key, bytes, inputs } of programs) {
    const program = session.loadProgram(bytes, key);
    results.push(await session.run(program.id, inputs, false));
    session.releaseProgram(program.id);
  }
  await session.close();
  writeFileSync(resultsPath, serialize(results));
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
