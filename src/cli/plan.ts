/** `lathe plan CONFIG [--device NAME] [--json]`: docs/memory.md says how to read it. Exit code 2 when the plan does not fit. */
import { printPlan } from '../compile/plan';
import { formatBytes, formatShape } from '../errors';
import { loadConfig } from '../train/arguments';
import { planRun, planToJson } from '../train/plan-run';
import { say, warn } from './output';

export async function planCommand(path: string, overrides: readonly string[], options: { device?: string; json?: boolean }): Promise<void> {
  const config = loadConfig(path, overrides);
  if (!options.json) for (const note of config.notes) warn(note);
  const device = options.device ?? (config.device === 'auto' ? 'cpu' : config.device);
  const result = await planRun(config, device);
  if (options.json) {
    say(JSON.stringify(planToJson(result), null, 2));
    return;
  }
  say(`${config.modelNameOrPath}, micro-batch of ${result.tokens} tokens, recomputation: ${result.policy}`);
  say(printPlan(result.plan, result.remedies));
  say(`  ${(result.flopsPerToken / 1e9).toFixed(3)} GFLOP per token`);
  if (result.tokensPerSecondFloor) say(`  at most ${Math.round(result.tokensPerSecondFloor).toLocaleString('en-US')} tokens/s by the FLOP floor of ${device}`);
  say('  largest live tensors at the peak:');
  for (const t of result.plan.liveAtPeak.slice(0, 8)) say(`    ${formatBytes(t.bytes).padStart(9)}  ${t.type.dtype}${formatShape(t.type.shape)}  ${t.op} ${t.where}`);
  if (!result.plan.fits) {
    say(`  does not fit ${device} (${formatBytes(result.plan.device.memoryBytes)})`);
    process.exitCode = 2;
  }
}
