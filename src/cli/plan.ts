/** `lathe plan CONFIG [--device NAME] [--json]`: docs/memory.md says how to read it. Exit code 2 when the plan does not fit. */
import { printPlan } from '../compile/plan';
import type { LiveTensor } from '../compile/program';
import { formatBytes, formatShape } from '../errors';
import { resolveDevice } from '../runtime/device';
import { loadConfig } from '../train/arguments';
import { planRun, planToJson } from '../train/plan-run';
import { say, warn } from './output';

export async function planCommand(
  path: string,
  overrides: readonly string[],
  options: { device?: string; json?: boolean },
): Promise<void> {
  const config = loadConfig(path, overrides);
  if (!options.json) for (const note of config.notes) warn(note);
  const device = resolveDevice(options.device ?? config.device);
  const result = await planRun(config, device);
  if (options.json) {
    say(JSON.stringify(planToJson(result), null, 2));
    return;
  }
  say(`${config.modelNameOrPath}, micro-batch of ${result.tokens} tokens, recomputation: ${result.policy}`);
  say(printPlan(result.plan, result.remedies));
  say(`  ${(result.flopsPerToken / 1e9).toFixed(3)} GFLOP per token`);
  const { byFlops, byBytes, byNode } = result.floors;
  const rate = (value: number): string => `${Math.round(value).toLocaleString('en-US')} tokens/s`;
  if (byNode)
    say(
      `  ${device} allows at most ${rate(byFlops)} by FLOPs, ${rate(byBytes)} by bytes, ${rate(byNode)} node by node`,
    );
  if (result.plan.device.kind === 'cuda')
    say('  CUDA keeps about 0.5 GiB of its own for a process, which the device’s memory here is already without');
  say('  largest live tensors at the peak:');
  for (const g of groups(result.plan.liveAtPeak).slice(0, 8)) say(`    ${formatBytes(g.bytes).padStart(9)}  ${g.what}`);
  if (!result.plan.fits) {
    say(`  does not fit ${device} (${formatBytes(result.limitBytes)})`);
    process.exitCode = 2;
  }
}

/** Tensors that differ only in their layer, as one line, largest sum first. */
function groups(live: readonly LiveTensor[]): { bytes: number; what: string }[] {
  const byKind = new Map<string, { bytes: number; count: number }>();
  for (const t of live) {
    const kind = `${t.type.dtype}${formatShape(t.type.shape)}  ${t.op} ${t.where.replace(/\.\d+(?=\.|$)/g, '.*')}`;
    const known = byKind.get(kind);
    byKind.set(kind, { bytes: (known?.bytes ?? 0) + t.bytes, count: (known?.count ?? 0) + 1 });
  }
  return [...byKind]
    .map(([kind, { bytes, count }]) => ({ bytes, what: `${String(count).padStart(3)} x ${kind}` }))
    .sort((a, b) => b.bytes - a.bytes);
}
