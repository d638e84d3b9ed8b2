/** node-llama-cpp on command, with the requests of generation-child.ts. Only the CPU, and the threads it is told. */
import { pathToFileURL } from 'node:url';
import { givenConfig, peakResidentBytes, serve, timed } from '../harness/serve';

interface LlamaRun {
  /** Entry file of the package. */
  readonly entry: string;
  readonly modelPath: string;
  readonly vocabulary: number;
  readonly threads: number;
}

/** The part of node-llama-cpp 3 that is used. */
interface LlamaModule {
  getLlama(options: object): Promise<{
    loadModel(options: object): Promise<{ createContext(options: object): Promise<{ getSequence(): LlamaSequence }> }>;
  }>;
}
interface LlamaSequence {
  evaluate(tokens: readonly number[], options: object): AsyncGenerator<number, unknown>;
  evaluateWithoutGeneratingNewTokens(tokens: readonly number[]): Promise<void>;
  clearHistory(): Promise<void>;
}

async function main(): Promise<void> {
  const { entry, modelPath, vocabulary, threads } = givenConfig<LlamaRun>();
  const { getLlama } = (await import(pathToFileURL(entry).href)) as LlamaModule;
  const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'error', maxThreads: threads });
  const model = await llama.loadModel({ modelPath, gpuLayers: 0 });
  const context = await model.createContext({ contextSize: 1024, batchSize: 512, threads, sequences: 1 });
  const sequence = context.getSequence();
  let seed = 1;
  // Ids 0 and 1 may be special in a made-up vocabulary.
  const prompt = (length: number): number[] =>
    Array.from({ length }, () => 2 + ((seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0) % (vocabulary - 2)));
  await serve({}, async (request) => {
    await sequence.clearHistory();
    if (typeof request.prefill === 'number') {
      const tokens = prompt(request.prefill);
      return {
        samples: [await timed(() => sequence.evaluateWithoutGeneratingNewTokens(tokens))],
        tokens: request.prefill,
        peakBytes: peakResidentBytes(),
      };
    }
    const stream = sequence.evaluate(prompt(request.prompt as number), { temperature: 0, yieldEogToken: true });
    await stream.next();
    let tokens = 0;
    const sample = await timed(async () => {
      while (tokens < (request.decode as number) && !(await stream.next()).done) tokens++;
    });
    await stream.return(undefined);
    return { samples: [sample], tokens, peakBytes: peakResidentBytes() };
  });
  process.exit(0); // its own threads keep the process alive
}

void main();
