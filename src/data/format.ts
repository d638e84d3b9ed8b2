/**
 * From a row of a dataset to something a tokenizer can take: a text, a prompt with its completion, a conversation,
 * or ready-made ids.
 *
 * The idea: the kind is decided once, from the first row, by the column names that TRL, Alpaca and ShareGPT data
 * use (or by configuration), and every later row must have it. A conversation is recognised by its values, not by its
 * column: `prompt` and `completion` may be strings or message lists.
 *
 * Invariants: a row that does not have the decided kind is an error that names the row; nothing is guessed per row.
 * Sources: TRL dataset_formats (huggingface.co/docs/trl/dataset_formats), Stanford Alpaca's prompt, ShareGPT's from/value.
 */
import { LatheError, nearest } from '../errors';
import { IGNORE_INDEX, type ChatMessage, type ChatRenderOptions, type Row } from './types';

export type RowKind = 'text' | 'prompt_completion' | 'instruction' | 'messages' | 'tokens';

/** `{column}` placeholders, or a function of the row. `{{` and `}}` stand for braces. */
export type Formatter = string | { prompt: string; completion: string } | ((row: Row) => string | Row);

export interface FormatOptions {
  /** Default: found from the columns. */
  kind?: RowKind;
  /** Column of plain text ("text"). */
  textColumn?: string;
  /** Applied to each row first; its result takes the place of the row. */
  formatting?: Formatter;
  /** Put before a conversation that has no system message. */
  systemPrompt?: string;
  /** false: rows of ids are trained whatever their completion_mask says. */
  completionOnlyLoss?: boolean;
}

/** A row ready for tokenising; `kwargs` come from its column `chat_template_kwargs`. */
export type NormalRow =
  | { kind: 'text'; text: string }
  | { kind: 'prompt_completion'; prompt: string; completion: string }
  | ({ kind: 'chat_completion'; prompt: ChatMessage[]; completion: ChatMessage[] } & ChatRenderOptions)
  | ({ kind: 'messages'; messages: ChatMessage[] } & ChatRenderOptions)
  | { kind: 'tokens'; inputIds: number[]; labels?: number[] };

const kKinds: readonly RowKind[] = ['text', 'prompt_completion', 'instruction', 'messages', 'tokens'];
/** ShareGPT's speakers, by the role that chat templates know. */
const kRoles: Record<string, string> = {
  human: 'user',
  gpt: 'assistant',
  chatgpt: 'assistant',
  bing: 'assistant',
  bot: 'assistant',
  observation: 'tool',
  function: 'tool',
};

/** What a message may say something by. */
const kSaid = ['content', 'tool_calls', 'function_call', 'reasoning_content', 'thinking', 'reasoning'];

const kPreamble = 'Below is an instruction that describes a task';
const kRequest = 'Write a response that appropriately completes the request.';

/** Stanford Alpaca's prompt, up to and including "### Response:\n". An empty input counts as none. */
export function alpacaPrompt(instruction: string, input?: string | null): string {
  if (input) {
    return `${kPreamble}, paired with an input that provides further context. ${kRequest}\n\n### Instruction:\n${instruction}\n\n### Input:\n${input}\n\n### Response:\n`;
  }
  return `${kPreamble}. ${kRequest}\n\n### Instruction:\n${instruction}\n\n### Response:\n`;
}

/** Fills `{column}` placeholders. @throws ERR_CONFIG for a column the row lacks */
export function fillTemplate(template: string, row: Row, at?: string): string {
  return template.replace(/\{\{|\}\}|\{([^{}]+)\}/g, (whole, name: string | undefined) => {
    if (name === undefined) return whole[0];
    if (Object.hasOwn(row, name)) {
      const value = row[name];
      return value === null || value === undefined
        ? ''
        : typeof value === 'object'
          ? JSON.stringify(value)
          : String(value);
    }
    const near = nearest(name, Object.keys(row));
    throw new LatheError(
      'ERR_CONFIG',
      `formatting: expected a column of ${Object.keys(row).join(', ')}, received {${name}}`,
      {
        at,
        remedy: near
          ? `did you mean {${near}}? (write {{ and }} for braces)`
          : 'name an existing column; write {{ and }} for braces',
      },
    );
  });
}

function applyFormatter(formatter: Formatter, row: Row, textColumn: string, at: string): Row {
  if (typeof formatter === 'string') return { [textColumn]: fillTemplate(formatter, row, at) };
  if (typeof formatter === 'function') {
    const result = formatter(row);
    return typeof result === 'string' ? { [textColumn]: result } : result;
  }
  return { prompt: fillTemplate(formatter.prompt, row, at), completion: fillTemplate(formatter.completion, row, at) };
}

