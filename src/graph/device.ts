/** What the compiler needs to know about a device to plan for it; no device has to be present. */
export interface DeviceSpec {
  readonly kind: 'cpu' | 'cuda';
  readonly name: string;
  /** Usable bytes; Infinity when unknown. */
  readonly memoryBytes: number;
  /** Worker threads (CPU) that split a kernel; 1 on a GPU. */
  readonly threads: number;
  /** Dense bf16 FLOP/s that a good GEMM sustains; 0 when unknown. */
  readonly flops: number;
  /** Sustained bytes/s of main memory; 0 when unknown. */
  readonly bandwidth: number;
}
