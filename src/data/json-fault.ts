/**
 * Where a text stops being JSON.
 *
 * The idea: JSON.parse is fast but its messages name a position only sometimes, so after it failed this scanner walks
 * the text once more with the grammar of RFC 8259 and stops at the first character that cannot be.
 *
 * Invariants: returns text.length exactly when the text is a beginning of some JSON document (a file cut short).
 */

const kString = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*/.source;
/** A number may end the text in its middle: "6." and "6e" are beginnings of numbers. */
const kNumber = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?(?:(?:\.|[eE][+-]?)$)?/.source;
const kToken = new RegExp(`[ \\t\\n\\r]*(?:([{}[\\],:])|(${kString}")|(${kNumber}|true|false|null))`, 'y');
/** What a string or word looks like when the text ends inside it. */
const kOpenEnd = new RegExp(
  `[ \\t\\n\\r]*(?:(${kString}(?:\\\\(?:u[0-9a-fA-F]{0,3})?)?)|(-|t(?:ru?)?|f(?:a(?:ls?)?)?|n(?:ul?)?))?$`,
  'y',
);

type Expect = 'value' | 'valueOrEnd' | 'key' | 'keyOrEnd' | 'colon' | 'commaOrEnd' | 'nothing';

/** Offset of the first character that no JSON document can have there; text.length when more was expected. */
export function jsonFaultOffset(text: string): number {
  const open: ('{' | '[')[] = [];
  let expect: Expect = 'value';
  let at = 0;
  const afterValue = (): Expect => (open.length > 0 ? 'commaOrEnd' : 'nothing');
  for (;;) {
    kToken.lastIndex = at;
    const match = kToken.exec(text);
    if (!match) return faultInRest(text, at, expect);
    const [whole, mark, string] = match;
    const start = at + whole.length - (mark ?? string ?? match[3]).length;
    const next = step(mark, string !== undefined, expect, open, afterValue);
    if (next === undefined) return start;
    expect = next;
    at += whole.length;
  }
}

/** No whole token is left: the text ends inside one, or has something that is none. */
function faultInRest(text: string, at: number, expect: Expect): number {
  kOpenEnd.lastIndex = at;
  const end = kOpenEnd.exec(text);
  const takesValue = expect === 'value' || expect === 'valueOrEnd';
  const takesString = takesValue || expect === 'key' || expect === 'keyOrEnd';
  if (end && (end[1] === undefined || takesString) && (end[2] === undefined || takesValue)) return text.length;
  const visible = /[^ \t\n\r]/g;
  visible.lastIndex = at;
  return visible.exec(text)?.index ?? text.length;
}

/** What may follow the token, or undefined when the token itself may not be here. */
function step(
  mark: string | undefined,
  isString: boolean,
  expect: Expect,
  open: ('{' | '[')[],
  afterValue: () => Expect,
): Expect | undefined {
  const inObject = open[open.length - 1] === '{';
  if (mark === undefined) {
    if (expect === 'value' || expect === 'valueOrEnd') return afterValue();
    return isString && (expect === 'key' || expect === 'keyOrEnd') ? 'colon' : undefined;
  }
  if (mark === '{' || mark === '[') {
    if (expect !== 'value' && expect !== 'valueOrEnd') return undefined;
    open.push(mark);
    return mark === '{' ? 'keyOrEnd' : 'valueOrEnd';
  }
  if (mark === ':') return expect === 'colon' ? 'value' : undefined;
  if (mark === ',') return expect === 'commaOrEnd' ? (inObject ? 'key' : 'value') : undefined;
  const closes =
    mark === '}'
      ? inObject && (expect === 'keyOrEnd' || expect === 'commaOrEnd')
      : !inObject && open.length > 0 && (expect === 'valueOrEnd' || expect === 'commaOrEnd');
  if (!closes) return undefined;
  open.pop();
  return afterValue();
}
