/**
 * Jinja as Python renders it, on top of `@huggingface/jinja`.
 *
 * That package parses and runs chat templates, but in places its values behave like JavaScript's: `strip('\n')`
 * ignores its argument and strips every blank, `{{ none }}` prints nothing, `{{ true }}` prints 'true', `0 == ''`
 * holds, and a variable set in one turn of a loop is still set in the next. Chat templates are executed by the
 * reference with Python's rules, and a training text that differs by one blank is a different text. This file
 * overrides exactly those places; everything else is the package's.
 *
 * `{% generation %}` is dropped by the package. Here it becomes a pair of marks in the output, which
 * `renderTemplate` takes out again and returns as character spans.
 */
import * as jinja from '@huggingface/jinja';

// The package's own declarations do not resolve under `module: node20`, so what is used of it is declared here.
interface Value {
  type: string;
  value: unknown;
  toString(): string;
}
type Program = object;
type Statement = object;
interface Environment {
  set(name: string, value: unknown): Value;
}
interface Interpreter {
  run(program: Program): Value;
  evaluate(statement: Statement | undefined, environment: Environment): Value;
}
const { Environment, Interpreter, parse, tokenize } = jinja as unknown as {
  Environment: new (parent?: Environment) => Environment;
  Interpreter: new (environment: Environment) => Interpreter;
  parse(tokens: object[]): Program;
  tokenize(source: string, options: { lstrip_blocks: boolean; trim_blocks: boolean }): object[];
};

interface Node {
  type: string;
  [key: string]: unknown;
}

/** One compiled template. */
export interface CompiledTemplate {
  readonly program: Program;
  readonly hasGeneration: boolean;
}

// Private-use characters; a message that contains them is still rendered right, only the marks are matched in full.
const MARK_BEGIN = '\uE000lathe-generation\uE001';
const MARK_END = '\uE001lathe-generation\uE000';

const samples = new Environment();
const StringValue = samples.set('string', '').constructor as unknown as new (value: string) => Value;
const BooleanValue = samples.set('boolean', true).constructor as unknown as new (value: boolean) => Value;
const ArrayValue = samples.set('array', []).constructor as unknown as new (value: Value[]) => Value;

/** Parses a template with `trim_blocks` and `lstrip_blocks` on, as the reference does. Throws the parser's error. */
export function compileTemplate(source: string): CompiledTemplate {
  let hasGeneration = false;
  // As block tags are treated: blanks before one at the start of a line go (lstrip_blocks), so does its newline (trim_blocks).
  const tag = /(?:^[ \t]*)?\{%(-?)\s*(end)?generation\s*(-?)%\}\n?/gm;
  const marked = source.replace(tag, (_all, left: string, end: string | undefined, right: string) => {
    hasGeneration = true;
    return `{{${left} '${end ? MARK_END : MARK_BEGIN}' ${right}}}`;
  });
  return { program: parse(tokenize(marked, { lstrip_blocks: true, trim_blocks: true })), hasGeneration };
}

/** Renders with the given variables. `spans` are [start, end) character ranges of `{% generation %}` blocks. */
export function renderTemplate(
  template: CompiledTemplate,
  variables: Record<string, unknown>,
): { text: string; spans: [number, number][] } {
  const environment = new Environment();
  for (const [name, value] of Object.entries(variables)) environment.set(name, value);
  const output = new PythonInterpreter(environment).run(template.program).value as string;
  return template.hasGeneration ? takeMarks(output) : { text: output, spans: [] };
}

function takeMarks(output: string): { text: string; spans: [number, number][] } {
  const spans: [number, number][] = [];
  let text = '';
  let open = -1;
  for (const part of output.split(new RegExp(`(${MARK_BEGIN}|${MARK_END})`))) {
    if (part === MARK_BEGIN) open = text.length;
    else if (part === MARK_END) {
      if (open >= 0 && text.length > open) spans.push([open, text.length]);
      open = -1;
    } else text += part;
  }
  return { text, spans };
}

class PythonInterpreter extends Interpreter {
  /** Bodies of for loops: each turn of a loop is a scope of its own. */
  private readonly loopBodies = new WeakSet<object>();

