/**
 * Greedy decoding and prefill of the 135M shape beside transformers (bf16) and, where installed, node-llama-cpp at the same
 * weight width. Decoding one token at a time leaves cores idle between ops, so its CPU/wall is judged by its own best and by
 * a probe of the machine around every round.
 */
import { join } from 'node:path';
import { asSlice, Interleaved, type Contender } from '../harness/interleave';
import { nodeWorker, type Worker } from '../harness/worker';
import { shapeConfig, type ModelShape } from '../step/shapes';
import { withWorkers, type PeersContext } from './context';
import { makeGguf, pythonWorker } from './environment';
import { pairRow, type PeerRow } from './row';

const PROMPT = 32;
const DECODE = 64;
const PREFILL = 512;
const GGUF_TYPES = ['BF16', 'Q8_0', 'Q4_0'] as const;

export async function* generationRows(context: PeersContext): AsyncGenerator<PeerRow> {
  const { threads, quick } = context;
  const shape: ModelShape = quick ? 'tiny' : 'smollm2-135m';
  const model = shapeConfig(shape);
  const workers = new Map<string, Worker>();
  for (const base of ['bf16', 'nf4'])
    workers.set(
      `lathe ${base}`,
      nodeWorker(`lathe ${base}`, 'benchmarks/peers/generation-child.ts', { shape, base, threads }),
    );
  workers.set(
    'transformers bf16',
    pythonWorker(context.python, 'transformers', 'generate.py', { model, threads }, threads),
  );
  for (const type of context.llama ? GGUF_TYPES : []) {
    const modelPath = join(context.scratch, `${type}.gguf`);
    makeGguf(context.python, model, type, modelPath);
    workers.set(
      `llama.cpp ${type}`,
      nodeWorker(`llama.cpp ${type}`, 'benchmarks/peers/llama-child.ts', {
        entry: context.llama!.entry,
        modelPath,
        vocabulary: model.vocab_size,
        threads,
      }),
    );
  }
  yield* await withWorkers([...workers.values()], () => measure(workers, context));
}

async function measure(workers: ReadonlyMap<string, Worker>, context: PeersContext): Promise<PeerRow[]> {
  const peakBytes = new Map<string, number>();
  const contenders = (request: object, busy: boolean): Contender[] =>
    [...workers].map(([name, worker]) => ({
      name,
      threads: context.threads,
      busy,
      slice: async () => {
        const answer = await worker.work(request);
        peakBytes.set(name, answer.peakBytes as number);
        return asSlice(answer.samples, answer.tokens as number);
      },
    }));
  const interleaved = async (request: object, busy: boolean): Promise<Interleaved> => {
    const list = contenders(request, busy);
    for (const c of list) await c.slice();
    return new Interleaved(list, () => context.peak.probe(context.threads)).run(context.rounds);
  };
  const decode = await interleaved({ decode: context.quick ? 8 : DECODE, prompt: PROMPT }, false);
  const prefill = await interleaved({ prefill: context.quick ? 64 : PREFILL }, true);
  const row = (run: Interleaved, what: string, ours: string, peer: string, targetRatio: number | null): PeerRow[] =>
    workers.has(peer)
      ? [
          pairRow(run, {
            group: 'generate',
            name: `${what}, ${ours.replace('lathe ', '')} against ${peer}`,
            ours,
            peer,
            unit: 'tokens/s',
            targetRatio,
            memory: { ours: peakBytes.get(ours)!, peer: peakBytes.get(peer)! },
          }),
        ]
      : [];
  return [
    ...row(decode, 'decode 135M', 'lathe bf16', 'transformers bf16', null),
    ...row(decode, 'decode 135M', 'lathe bf16', 'llama.cpp BF16', 1),
    ...row(decode, 'decode 135M', 'lathe nf4', 'llama.cpp Q4_0', 1),
    ...row(decode, 'decode 135M', 'lathe nf4', 'llama.cpp Q8_0', null),
    ...row(prefill, `prefill 135M ${PREFILL} tokens`, 'lathe bf16', 'transformers bf16', 1),
    ...row(prefill, `prefill 135M ${PREFILL} tokens`, 'lathe bf16', 'llama.cpp BF16', 1.8),
    ...row(prefill, `prefill 135M ${PREFILL} tokens`, 'lathe nf4', 'llama.cpp Q4_0', null),
  ];
}
