/** The scanner that says where a text stops being JSON, against JSON.parse. */
import fc from 'fast-check';
import { jsonFaultOffset } from '../../../src/data/json-fault';

function parses(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

test('every proper beginning of a document is cut short, never faulty', () => {
  fc.assert(
    fc.property(fc.jsonValue(), fc.nat(), (value, cut) => {
      const text = JSON.stringify([value]);
      const beginning = text.slice(0, cut % text.length);
      expect(jsonFaultOffset(beginning)).toBe(beginning.length);
    }),
  );
});

test('one wrong character: the fault is at or after it is reached, and what precedes it can be continued', () => {
  fc.assert(
    fc.property(
      fc.jsonValue(),
      fc.nat(),
      fc.constantFrom('}', ']', ',', ':', '\u0001', 'x', '"'),
      (value, place, wrong) => {
        const text = JSON.stringify({ a: value }, null, 1);
        const at = place % text.length;
        const broken = text.slice(0, at) + wrong + text.slice(at + 1);
        if (parses(broken)) return;
        const fault = jsonFaultOffset(broken);
        expect(fault).toBeLessThanOrEqual(broken.length);
        // The part before the fault is a beginning of a document.
        expect(jsonFaultOffset(broken.slice(0, fault))).toBe(fault);
      },
    ),
  );
});

test.each([
  ['[1, 2, }', 7],
  ['{"a" 1}', 5],
  ['[1] 2', 4],
  ['{"a": tru}', 6],
  ['["a\nb"]', 1],
  ['[01]', 2],
])('%j breaks at %i', (text, at) => {
  expect(jsonFaultOffset(text)).toBe(at);
});