/** The kind of a row by its columns. @throws ERR_DATA when no kind fits */
export function detectKind(row: Row, textColumn = 'text', at?: string): RowKind {
  const has = (...names: string[]): boolean => names.every((name) => row[name] !== undefined && row[name] !== null);
  if (has('input_ids')) return 'tokens';
  if (has('messages') || has('conversations')) return 'messages';
  if (has('prompt', 'completion')) return 'prompt_completion';
  if (has('instruction', 'output')) return 'instruction';
  if (has(textColumn)) return 'text';
  const columns = Object.keys(row);
  const preference = columns.includes('chosen') && columns.includes('rejected');
  throw new LatheError(
    'ERR_DATA',
    `expected columns ${textColumn}, or prompt and completion, or instruction and output, or messages, or conversations, or input_ids; received ${columns.join(', ') || 'none'}`,
    {
      at,
      remedy: preference
        ? 'preference pairs are for preference training; for supervised training rename the answer: renameColumn("chosen", "completion")'
        : 'rename the columns, or give formatting, e.g. formatting: "{question}\\n{answer}"',
    },
  );
}

/** Turns every row of one dataset into its normal form; the kind is fixed by the first row. */
export class RowFormatter {
  private decided?: RowKind;
  private readonly textColumn: string;

  constructor(private readonly options: FormatOptions = {}) {
    this.textColumn = options.textColumn ?? 'text';
    this.decided = options.kind;
    if (options.kind !== undefined && !kKinds.includes(options.kind)) {
      const near = nearest(options.kind, kKinds);
      throw new LatheError(
        'ERR_CONFIG',
        `kind: expected one of ${kKinds.join(', ')}, received ${JSON.stringify(options.kind)}`,
        {
          remedy: near ? `did you mean ${near}?` : 'leave it out to detect it',
        },
      );
    }
  }

  /** Undefined before the first row unless configured. */
  get kind(): RowKind | undefined {
    return this.decided;
  }

  /** @param at where the row came from, for errors */
  normalise(source: Row, at: string): NormalRow {
    const row = this.options.formatting ? applyFormatter(this.options.formatting, source, this.textColumn, at) : source;
    this.decided ??= detectKind(row, this.textColumn, at);
    return this.normaliseAs(this.decided, row, at);
  }

  private normaliseAs(kind: RowKind, row: Row, at: string): NormalRow {
    if (kind === 'text') return { kind, text: requireString(row, this.textColumn, at) };
    if (kind === 'tokens') return normaliseTokens(row, this.options.completionOnlyLoss !== false, at);
    if (kind === 'messages')
      return {
        kind,
        messages: this.withSystem(requireMessages(row.messages ?? row.conversations, 'messages', at)),
        ...extras(row, at),
      };
    if (kind === 'instruction') {
      const input = row.input === undefined || row.input === null ? null : requireString(row, 'input', at);
      return {
        kind: 'prompt_completion',
        prompt: alpacaPrompt(requireString(row, 'instruction', at), input),
        completion: requireString(row, 'output', at),
      };
    }
    if (Array.isArray(row.prompt) || Array.isArray(row.completion)) {
      const prompt = this.withSystem(requireMessages(row.prompt, 'prompt', at));
      return {
        kind: 'chat_completion',
        prompt,
        completion: requireMessages(row.completion, 'completion', at),
        ...extras(row, at),
      };
    }
    return {
      kind: 'prompt_completion',
      prompt: requireString(row, 'prompt', at),
      completion: requireString(row, 'completion', at),
    };
  }

  private withSystem(messages: ChatMessage[]): ChatMessage[] {
    const { systemPrompt } = this.options;
    if (systemPrompt === undefined || messages[0]?.role === 'system') return messages;
    return [{ role: 'system', content: systemPrompt }, ...messages];
  }
}

function describe(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (value === null) return 'null';
  return Array.isArray(value)
    ? 'an array'
    : typeof value === 'object'
      ? 'an object'
      : `${typeof value} ${JSON.stringify(value)}`;
}

function requireString(row: Row, column: string, at: string): string {
  const value = row[column];
  if (typeof value === 'string') return value;
  if (value === undefined) {
    throw new LatheError(
      'ERR_DATA',
      `expected a column ${JSON.stringify(column)}, received ${
        Object.keys(row)
          .map((name) => JSON.stringify(name))
          .join(', ') || 'an empty row'
      }`,
      {
        at,
        remedy: 'rename a column, choose another dataset_format, or write a template (formatting)',
      },
    );
  }
  throw new LatheError('ERR_DATA', `column ${JSON.stringify(column)}: expected a string, received ${describe(value)}`, {
    at,
    remedy: 'filter out such rows, or turn the value into text with map',
  });
}

