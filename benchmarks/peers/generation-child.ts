/**
 * Generation with random weights on command: `{prefill: n}` reads a prompt of n tokens, `{decode: n, prompt: p}` reads one of
 * p and times the n tokens after the first.
 */
import { generate } from '../../src/generation/generate';
import { AutoModelForCausalLM } from '../../src/pretrained/auto';
import { BitsAndBytesConfig } from '../../src/quantization/bitsandbytes';
import { givenConfig, peakResidentBytes, serve, timed } from '../harness/serve';
import { shapeConfig, type ModelShape } from '../step/shapes';

interface GenerationRun {
  readonly shape: ModelShape;
  readonly base: 'bf16' | 'nf4';
  readonly threads: number;
}

async function main(): Promise<void> {
  const { shape, base, threads } = givenConfig<GenerationRun>();
  const quantizationConfig =
    base === 'nf4' ? new BitsAndBytesConfig({ loadIn4bit: true, bnb4bitQuantType: 'nf4' }) : undefined;
  const model = AutoModelForCausalLM.fromConfig(shapeConfig(shape), { dtype: 'bf16', quantizationConfig, threads });
  await model.ready();
  let seed = 1;
  const prompt = (length: number): number[] =>
    Array.from({ length }, () => (seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0) % model.vocabSize);
  // No end token: random weights may choose it.
  const start = (tokens: number[], maxNewTokens: number): ReturnType<typeof generate> =>
    generate(model, [tokens], { maxNewTokens, eosTokenId: [] });
  const drain = async (stream: ReturnType<typeof generate>): Promise<number> => {
    let count = 0;
    while (!(await stream.next()).done) count++;
    return count;
  };
  await serve({}, async (request) => {
    if (typeof request.prefill === 'number') {
      const stream = start(prompt(request.prefill), 1);
      return { samples: [await timed(() => drain(stream))], tokens: request.prefill, peakBytes: peakResidentBytes() };
    }
    const stream = start(prompt(request.prompt as number), (request.decode as number) + 1);
    await stream.next(); // the prompt and its first token
    let tokens = 0;
    const sample = await timed(async () => void (tokens = await drain(stream)));
    return { samples: [sample], tokens, peakBytes: peakResidentBytes() };
  });
  await model.close();
}

void main();
