/**
 * Chat templates: messages to the text a model was tuned on.
 *
 * The template is a program that came with the model; it gets `messages`, `tools`, `documents`,
 * `add_generation_prompt`, the named special tokens and the caller's own variables, and it may call
 * `raise_exception` and `strftime_now`. Keys whose value is null are left out of messages, and a reasoning text is
 * offered under each of its names, as transformers 5 does before rendering. `now` can be fixed so that a run repeats.
 */
import { LatheError, nearest } from '../errors';
import { compileTemplate, renderTemplate, type CompiledTemplate } from './jinja-python';

/** A turn of a conversation. `content` is text, or a list of parts for templates that take them. */
export interface ChatMessage {
  role: string;
  content?: string | null | Record<string, unknown>[];
  [key: string]: unknown;
}

export interface ChatTemplateOptions {
  /** Ends the text with what precedes an answer, e.g. '<|im_start|>assistant\n'. */
  addGenerationPrompt?: boolean;
  /** JSON schemas of the tools the model may call. */
  tools?: Record<string, unknown>[] | null;
  documents?: Record<string, unknown>[] | null;
  /** A template's text, or the name of one of the tokenizer's templates. */
  chatTemplate?: string;
  /** Further variables, e.g. {enable_thinking: false}. */
  kwargs?: Record<string, unknown>;
  /** The date that `strftime_now` sees; the present by default. */
  now?: Date;
}

export interface RenderedChat {
  text: string;
  /** Character ranges of `{% generation %}` blocks. */
  spans: [number, number][];
  /** Whether the template marks what the assistant says. */
  hasGeneration: boolean;
}

/**
 * Picks the template's text: the argument (a name or a text), else 'tool_use' when tools are given, else 'default'.
 * Errors: ERR_CONFIG when there is none.
 */
export function selectChatTemplate(templates: ReadonlyMap<string, string>, options: ChatTemplateOptions): string {
  const asked = options.chatTemplate;
  if (asked !== undefined) {
    const named = templates.get(asked);
    if (named !== undefined) return named;
    // A template without any tag would print the same text for every conversation: surely a misspelt name.
    if (!asked.includes('{')) {
      const close = nearest(asked, templates.keys());
      throw new LatheError(
        'ERR_CONFIG',
        `expected a chat template or one of [${[...templates.keys()].join(', ')}], received '${asked}'`,
        {
          at: 'chatTemplate',
          remedy: close ? `did you mean '${close}'?` : 'pass the Jinja text of a template',
        },
      );
    }
    return asked;
  }
  const chosen =
    (options.tools ? templates.get('tool_use') : undefined) ??
    templates.get('default') ??
    (templates.size === 1 ? [...templates.values()][0] : undefined);
  if (chosen !== undefined) return chosen;
  throw new LatheError(
    'ERR_CONFIG',
    templates.size
      ? `the tokenizer has the chat templates [${[...templates.keys()].join(', ')}] and none is the default`
      : 'the tokenizer has no chat template',
    {
      at: 'chatTemplate',
      remedy: templates.size
        ? 'pass one of the names as chatTemplate'
        : "pass chatTemplate, or add chat_template.jinja to the model's folder",
    },
  );
}

const compiled = new Map<string, CompiledTemplate>();
const MAX_COMPILED = 32;

/**
 * Renders `messages`. Errors: ERR_DATA with the template's own words when it calls raise_exception, ERR_FORMAT when
 * the template does not parse or fails.
 */
export function renderChat(
  template: string,
  messages: readonly ChatMessage[],
  specialTokens: ReadonlyMap<string, string>,
  options: ChatTemplateOptions = {},
): RenderedChat {
  const program = compile(template);
  const now = options.now;
  const variables: Record<string, unknown> = {
    ...globals(now),
    messages: prepareMessages(messages),
    tools: options.tools ?? null,
    documents: options.documents ?? null,
    add_generation_prompt: options.addGenerationPrompt ?? false,
    ...Object.fromEntries(specialTokens),
    ...options.kwargs,
  };
  try {
    return { ...renderTemplate(program, variables), hasGeneration: program.hasGeneration };
  } catch (cause) {
    if ((cause as { code?: string }).code === 'ERR_DATA') throw cause;
    throw new LatheError('ERR_FORMAT', `the chat template failed: ${(cause as Error).message}`, {
      at: `messages [${messages.map((m) => m.role).join(', ')}]`,
      remedy:
        'check that the messages have the fields the template reads (role, content), or pass another chatTemplate',
      cause,
    });
  }
}