  constructor(environment: Environment) {
    super(environment);
    // Declared private by the package, so it is replaced on the object instead of overridden in the class.
    (this as unknown as { evaluateBlock: PythonInterpreter['block'] }).evaluateBlock = (statements, scope) =>
      this.block(statements, scope);
  }

  override evaluate(statement: Statement | undefined, environment: Environment): Value {
    const node = statement as unknown as Node | undefined;
    switch (node?.type) {
      case 'For':
        this.loopBodies.add(node.body as object);
        break;
      case 'CallExpression':
        return this.methodCall(node, environment) ?? super.evaluate(statement, environment);
      case 'BinaryExpression': {
        const operator = (node.operator as { value: string }).value;
        if (operator !== '==' && operator !== '!=' && operator !== '~') break;
        const left = this.evaluate(node.left as Statement, environment);
        const right = this.evaluate(node.right as Statement, environment);
        if (operator === '~') return new StringValue(pythonString(left) + pythonString(right));
        return new BooleanValue(pythonEqual(left, right) === (operator === '=='));
      }
      case 'FilterExpression':
        if ((node.filter as Node).type === 'Identifier' && (node.filter as { value?: string }).value === 'trim') {
          const operand = this.evaluate(node.operand as Statement, environment);
          if (operand.type === 'StringValue')
            return new StringValue(pythonStrip(operand.value as string, undefined, true, true));
        }
        break;
    }
    return super.evaluate(statement, environment);
  }

  private block(statements: Statement[], environment: Environment): Value {
    const scope = this.loopBodies.has(statements) ? new Environment(environment) : environment;
    let text = '';
    for (const statement of statements) text += printed(statement as unknown as Node, this.evaluate(statement, scope));
    return new StringValue(text);
  }

  /** Python's string methods where the package's differ; undefined for every other call. */
  private methodCall(node: Node, environment: Environment): Value | undefined {
    const callee = node.callee as Node;
    if (callee.type !== 'MemberExpression' || callee.computed) return undefined;
    const name = (callee.property as { value?: string }).value;
    const method = name === undefined ? undefined : STRING_METHODS[name];
    if (!method || !Object.hasOwn(STRING_METHODS, name!)) return undefined;
    const object = this.evaluate(callee.object as Statement, environment);
    if (object.type !== 'StringValue') return undefined;
    const args = (node.args as Statement[]).map((argument) => this.evaluate(argument, environment).value);
    const result = method(object.value as string, args);
    return Array.isArray(result)
      ? new ArrayValue(result.map((part) => new StringValue(part)))
      : new StringValue(result);
  }
}

const STATEMENTS = new Set([
  'Set',
  'If',
  'For',
  'Macro',
  'CallStatement',
  'FilterStatement',
  'Comment',
  'Break',
  'Continue',
  'Program',
]);

function printed(node: Node, value: Value): string {
  return value.type === 'NullValue' && STATEMENTS.has(node.type) ? '' : pythonString(value);
}

/** str(value) */
function pythonString(value: Value): string {
  if (value.type === 'StringValue') return value.value as string;
  if (value.type === 'UndefinedValue') return '';
  return pythonRepr(value);
}

/** repr(value): what a list or dict prints as. */
function pythonRepr(value: Value): string {
  switch (value.type) {
    case 'NullValue':
      return 'None';
    case 'UndefinedValue':
      return 'Undefined';
    case 'BooleanValue':
      return value.value ? 'True' : 'False';
    case 'StringValue': {
      const text = value.value as string;
      const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
      const escapes: Record<string, string> = {
        '\n': '\\n',
        '\r': '\\r',
        '\t': '\\t',
        '\\': '\\\\',
        [quote]: `\\${quote}`,
      };
      return quote + Array.from(text, (c) => escapes[c] ?? c).join('') + quote;
    }
    case 'ArrayValue':
      return `[${(value.value as Value[]).map(pythonRepr).join(', ')}]`;
    case 'TupleValue': {
      const items = (value.value as Value[]).map(pythonRepr);
      return `(${items.join(', ')}${items.length === 1 ? ',' : ''})`;
    }
    case 'ObjectValue':
      return `{${[...(value.value as Map<string, Value>)].map(([key, item]) => `'${key}': ${pythonRepr(item)}`).join(', ')}}`;
    default:
      return value.toString();
  }
}