function requireMessages(value: unknown, column: string, at: string): ChatMessage[] {
  if (!Array.isArray(value) || value.length === 0) {
    throw new LatheError(
      'ERR_DATA',
      `column ${JSON.stringify(column)}: expected a non-empty list of messages, received ${Array.isArray(value) ? 'an empty list' : describe(value)}`,
      {
        at,
        remedy: 'filter out such rows',
      },
    );
  }
  return value.map((message: unknown, i) => normaliseMessage(message, `${column}[${i}]`, at));
}

function normaliseMessage(message: unknown, where: string, at: string): ChatMessage {
  const record = message as Row;
  if (typeof message === 'object' && message !== null && typeof record.role === 'string') {
    // A template would render nothing in its place and say nothing.
    if (kSaid.some((key) => key in record)) return record as ChatMessage;
    throw new LatheError(
      'ERR_DATA',
      `${where}: expected a message with content, received one with ${Object.keys(record).join(', ')}`,
      { at, remedy: 'write {"role": "user", "content": "..."}' },
    );
  }
  if (typeof message === 'object' && message !== null && typeof record.from === 'string' && 'value' in record) {
    const { from, value, ...rest } = record;
    return { ...rest, role: kRoles[from] ?? from, content: value as string };
  }
  throw new LatheError(
    'ERR_DATA',
    `${where}: expected a message with role and content (or from and value), received ${describe(message)}`,
    {
      at,
      remedy: 'write {"role": "user", "content": "..."}',
    },
  );
}

function extras(row: Row, at: string): ChatRenderOptions {
  const found: ChatRenderOptions = {};
  const tools = typeof row.tools === 'string' ? parseTools(row.tools, at) : row.tools;
  if (Array.isArray(tools)) found.tools = tools as Record<string, unknown>[];
  if (typeof row.chat_template_kwargs === 'object' && row.chat_template_kwargs !== null)
    found.kwargs = row.chat_template_kwargs as Record<string, unknown>;
  return found;
}

/** Tools may be stored as JSON text, because their schemas differ from row to row. */
function parseTools(text: string, at: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new LatheError(
      'ERR_DATA',
      `column "tools": expected a list or its JSON text, received ${(cause as Error).message}`,
      { at, remedy: 'mend the row', cause },
    );
  }
}

/** Labels win over masks, as in TRL. */
function normaliseTokens(row: Row, usesCompletionMask: boolean, at: string): NormalRow {
  const inputIds = requireIds(row.input_ids, 'input_ids', at);
  const perToken = (column: string): number[] | undefined => {
    if (row[column] === undefined || row[column] === null) return undefined;
    const values = requireIds(row[column], column, at);
    if (values.length === inputIds.length) return values;
    throw new LatheError(
      'ERR_DATA',
      `expected as many ${column} as input_ids (${inputIds.length}), received ${values.length}`,
      { at, remedy: 'rebuild the row' },
    );
  };
  let labels = perToken('labels');
  const bad = labels?.find((label) => label < 0 && label !== IGNORE_INDEX);
  if (bad !== undefined) {
    throw new LatheError(
      'ERR_DATA',
      `column "labels": expected token ids, or ${IGNORE_INDEX} where nothing is trained, received ${bad}`,
      { at, remedy: 'rebuild the row' },
    );
  }
  if (labels) return { kind: 'tokens', inputIds, labels };
  for (const column of usesCompletionMask ? ['completion_mask', 'assistant_masks'] : ['assistant_masks']) {
    const mask = perToken(column);
    if (mask) labels = (labels ?? inputIds).map((label, i) => (mask[i] ? label : IGNORE_INDEX));
  }
  return { kind: 'tokens', inputIds, labels };
}

function requireIds(value: unknown, column: string, at: string): number[] {
  const ids = ArrayBuffer.isView(value) ? Array.from(value as unknown as ArrayLike<number>) : value;
  if (Array.isArray(ids) && ids.every((id) => Number.isInteger(id))) return ids as number[];
  throw new LatheError(
    'ERR_DATA',
    `column ${JSON.stringify(column)}: expected a list of integers, received ${describe(value)}`,
    { at, remedy: 'rebuild the row' },
  );
}
