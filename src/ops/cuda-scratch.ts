/**
 * Scratch that the CUDA kernels ask for, in bytes, where it differs from the CPU's. Restates gemm_scratch of
 * native/cuda/gemm.cu and layout_of of native/cuda/loss.cu; a kernel refuses a node that is granted less.
 *
 * bf16 products want bf16 operands with rows of 16 bytes: others (4-bit, fp32) are turned into that first, a chunk of A's
 * rows and a panel of B's columns at a time, and several terms are laid side by side along K.
 */
import { dtypeBytes, type DType } from '../graph/dtype';

/** Workspace of cuBLASLt, where it is found. */
const CUDA_WORKSPACE = 2 ** 26;
const MOST_A = 2 ** 25;
const MOST_B = 2 ** 26;
/** Rows of the head's chunks are at least this many. */
const LEAST_CHUNK = 512;

/** A stored matrix as far as its form matters. */
interface Operand {
  readonly dtype: DType | 'codes';
  /** Columns as stored. */
  readonly cols: number;
}

export interface CudaGemmTerm {
  readonly k: number;
  readonly a: Operand;
  readonly b: Operand;
}

const up = (x: number, y: number): number => y * Math.ceil(x / y);
const suits = (o: Operand): boolean => o.dtype === 'bf16' && o.cols % 8 === 0;

export function cudaGemmScratchBytes(m: number, n: number, terms: readonly CudaGemmTerm[], bf16: boolean): number {
  if (!bf16) return CUDA_WORKSPACE;
  const k = Math.max(
    1,
    terms.reduce((sum, t) => sum + up(t.k, 8), 0),
  );
  const [rows, cols] = [up(m, 8), up(n, 8)];
  const chunk = rows * k <= MOST_A ? rows : Math.max(128, 128 * Math.floor(Math.floor(MOST_A / k) / 128));
  const panel = cols * k <= MOST_B ? cols : up(Math.ceil(cols / Math.ceil((cols * k) / MOST_B)), 256);
  const several = terms.length > 1;
  const a = several || terms.some((t) => !suits(t.a)) ? up(2 * chunk * k, 256) : 0;
  const b = several || terms.some((t) => !suits(t.b)) ? up(2 * panel * k, 256) : 0;
  return CUDA_WORKSPACE + a + b;
}

/** The head with its loss: x `[t, width]`, w `[vocab, width]`, logits for one chunk of rows. */
export function cudaHeadScratchBytes(o: {
  t: number;
  width: number;
  vocab: number;
  x: DType;
  w: DType;
  chunk: number;
  grad: boolean;
}): number {
  const { t, width, vocab, x, w, grad } = o;
  const bf16 = x === 'bf16';
  const chunk = Math.min(Math.max(o.chunk, LEAST_CHUNK), Math.max(t, 1));
  const ld = up(vocab, 8);
  const gathered: Operand = { dtype: x, cols: width };
  const weight: Operand = { dtype: w, cols: width };
  const dz: Operand = { dtype: bf16 ? 'bf16' : 'f32', cols: bf16 ? 2 * ld : ld };
  const products = [chunk, t % chunk].flatMap((rows) => [
    cudaGemmScratchBytes(rows, vocab, [{ k: width, a: gathered, b: weight }], bf16),
    ...(grad
      ? [
          cudaGemmScratchBytes(rows, width, [{ k: vocab, a: dz, b: weight }], bf16),
          cudaGemmScratchBytes(vocab, width, [{ k: rows, a: dz, b: gathered }], bf16),
        ]
      : []),
  ]);
  const rows = up(chunk * width * dtypeBytes(x), 256);
  return 256 + up(4 * t, 256) + up(4 * chunk * ld, 256) + (grad ? 2 : 1) * rows + Math.max(...products);
}