function pythonEqual(a: Value, b: Value): boolean {
  const numeric = (v: Value) => v.type === 'IntegerValue' || v.type === 'FloatValue' || v.type === 'BooleanValue';
  if (numeric(a) && numeric(b)) return Number(a.value) === Number(b.value);
  if (a.type === 'NullValue' || b.type === 'NullValue') return a.type === b.type;
  if (a.type === 'UndefinedValue' || b.type === 'UndefinedValue') return a.type === b.type;
  const left = a.value;
  const right = b.value;
  if (Array.isArray(left) && Array.isArray(right)) {
    return left.length === right.length && left.every((item, i) => pythonEqual(item as Value, right[i] as Value));
  }
  if (left instanceof Map && right instanceof Map) {
    return (
      left.size === right.size &&
      [...left].every(([key, item]) => right.has(key) && pythonEqual(item as Value, right.get(key) as Value))
    );
  }
  return left === right;
}

// What str.strip() takes away without an argument; not quite JavaScript's trim().
const PYTHON_BLANK = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]/;

function pythonStrip(text: string, chars: unknown, left: boolean, right: boolean): string {
  const drop = typeof chars === 'string' ? new Set(chars) : undefined;
  const isDropped = (c: string) => (drop ? drop.has(c) : PYTHON_BLANK.test(c));
  const units = Array.from(text);
  let start = 0;
  let end = units.length;
  while (left && start < end && isDropped(units[start])) start++;
  while (right && end > start && isDropped(units[end - 1])) end--;
  return units.slice(start, end).join('');
}

function pythonSplit(text: string, args: readonly unknown[]): string[] {
  const [separator, limit] = args;
  const most = typeof limit === 'number' && limit >= 0 ? limit : Infinity;
  if (typeof separator !== 'string') {
    const parts: string[] = [];
    let rest = pythonStrip(text, undefined, true, false);
    while (rest !== '' && parts.length < most) {
      const word = Array.from(rest).findIndex((c) => PYTHON_BLANK.test(c));
      if (word < 0) break;
      parts.push(rest.slice(0, word));
      rest = pythonStrip(rest.slice(word), undefined, true, false);
    }
    return rest === '' ? parts : [...parts, rest];
  }
  const parts = text.split(separator);
  return parts.length - 1 > most ? [...parts.slice(0, most), parts.slice(most).join(separator)] : parts;
}

const STRING_METHODS: Record<string, (text: string, args: readonly unknown[]) => string | string[]> = {
  strip: (text, [chars]) => pythonStrip(text, chars, true, true),
  lstrip: (text, [chars]) => pythonStrip(text, chars, true, false),
  rstrip: (text, [chars]) => pythonStrip(text, chars, false, true),
  split: pythonSplit,
  rsplit: (text, [separator, limit]) => {
    if (typeof separator !== 'string') return pythonSplit(text, []);
    const parts = text.split(separator);
    const most = typeof limit === 'number' && limit >= 0 ? limit : Infinity;
    const cut = parts.length - 1 - most;
    return cut > 0 ? [parts.slice(0, cut + 1).join(separator), ...parts.slice(cut + 1)] : parts;
  },
  title: (text) =>
    text.replace(/\p{Alphabetic}+/gu, (word) => word.slice(0, 1).toUpperCase() + word.slice(1).toLowerCase()),
  capitalize: (text) => text.slice(0, 1).toUpperCase() + text.slice(1).toLowerCase(),
  removeprefix: (text, [prefix]) =>
    typeof prefix === 'string' && text.startsWith(prefix) ? text.slice(prefix.length) : text,
  removesuffix: (text, [suffix]) =>
    typeof suffix === 'string' && suffix !== '' && text.endsWith(suffix) ? text.slice(0, -suffix.length) : text,
};
