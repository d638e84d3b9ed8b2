/** Which ops are timed: the shapes of the models that people fine-tune on a CPU. */
import type { AttentionCase, MatmulCase, OpCase, RowCase } from './cases';

const T = 1024;

type Size = readonly [layout: MatmulCase['layout'], m: number, k: number, n: number];

/** M, N, K of at least 512: the shapes that the GEMM targets are about. */
const LARGE: readonly Size[] = [
  ['NT', 512, 512, 512],
  ['NT', T, 576, 576],
  ['NT', T, 576, 1536],
  ['NT', T, 1536, 576],
  ['NT', T, 2048, 2048],
  ['NT', 512, 2048, 5632],
  ['NT', 512, 5632, 2048],
  ['NT', T, 4096, 4096],
  ['NT', 2048, 2048, 2048],
  ['NN', 512, 512, 512],
  ['NN', T, 1536, 576],
  ['NN', T, 2048, 2048],
  ['TN', 512, 512, 512],
  ['TN', 576, T, 1536],
  ['TN', 2048, T, 2048],
];

/** What a step has besides: few rows, the ranks of LoRA, the heads of GQA. */
const SMALL: readonly Size[] = [
  ['NT', 256, 2048, 2048],
  ['NT', 128, 2048, 2048],
  ['NT', T, 576, 192],
  ['NT', T, 576, 16],
  ['NT', T, 16, 576],
  ['TN', 16, T, 576],
  ['TN', 576, T, 16],
];

const DECODE: readonly Size[] = [
  ['NT', 1, 576, 1536],
  ['NT', 1, 2048, 2048],
  ['NT', 4, 2048, 2048],
];

const cases = (sizes: readonly Size[], form: MatmulCase['form']): MatmulCase[] =>
  sizes.map(([layout, m, k, n]) => ({ kind: 'matmul', layout, m, k, n, form }));

/** The table that is compared with torch and OpenBLAS. */
export function largeMatmuls(form: MatmulCase['form']): MatmulCase[] {
  return cases(form === 'nf4' ? LARGE.filter(([layout]) => layout !== 'TN') : LARGE, form);
}

/** NF4 also at M = 256, where its target starts. */
export const NF4_SMALLEST: MatmulCase = { kind: 'matmul', layout: 'NT', m: 256, k: 2048, n: 2048, form: 'nf4' };

const HEADS: readonly (readonly [
  documents: number,
  length: number,
  heads: number,
  kvHeads: number,
  headDim: number,
])[] = [
  [2, 512, 9, 3, 64],
  [1, 512, 32, 4, 64],
  [4, 256, 12, 12, 64],
  [1, 2048, 9, 3, 64],
  [2, 512, 16, 8, 128],
];

export function attentionCases(form: 'f32' | 'bf16', pass: AttentionCase['pass'] = 'both'): AttentionCase[] {
  return HEADS.map(([documents, length, heads, kvHeads, headDim]) => ({
    kind: 'attention',
    pass,
    documents,
    length,
    heads,
    kvHeads,
    headDim,
    form,
  }));
}

const ROWS: readonly RowCase['op'][] = [
  'add',
  'rms_norm',
  'rms_norm_grad',
  'glu',
  'glu_grad',
  'rope',
  'embedding',
  'linear_cross_entropy_grad',
  'adamw',
  'adamw_8bit',
  'quantize_4bit',
  'attention_decode',
  'layer_norm',
  'layer_norm_grad',
  'activation',
  'activation_grad',
  'sum_rows',
  'split_cols',
  'concat_cols',
  'global_norm',
];

/** Everything, in the order it is printed. */
export function allOps(): OpCase[] {
  return [
    ...cases([...LARGE, ...SMALL, ...DECODE], 'bf16'),
    ...cases(
      [...LARGE, ...SMALL, ...DECODE].filter(([layout]) => layout !== 'TN'),
      'nf4',
    ),
    ...cases([...LARGE, ...DECODE.slice(0, 2)], 'f32'),
    ...attentionCases('bf16', 'forward'),
    ...attentionCases('bf16'),
    ...attentionCases('f32'),
    ...ROWS.map((op): RowCase => ({ kind: 'row', op, tokens: T })),
  ];
}