function compile(template: string): CompiledTemplate {
  let program = compiled.get(template);
  if (program) return program;
  try {
    program = compileTemplate(template);
  } catch (cause) {
    throw new LatheError('ERR_FORMAT', `the chat template does not parse: ${(cause as Error).message}`, {
      at: `template starting '${template.slice(0, 40).replace(/\n/g, ' ')}'`,
      remedy: 'check its Jinja syntax; compare with the original model',
      cause,
    });
  }
  if (compiled.size >= MAX_COMPILED) compiled.delete(compiled.keys().next().value!);
  compiled.set(template, program);
  return program;
}

function globals(now: Date | undefined): Record<string, unknown> {
  return {
    true: true,
    false: false,
    none: null,
    True: true,
    False: false,
    None: null,
    range: pythonRange,
    raise_exception: (message: unknown) => {
      throw new LatheError('ERR_DATA', `the chat template refused the messages: ${String(message)}`, {
        remedy:
          'change the conversation so that it fits the template (roles, their order), or pass another chatTemplate',
      });
    },
    strftime_now: (format: string) => strftime(now ?? new Date(), format),
  };
}

const REASONING_FIELDS = ['reasoning_content', 'thinking', 'reasoning'];

function prepareMessages(messages: readonly ChatMessage[]): Record<string, unknown>[] {
  return messages.map((message, index) => {
    if (typeof message !== 'object' || message === null || Array.isArray(message)) {
      throw new LatheError(
        'ERR_DATA',
        `expected a message {role, content}, received ${JSON.stringify(message)?.slice(0, 80)}`,
        {
          at: `messages[${index}]`,
          remedy: 'pass a list of objects with role and content',
        },
      );
    }
    const present = Object.fromEntries(
      Object.entries(message).filter(([, value]) => value !== null && value !== undefined),
    );
    const field = REASONING_FIELDS.find((name) => present[name] !== undefined);
    return field === undefined ? present : { thinking: present[field], ...present, reasoning_content: present[field] };
  });
}

function pythonRange(first: number, stop?: number, step = 1): number[] {
  const [from, to] = stop === undefined ? [0, first] : [first, stop];
  const count = Math.max(0, Math.ceil((to - from) / step));
  return Array.from({ length: count }, (_, i) => from + i * step);
}

const DAYS = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'];
const MONTHS = [
  'January',
  'February',
  'March',
  'April',
  'May',
  'June',
  'July',
  'August',
  'September',
  'October',
  'November',
  'December',
];

/** C's strftime in the C locale, for the fields that templates use. Unknown fields stay as they are. */
export function strftime(date: Date, format: string): string {
  const pad = (value: number, width = 2) => String(value).padStart(width, '0');
  const hour12 = date.getHours() % 12 || 12;
  const dayOfYear =
    Math.round(
      (Date.UTC(date.getFullYear(), date.getMonth(), date.getDate()) - Date.UTC(date.getFullYear(), 0, 1)) / 86_400_000,
    ) + 1;
  const fields: Record<string, () => string> = {
    Y: () => String(date.getFullYear()),
    y: () => pad(date.getFullYear() % 100),
    m: () => pad(date.getMonth() + 1),
    d: () => pad(date.getDate()),
    e: () => String(date.getDate()).padStart(2, ' '),
    j: () => pad(dayOfYear, 3),
    B: () => MONTHS[date.getMonth()],
    b: () => MONTHS[date.getMonth()].slice(0, 3),
    A: () => DAYS[date.getDay()],
    a: () => DAYS[date.getDay()].slice(0, 3),
    H: () => pad(date.getHours()),
    I: () => pad(hour12),
    M: () => pad(date.getMinutes()),
    S: () => pad(date.getSeconds()),
    p: () => (date.getHours() < 12 ? 'AM' : 'PM'),
    F: () => `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`,
    T: () => `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`,
    '%': () => '%',
  };
  return format.replace(/%(-?)([A-Za-z%])/g, (all, bare: string, field: string) => {
    const value = Object.hasOwn(fields, field) ? fields[field]() : undefined;
    if (value === undefined) return all;
    return bare ? value.replace(/^[0 ]+(?=\d)/, '') : value;
  });
}
