/**
 * Generation, one sequence: tokens per second of Llama-3-8B's shape, random weights, in NF4 and in bf16, and the bytes of weights
 * that a token reads at least. `node bench-decode.js cuda [--tiny] > decode.json`; the time of a token is the difference
 * between a long and a short answer. --tiny: that this script runs, its numbers mean nothing.
 */
import { knownConfig } from '../../src/models/known-configs';
import type { RawConfig } from '../../src/models/config-reader';
import { AutoModelForCausalLM } from '../../src/pretrained/auto';
import { BitsAndBytesConfig } from '../../src/quantization/bitsandbytes';
import { TINY_LLAMA } from './tiny';

const tiny = process.argv.includes('--tiny');
const CONFIG: RawConfig = { ...knownConfig('meta-llama/Meta-Llama-3-8B')!, ...(tiny ? TINY_LLAMA : {}) };
const [SHORT, LONG] = tiny ? [2, 6] : [32, 160];

async function measure(device: string, fourBit: boolean): Promise<object> {
  const quantizationConfig = fourBit
    ? new BitsAndBytesConfig({ loadIn4bit: true, bnb4bitQuantType: 'nf4', bnb4bitUseDoubleQuant: true })
    : undefined;
  const model = AutoModelForCausalLM.fromConfig(CONFIG, {
    dtype: 'bf16',
    quantizationConfig,
    device,
    threads: 1,
    seed: 1,
  });
  const session = await model.ready();
  // Of the embedding table a token reads one row.
  const embedding = 2 * (CONFIG.vocab_size as number) * (CONFIG.hidden_size as number);
  const bytesPerToken = session.stats().stateBytes - embedding;
  const prompt = Array.from({ length: 16 }, (_, i) => (i * 37 + 1) % (CONFIG.vocab_size as number));
  const timed = async (tokens: number): Promise<number> => {
    const begun = performance.now();
    const [sequence] = await model.generate([prompt], { maxNewTokens: tokens, eosTokenId: [] });
    if (sequence.tokens.length !== tokens)
      throw new Error(`expected ${tokens} new tokens, received ${sequence.tokens.length}`);
    return (performance.now() - begun) / 1e3;
  };
  await timed(LONG); // compiles, grows the cache
  const each: number[] = [];
  for (let i = 0; i < (tiny ? 1 : 3); i++) each.push(((await timed(LONG)) - (await timed(SHORT))) / (LONG - SHORT));
  await model.close();
  const seconds = each.sort((a, b) => a - b)[each.length >> 1];
  return {
    name: fourBit ? 'decode nf4' : 'decode bf16',
    tokensPerSecond: 1 / seconds,
    bytesPerToken,
    gigabytesPerSecond: bytesPerToken / seconds / 1e9,
  };
}

async function main(): Promise<void> {
  const device = process.argv[2] ?? 'cuda';
  const rows: object[] = [];
  for (const fourBit of [true, false]) {
    rows.push(
      await measure(device, fourBit).catch((error: unknown) => {
        process.exitCode = 1;
        process.stderr.write(`FAILED decode: ${String(error)}\n`);
        return { name: fourBit ? 'decode nf4' : 'decode bf16', failed: String(error) };
      }),
    );
  }
  process.stdout.write(`${JSON.stringify(rows, null, 1)}\n`);
}

void main();
