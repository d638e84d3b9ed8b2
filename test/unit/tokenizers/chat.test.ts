/** Chat templates against transformers' own rendering; assistant masks; refusals. */
import { join } from 'node:path';
import { AutoTokenizer } from '../../../src/tokenizers/auto-tokenizer';
import { strftime, type ChatMessage, type ChatTemplateOptions } from '../../../src/tokenizers/chat-template';
import { GOLDEN, golden, realTokenizer } from './goldens';

interface Case {
  conversation: string;
  options: Record<string, unknown>;
  text?: string;
  error?: string;
}
interface Chat {
  now: string;
  conversations: Record<string, ChatMessage[]>;
  templates: Record<string, { template: string; cases: Case[]; masks?: Record<string, number[]> }>;
}
const chat = golden<Chat>('chat.json');
const tokenizer = AutoTokenizer.fromPretrained(join(GOLDEN, 'tiny-bpe'));

function toOptions(options: Record<string, unknown>): ChatTemplateOptions {
  const { add_generation_prompt, tools, ...kwargs } = options;
  return {
    addGenerationPrompt: add_generation_prompt as boolean,
    tools: tools as Record<string, unknown>[],
    kwargs,
    now: new Date(2024, 6, 4, 15, 6, 7),
  };
}

describe.each(Object.entries(chat.templates))('template %s', (_name, { template, cases, masks }) => {
  test.each(cases.map((c) => [`${c.conversation} ${Object.keys(c.options).join(' ')}`, c] as const))(
    '%s',
    (_title, c) => {
      const render = () =>
        tokenizer.applyChatTemplate(chat.conversations[c.conversation], {
          ...toOptions(c.options),
          chatTemplate: template,
        });
      if (c.error) expect(render).toThrow();
      else expect(render()).toBe(c.text);
    },
  );

  for (const [conversation, mask] of Object.entries(masks ?? {})) {
    test(`mask of ${conversation}`, async () => {
      const spans = await tokenizer.chatTemplateSpans(chat.conversations[conversation], { chatTemplate: template });
      expect(Array.from(spans.mask)).toEqual(mask);
    });
  }
});

describe('real templates', () => {
  const real = golden<{ conversations: Record<string, ChatMessage[]>; tokenizers: Record<string, Case[]> }>(
    'real-chat.json',
  );
  for (const [name, cases] of Object.entries(real.tokenizers)) {
    const folder = realTokenizer(name);
    (folder ? test : test.skip)(`${name} (needs LATHE_TOKENIZERS)`, () => {
      const own = AutoTokenizer.fromPretrained(folder!);
      for (const c of cases) {
        const render = () => own.applyChatTemplate(real.conversations[c.conversation], toOptions(c.options));
        if (c.error) expect(render).toThrow();
        else expect(render()).toBe(c.text);
      }
    });
  }
});

describe('assistant spans by prefixes', () => {
  const spanTexts = async (messages: ChatMessage[], options = {}) => {
    const { text, ids, mask, spans } = await tokenizer.chatTemplateSpans(messages, options);
    expect(ids).toEqual(await tokenizer.encode(text, { addSpecialTokens: false }));
    const kept = ids.filter((_, i) => mask[i]);
    expect(tokenizer.decode(kept)).toBe(spans.map(([a, b]) => text.slice(a, b)).join(''));
    return spans.map(([a, b]) => text.slice(a, b));
  };

  test('ends with the stop token, without the line break behind it', async () => {
    expect(await spanTexts(chat.conversations.plain)).toEqual(['  A model.\n<|im_end|>', '4<|im_end|>']);
    expect(await spanTexts(chat.conversations.plain, { turns: 'last' })).toEqual(['4<|im_end|>']);
    expect(await spanTexts(chat.conversations.open)).toEqual([]);
  });

  test('equals the mask of the same template with {% generation %}', async () => {
    const marked = chat.templates.marked.template;
    const plain = await tokenizer.chatTemplateSpans(chat.conversations.system, {
      chatTemplate: chat.templates.chatml.template,
    });
    const byTag = await tokenizer.chatTemplateSpans(chat.conversations.system, { chatTemplate: marked });
    expect(byTag.text.slice(...byTag.spans[0])).toContain('Blue.<|im_end|>');
    expect(plain.text.slice(...plain.spans[0])).toBe('Blue.<|im_end|>');
  });

  test('a template that rewrites earlier turns is refused with the way out', async () => {
    const thinker = chat.templates.thinker.template;
    const messages = chat.conversations.think;
    await expect(spanTexts(messages, { chatTemplate: thinker })).rejects.toThrow(
      /template changes earlier text.*turns: 'last'/s,
    );
    expect(await spanTexts(messages.slice(0, 2), { chatTemplate: thinker })).toEqual([
      '<think>\nhm  \n</think>\n\n because<|im_end|>',
    ]);
  });

  test('a template that always prompts is refused', async () => {
    const always =
      "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' }}{% endfor %}{{ '<|im_start|>assistant\\n' }}";
    await expect(spanTexts(chat.conversations.system, { chatTemplate: always })).rejects.toThrow(
      /whether or not a generation prompt/,
    );
  });

  test('a conversation that starts with the assistant is refused', async () => {
    await expect(spanTexts([{ role: 'assistant', content: 'x' }])).rejects.toThrow(/starts with the assistant/);
  });
});

describe('refusals', () => {
  const user: ChatMessage[] = [{ role: 'user', content: 'x' }];
  test('raise_exception is ERR_DATA in the words of the template', () => {
    const render = () =>
      tokenizer.applyChatTemplate(user, { chatTemplate: "{{ raise_exception('roles must alternate') }}" });
    expect(render).toThrow(
      expect.objectContaining({ code: 'ERR_DATA', message: expect.stringContaining('roles must alternate') }),
    );
  });
  test('a template that does not parse, or fails', () => {
    expect(() => tokenizer.applyChatTemplate(user, { chatTemplate: '{% if %}' })).toThrow(
      expect.objectContaining({ code: 'ERR_FORMAT' }),
    );
    expect(() => tokenizer.applyChatTemplate(user, { chatTemplate: '{{ messages[0].none.strip() }}' })).toThrow(
      expect.objectContaining({ code: 'ERR_FORMAT' }),
    );
    expect(() => tokenizer.applyChatTemplate(['x'] as never, {})).toThrow(/messages\[0\]/);
  });
  test('no template', () => {
    expect(() => AutoTokenizer.fromPretrained(join(GOLDEN, 'tiny-wordpiece')).applyChatTemplate(user)).toThrow(
      /no chat template/,
    );
  });
  test('tokenize gives the ids of the text', async () => {
    expect(await tokenizer.applyChatTemplate(user, { tokenize: true })).toEqual(
      await tokenizer.encode(tokenizer.applyChatTemplate(user), { addSpecialTokens: false }),
    );
  });
  test('strftime', () => {
    expect(strftime(new Date(2024, 2, 5, 0, 7, 9), '%Y-%m-%d %H:%M:%S %b %B %a %A %j %I %p %y %-d %e %% %Q')).toBe(
      '2024-03-05 00:07:09 Mar March Tue Tuesday 065 12 AM 24 5  5 % %Q',
    );
  });
});
