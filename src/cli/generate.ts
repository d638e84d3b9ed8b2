/** `lathe generate`: text from a model, streamed. */
import { createInterface } from 'node:readline';
import { alpacaPrompt } from '../data';
import { LatheError } from '../errors';
import { generate, generateAll, type GenerateOptions } from '../generation/generate';
import type { PreTrainedModel } from '../pretrained/model';
import type { Tokenizer } from '../tokenizers/tokenizer';
import { endTokens, flagName, numberFlag, openFromFlags } from './model-flags';
import { say, warn } from './output';

/** Flags that would do nothing are said, as transformers warns of them. */
function noteIdleFlags(o: Record<string, unknown>, model: PreTrainedModel): void {
  const samples = o.doSample === true || model.generationConfig?.do_sample === true;
  const idle = samples
    ? []
    : (['temperature', 'topK', 'topP', 'minP', 'seed'] as const).filter((key) => o[key] !== undefined);
  if (idle.length) warn(`${idle.map(flagName).join(', ')}: no effect without --do-sample`);
  if (o.system !== undefined && !o.chat) warn('--system: no effect without --chat');
}

export async function generateCommand(o: Record<string, unknown>): Promise<void> {
  if (o.chat && o.alpaca)
    throw new LatheError('ERR_CONFIG', 'expected one of --chat and --alpaca, received both', {
      remedy: 'leave one out',
    });
  const { model, tokenizer } = await openFromFlags(o);
  noteIdleFlags(o, model);
  const options: GenerateOptions = {
    tokenizer,
    maxNewTokens: numberFlag(o, 'maxNewTokens'),
    doSample: o.doSample === true ? true : undefined,
    temperature: numberFlag(o, 'temperature'),
    topK: numberFlag(o, 'topK'),
    topP: numberFlag(o, 'topP'),
    minP: numberFlag(o, 'minP'),
    repetitionPenalty: numberFlag(o, 'repetitionPenalty'),
    numReturnSequences: numberFlag(o, 'numReturnSequences'),
    stopStrings: o.stop as string[] | undefined,
    seed: numberFlag(o, 'seed'),
    eosTokenId: endTokens(model, tokenizer),
  };
  try {
    const given = o.prompt as string[] | undefined;
    if (given) for (const prompt of given) await one(model, tokenizer, prompt, options, o);
    else
      for await (const line of createInterface({ input: process.stdin })) await one(model, tokenizer, line, options, o);
  } finally {
    await model.close();
  }
}

async function one(
  model: PreTrainedModel,
  tokenizer: Tokenizer,
  prompt: string,
  options: GenerateOptions,
  o: Record<string, unknown>,
): Promise<void> {
  const ids = await promptIds(tokenizer, prompt, o);
  if (o.json) {
    for (const r of await generateAll(model, [ids], options))
      say(JSON.stringify({ prompt, text: r.text, tokens: r.tokens, finish_reason: r.finishReason }));
    return;
  }
  if ((options.numReturnSequences ?? 1) > 1) {
    for (const r of await generateAll(model, [ids], options)) say(`- ${r.text}`);
    return;
  }
  for await (const event of generate(model, [ids], options)) process.stdout.write(event.text);
  say();
}

async function promptIds(tokenizer: Tokenizer, prompt: string, o: Record<string, unknown>): Promise<number[]> {
  if (o.alpaca) return tokenizer.encode(alpacaPrompt(prompt));
  if (!o.chat) return tokenizer.encode(prompt);
  const messages = [
    ...(o.system ? [{ role: 'system', content: o.system as string }] : []),
    { role: 'user', content: prompt },
  ];
  return tokenizer.encode(tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true }), {
    addSpecialTokens: false,
  });
}
