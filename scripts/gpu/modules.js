/**
 * Copies the packages that the compiled scripts in `DIR/scripts/gpu` load into `DIR/node_modules`: loads each script in a
 * process that stops before it does anything, and looks at what was resolved. `node modules.js DIR`
 */
'use strict';

const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const folder = path.resolve(process.argv[2]);
const own = path.resolve(__dirname, '..', '..', 'node_modules');
const scripts = fs.readdirSync(path.join(folder, 'scripts', 'gpu')).filter((f) => f.endsWith('.js'));
const probe = `
  const Module = require('node:module');
  const resolve = Module._resolveFilename;
  const seen = new Set();
  Module._resolveFilename = function (request, parent, ...rest) {
    const file = (() => {
      try { return resolve.call(this, request, parent, ...rest); } catch (error) {
        if (/^[./]/.test(request)) throw error;
        return resolve.call(this, require.resolve(request, { paths: [${JSON.stringify(path.dirname(own))}] }), parent, ...rest);
      }
    })();
    if (file.startsWith(${JSON.stringify(own + path.sep)})) seen.add(file.slice(${own.length + 1}).split('/').slice(0, file.slice(${own.length + 1}).startsWith('@') ? 2 : 1).join('/'));
    return file;
  };
  process.on('exit', () => { process.exitCode = 0; require('node:fs').writeSync(3, JSON.stringify([...seen])); });
  process.on('unhandledRejection', () => process.exit(0));
  // The scripts start when loaded: on a device that does not exist they end at once.
  process.argv = [process.argv[0], process.argv[1], 'none', '--family', 'none'];
  require(process.env.PROBED);
  process.exit(0);
`;
const packages = new Set(['bindings', 'file-uri-to-path']);
for (const script of scripts) {
  const result = path.join(folder, 'probe.json');
  const out = fs.openSync(result, 'w');
  execFileSync(process.execPath, ['-e', probe], {
    env: { ...process.env, PROBED: path.join(folder, 'scripts', 'gpu', script) },
    stdio: ['ignore', 'ignore', 'ignore', out],
  });
  fs.closeSync(out);
  for (const name of JSON.parse(fs.readFileSync(result, 'utf8'))) packages.add(name);
  fs.rmSync(result);
}
for (const name of packages) {
  const from = path.join(own, name);
  if (!fs.existsSync(from)) continue;
  // Prebuilt binaries of other platforms stay behind.
  const filter = (file) =>
    !file.endsWith('.node') || /linux-x64-gnu/.test(file) || !/(linux|darwin|win32|android)-/.test(path.basename(file));
  fs.cpSync(from, path.join(folder, 'node_modules', name), { recursive: true, dereference: true, filter });
}
console.log(`packages: ${[...packages].sort().join(', ')}`);
