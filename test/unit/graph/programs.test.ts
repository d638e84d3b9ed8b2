/**
 * Golden programs: the printed graph of a one-layer Llama's step after all passes, under each checkpoint policy, and of
 * its optimizer step. A change shows as a diff of test/golden/programs; after reading it, accept it with
 *   LATHE_UPDATE_GOLDEN=1 npx jest test/unit/graph/programs
 */
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { optimize } from '../../../src/compile/compile';
import { printGraph } from '../../../src/graph/print';
import type { Graph } from '../../../src/graph/trace';
import { applyGraph } from '../../../src/train/programs';
import { tinyLlama, type TinyOptions } from './tiny-llama';

const FOLDER = path.join(__dirname, '..', '..', 'golden', 'programs');

function expectGolden(name: string, text: string): void {
  const file = path.join(FOLDER, `${name}.txt`);
  if (process.env.LATHE_UPDATE_GOLDEN) writeFileSync(file, text);
  expect(text).toBe(readFileSync(file, 'utf8'));
}

/** QLoRA with dropout on two projections of a bf16 model. */
const QLORA: TinyOptions = {
  dtype: 'bf16',
  quantised: true,
  hidden: 64,
  dropout: 0.1,
  targets: ['q_proj', 'v_proj', 'down_proj'],
};
const FULL: TinyOptions = { full: true, tied: true };
const graphOf = (o: TinyOptions, accumulate?: boolean): Graph => tinyLlama(o).graph(accumulate);

test.each(['none', 'light', 'block', 'smart'] as const)('QLoRA step, checkpoint %s', (policy) => {
  expectGolden(`llama-qlora-${policy}`, printGraph(optimize(graphOf(QLORA), policy)));
});

test('full training step with a tied embedding', () => {
  expectGolden('llama-full', printGraph(optimize(graphOf(FULL), 'none')));
});

test('the same for a later micro-batch of the step', () => {
  expectGolden('llama-full-adding', printGraph(optimize(graphOf(FULL, true), 'none')));
});

test.each(['adamw', 'adamw_8bit'] as const)('%s step', (kind) => {
  const { parameters } = tinyLlama({
    hidden: 64,
    targets: ['q_proj'],
    layers: 1,
    full: kind === 'adamw_8bit',
    tied: true,
  });
  const settings = { kind, beta1: 0.9, beta2: 0.999, eps: 1e-8, maxGradNorm: 1 };
  expectGolden(`llama-${kind}`, printGraph(optimize(applyGraph(parameters, settings))));
});

test('what the goldens must show', () => {
  const text = readFileSync(path.join(FOLDER, 'llama-qlora-none.txt'), 'utf8');
  const ops = (name: string): number => text.split('\n').filter((line) => line.includes(` = ${name}(`)).length;
  // 4-bit weights are never dequantised in full, the loss is computed once, sums are inside of ops, nothing is frozen and differentiated.
  expect(ops('dequantize_4bit')).toBe(0);
  expect(ops('linear_cross_entropy')).toBe(0);
  expect(ops('linear_cross_entropy_grad')).toBe(1);
  expect(ops('add')).toBe(0);
  expect(text).not.toContain('embedding_grad');
  // A step's first micro-batch does not read what the gradients were.
  expect(text).not.toMatch(/^%.*@grad:/m);
  // One update per adapter matrix.
  expect(text.match(/^update /gm)).toHaveLength(6);
});
