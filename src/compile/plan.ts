/**
 * The plan: what a run will hold in memory, to the byte, before anything is allocated.
 *
 * Programs of a session share one arena and one scratch region of the largest need, so the peak is
 * state + largest arena + largest scratch. The session allocates exactly these, so plan and measurement agree.
 */
import { LatheError, formatBytes } from '../errors';
import type { DeviceSpec } from '../graph/device';
import { typeBytes, type StateSlot } from '../graph/tensor';
import type { LiveTensor, Program } from './program';

/** Memory classes in the order they are printed. */
export const MEMORY_CLASSES = [
  'weights',
  'quantization',
  'adapter',
  'gradients',
  'optimizer',
  'kv_cache',
  'activations',
  'logits',
  'scratch',
] as const;
export type MemoryClass = (typeof MEMORY_CLASSES)[number];

export interface Remedy {
  /** What to change, in configuration terms. */
  readonly change: string;
  readonly peakBytes: number;
  readonly savesBytes: number;
}

export interface MemoryPlan {
  readonly device: DeviceSpec;
  readonly peakBytes: number;
  readonly byClass: Readonly<Record<MemoryClass, number>>;
  readonly arenaBytes: number;
  readonly scratchBytes: number;
  /** Of the program with the largest arena, largest first. */
  readonly liveAtPeak: readonly LiveTensor[];
  readonly fits: boolean;
}

/** Sums slots and programs that live in one session. */
export function memoryPlan(
  slots: readonly StateSlot[],
  programs: readonly Program[],
  device: DeviceSpec,
  limitBytes = device.memoryBytes,
): MemoryPlan {
  const byClass = Object.fromEntries(MEMORY_CLASSES.map((c) => [c, 0])) as Record<MemoryClass, number>;
  for (const slot of new Map(slots.map((s) => [s.name, s])).values()) byClass[slot.role] += typeBytes(slot);
  const largest = programs.reduce((a, b) => (b.arenaBytes > a.arenaBytes ? b : a));
  const scratch = programs.reduce((a, b) => (b.scratchBytes > a.scratchBytes ? b : a));
  byClass.activations = largest.arenaBytes;
  byClass.logits = scratch.logitsBytes;
  byClass.scratch = scratch.scratchBytes - scratch.logitsBytes;
  const peakBytes = Object.values(byClass).reduce((a, b) => a + b, 0);
  return {
    device,
    peakBytes,
    byClass,
    arenaBytes: largest.arenaBytes,
    scratchBytes: scratch.scratchBytes,
    liveAtPeak: largest.liveAtPeak,
    fits: peakBytes <= limitBytes,
  };
}

/** The plan as a table for people. */
export function printPlan(plan: MemoryPlan, remedies: readonly Remedy[] = []): string {
  const lines = [
    `memory plan for ${plan.device.name}: peak ${formatBytes(plan.peakBytes)} (${plan.peakBytes.toLocaleString('en-US')} bytes)`,
  ];
  for (const name of MEMORY_CLASSES) {
    const bytes = plan.byClass[name];
    if (bytes > 0) lines.push(`  ${name.padEnd(14)}${formatBytes(bytes).padStart(11)}  ${bar(bytes / plan.peakBytes)}`);
  }
  if (remedies.length) {
    lines.push('  what would lower the peak:');
    const width = Math.max(...remedies.map((r) => r.change.length));
    for (const r of remedies) lines.push(`    ${r.change.padEnd(width)}  saves ${formatBytes(r.savesBytes)}`);
  }
  return lines.join('\n');
}

function bar(share: number): string {
  const width = Math.round(share * 24);
  return `${'#'.repeat(width)}${'.'.repeat(24 - width)} ${(100 * share).toFixed(1).padStart(5)} %`;
}

/** Refuses what cannot fit, saying what is largest and which change would help most. */
export function assertFits(plan: MemoryPlan, limitBytes: number, remedies: readonly Remedy[]): void {
  if (plan.peakBytes <= limitBytes) return;
  const largest = plan.liveAtPeak
    .slice(0, 3)
    .map((t) => `${t.op} of ${t.where || 'the step'} (${formatBytes(t.bytes)})`);
  const enough = remedies.filter((r) => r.peakBytes <= limitBytes);
  const best = (enough.length ? enough : remedies).map((r) => `${r.change} (saves ${formatBytes(r.savesBytes)})`);
  throw new LatheError(
    'ERR_PLAN_MEMORY',
    `the run needs ${formatBytes(plan.peakBytes)} on ${plan.device.name}, which has ${formatBytes(limitBytes)}; largest live tensors: ${largest.join(', ')}`,
    { remedy: best.length ? best.join('; or ') : 'use a smaller model, batch or max_length' },
  );
}
