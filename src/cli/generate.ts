/** `lathe generate`: text from a model, streamed. */
import { createInterface } from 'node:readline';
import { LatheError } from '../errors';
import { alpacaPrompt } from '../data';
import { generate, generateAll, type GenerateOptions } from '../generation/generate';
import { PeftModel } from '../pretrained/peft-model';
import { AutoModelForCausalLM, type FromPretrainedOptions } from '../pretrained/auto';
import type { PreTrainedModel } from '../pretrained/model';
import { BitsAndBytesConfig } from '../quantization/bitsandbytes';
import { openTokenizerAt } from '../train/setup';
import type { Tokenizer } from '../tokenizers/tokenizer';
import { say } from './output';

export async function generateCommand(o: Record<string, unknown>): Promise<void> {
  const path = o.model as string;
  const model = await AutoModelForCausalLM.fromPretrained(path, {
    dtype: o.dtype as FromPretrainedOptions['dtype'],
    device: o.device as string,
    threads: number(o, 'threads') ?? undefined,
    quantizationConfig: o.loadIn4bit ? new BitsAndBytesConfig({ loadIn4bit: true, bnb4bitQuantType: 'nf4', bnb4bitUseDoubleQuant: true }) : undefined,
  });
  if (o.adapter) await PeftModel.fromPretrained(model, o.adapter as string);
  const tokenizer = await openTokenizerAt(path, o.adapter as string | undefined);
  const options: GenerateOptions = {
    tokenizer,
    maxNewTokens: number(o, 'maxNewTokens'),
    doSample: o.doSample === true ? true : undefined,
    temperature: number(o, 'temperature'),
    topK: number(o, 'topK'),
    topP: number(o, 'topP'),
    minP: number(o, 'minP'),
    repetitionPenalty: number(o, 'repetitionPenalty'),
    numReturnSequences: number(o, 'numReturnSequences'),
    stopStrings: o.stop as string[] | undefined,
    seed: number(o, 'seed'),
    eosTokenId: eosIds(model, tokenizer),
  };
  try {
    const given = o.prompt as string[] | undefined;
    if (given) for (const prompt of given) await one(model, tokenizer, prompt, options, o);
    else for await (const line of createInterface({ input: process.stdin })) await one(model, tokenizer, line, options, o);
  } finally {
    await model.close();
  }
}

/** End tokens of the files, else the tokenizer's. */
function eosIds(model: PreTrainedModel, tokenizer: Tokenizer): number[] | undefined {
  const stored = model.generationConfig?.eos_token_id ?? model.config.eos_token_id;
  const ids = [stored, tokenizer.eosTokenId].flat().filter((id): id is number => typeof id === 'number');
  return ids.length ? [...new Set(ids)] : undefined;
}

async function one(model: PreTrainedModel, tokenizer: Tokenizer, prompt: string, options: GenerateOptions, o: Record<string, unknown>): Promise<void> {
  const ids = await promptIds(tokenizer, prompt, o);
  if (o.json) {
    for (const r of await generateAll(model, [ids], options)) say(JSON.stringify({ prompt, text: r.text, tokens: r.tokens, finish_reason: r.finishReason }));
    return;
  }
  let last = 0;
  for await (const event of generate(model, [ids], options)) {
    if (event.sequence !== last) say();
    last = event.sequence;
    if ((options.numReturnSequences ?? 1) === 1) process.stdout.write(event.text ?? '');
  }
  if ((options.numReturnSequences ?? 1) > 1) for (const r of await generateAll(model, [ids], options)) say(`- ${r.text}`);
  say();
}

async function promptIds(tokenizer: Tokenizer, prompt: string, o: Record<string, unknown>): Promise<number[]> {
  if (o.alpaca) return tokenizer.encode(alpacaPrompt(prompt));
  if (!o.chat) return tokenizer.encode(prompt);
  const messages = [...(o.system ? [{ role: 'system', content: o.system as string }] : []), { role: 'user', content: prompt }];
  return tokenizer.encode(tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true }), { addSpecialTokens: false });
}

function number(o: Record<string, unknown>, key: string): number | undefined {
  if (o[key] === undefined) return undefined;
  const value = Number(o[key]);
  if (Number.isFinite(value)) return value;
  const flag = key.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);
  throw new LatheError('ERR_CONFIG', `--${flag} expected a number, received '${String(o[key])}'`);
}
