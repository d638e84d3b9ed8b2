/** Options of programs without types: what nobody reads is refused, never ignored. */
import { join } from 'node:path';
import { loadDataset } from '../../src/data';
import { LoraConfig, type LoraOptions } from '../../src/peft/lora-config';
import { AutoModelForCausalLM } from '../../src/pretrained/auto';
import { BitsAndBytesConfig, type BitsAndBytesOptions } from '../../src/quantization/bitsandbytes';
import { configFromObject, parseConfigText, resolveEntries } from '../../src/train/arguments';
import { EarlyStoppingCallback } from '../../src/train/events';
import { loraConfigOf, SFTTrainer, type SFTTrainerOptions } from '../../src/train/sft-trainer';
import { defaultThreads } from '../../src/compile/devices';
import { GOLDEN } from '../train/golden';

const MODEL = join(GOLDEN, 'llama-tiny/tied');

test.each<[string, () => unknown, RegExp]>([
  [
    'LoraConfig',
    () => new LoraConfig({ r: 8, lora_alpha: 16 } as LoraOptions),
    /\[LoraConfig\] unknown option 'lora_alpha': did you mean 'loraAlpha'/,
  ],
  [
    'BitsAndBytesConfig',
    () => new BitsAndBytesConfig({ loadIn4bits: true } as BitsAndBytesOptions),
    /did you mean 'loadIn4bit'/,
  ],
  [
    'fromPretrained',
    () => AutoModelForCausalLM.fromPretrained(MODEL, { torchDtype: 'float32' } as object),
    /\[fromPretrained\] unknown option 'torchDtype'/,
  ],
  ['fromConfig', () => AutoModelForCausalLM.fromConfig({}, { dtyp: 'f32' } as object), /did you mean 'dtype'/],
  ['loadDataset', () => loadDataset('rows.jsonl', { spilt: 'train' } as object), /did you mean 'split'/],
  [
    'SFTTrainer, an unknown one',
    () => new SFTTrainer({ tokenizer: {} } as unknown as SFTTrainerOptions),
    /\[SFTTrainer\] unknown option 'tokenizer'/,
  ],
  [
    'SFTTrainer, one missing',
    () => new SFTTrainer({ model: MODEL, trainDataset: [] } as unknown as SFTTrainerOptions),
    /expected processingClass, received none/,
  ],
  [
    'EarlyStoppingCallback',
    () => new EarlyStoppingCallback({ earlyStoppingPatience: 3 } as unknown as number),
    /patience expected a number >= 0/,
  ],
])('%s', async (_, make, message) => {
  await expect((async () => make())()).rejects.toMatchObject({
    code: 'ERR_CONFIG',
    message: expect.stringMatching(message) as string,
  });
});

test('one target module may be a regular expression, as TRL hands it to PEFT', () => {
  const targets = (loraTargetModules: string[]): unknown =>
    loraConfigOf(configFromObject({ usePeft: true, loraTargetModules })).targetModules;
  expect(targets(['.*self_attn.(q|v)_proj'])).toBe('.*self_attn.(q|v)_proj');
  expect(targets(['q_proj'])).toEqual(['q_proj']);
  expect(targets(['all-linear'])).toBe('all-linear');
  expect(targets(['q_proj', 'v_proj'])).toEqual(['q_proj', 'v_proj']);
});

test('a plain object asks for 4 bits as the class does', async () => {
  const model = await AutoModelForCausalLM.fromPretrained(MODEL, {
    quantizationConfig: { loadIn4bit: true, bnb4bitQuantType: 'nf4' } as BitsAndBytesConfig,
  });
  expect(model.origin.quantization?.describe()).toBe('4-bit nf4');
  await model.close();
});

test('a key under two spellings in one file is an error, a retired spelling that loses is said to', () => {
  const read = (text: string): ReturnType<typeof resolveEntries> => resolveEntries(parseConfigText(text, 'a.yaml'));
  expect(() => read('learning_rate: 1e-3\nlearningRate: 3\n')).toThrow(
    /expected learning_rate once, received it under two spellings \(the other one at a.yaml:1:16\) \(at a.yaml:2:1\)/,
  );
  const config = read('max_length: 64\nmax_seq_length: 77\n');
  expect(config.maxLength).toBe(64);
  expect(config.notes).toContain('the value at a.yaml:2:17 is left aside: max_length is given as well (a.yaml:1:13)');
});

test('an output folder has a name, and threads are a number that the engine takes', () => {
  expect(() => configFromObject({ outputDir: ' ' })).toThrow(
    /output_dir: expected the path of a folder, received empty text/,
  );
  expect(() => configFromObject({ threads: 1025 })).toThrow(/threads: expected an integer >= 1 and <= 1024/);
  const before = process.env.LATHE_THREADS;
  try {
    for (const text of ['abc', '0', '-3', '1.5', '2000']) {
      process.env.LATHE_THREADS = text;
      expect(() => defaultThreads()).toThrow(`LATHE_THREADS: expected a number from 1 to 1024, received '${text}'`);
    }
    process.env.LATHE_THREADS = '3';
    expect(defaultThreads()).toBe(3);
  } finally {
    if (before === undefined) delete process.env.LATHE_THREADS;
    else process.env.LATHE_THREADS = before;
  }
});
