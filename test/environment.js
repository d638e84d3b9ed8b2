/**
 * Jest runs tests in another realm, where `instanceof Float32Array` fails for values that the native addon
 * made. This environment copies those constructors from the main realm.
 */
const { TestEnvironment } = require('jest-environment-node');

module.exports = class MainRealmEnvironment extends TestEnvironment {
  async setup() {
    await super.setup();
    for (const name of [
      'Error',
      'TypeError',
      'RangeError',
      'ArrayBuffer',
      'SharedArrayBuffer',
      'DataView',
      'Promise',
      'Uint8Array',
      'Uint16Array',
      'Int8Array',
      'Int16Array',
      'Int32Array',
      'Uint32Array',
      'Float32Array',
      'Float64Array',
      'BigInt64Array',
      'BigUint64Array',
    ]) {
      this.global[name] = globalThis[name];
    }
    Object.defineProperty(this.global.Array, Symbol.hasInstance, { value: Array.isArray });
  }
};
