/**
 * Describes, traces, compiles and plans one training run in a fresh process, as the first thing it does: a user pays for
 * cold code. With `profile` it records a CPU profile of the same work instead.
 */
import { Session as Inspector, type Profiler } from 'node:inspector/promises';
import { deviceSpec } from '../../src/compile/devices';
import { memoryPlan } from '../../src/compile/plan';
import { LoraConfig } from '../../src/peft/lora-config';
import { AutoModelForCausalLM } from '../../src/pretrained/auto';
import { BitsAndBytesConfig } from '../../src/quantization/bitsandbytes';
import { givenConfig, peakResidentBytes, serve } from '../harness/serve';
import { LORA_RANK, SEVEN_MODULES, shapeConfig, type TrainingRun } from '../step/shapes';
import { trainingRunner } from '../step/training';

export interface PlanRun extends TrainingRun {
  readonly layers: number;
  readonly repeats: number;
  readonly profile: boolean;
}

export interface PlanTimes {
  readonly describeMs: number;
  /** Trace, gradients, passes, offsets, encoding of all programs of the run. */
  readonly compileMs: number;
  readonly planMs: number;
  readonly nodes: number;
  readonly programBytes: number;
  readonly plannedPeakBytes: number;
}

function once(run: PlanRun): PlanTimes {
  const start = performance.now();
  const model = AutoModelForCausalLM.fromConfig(shapeConfig(run.shape, run.layers), {
    dtype: run.base === 'f32' ? 'f32' : 'bf16',
    quantizationConfig:
      run.base === 'nf4' ? new BitsAndBytesConfig({ loadIn4bit: true, bnb4bitQuantType: 'nf4' }) : undefined,
  });
  model.addAdapter(new LoraConfig({ r: LORA_RANK, loraAlpha: LORA_RANK, targetModules: SEVEN_MODULES }));
  const described = performance.now();
  const runner = trainingRunner(model, run);
  const programs = runner.programs();
  const compiled = performance.now();
  const plan = memoryPlan(runner.allSlots(), programs, deviceSpec('cpu', run.threads));
  const planned = performance.now();
  return {
    describeMs: described - start,
    compileMs: compiled - described,
    planMs: planned - compiled,
    nodes: programs.reduce((n, p) => n + p.nodes.length, 0),
    programBytes: programs.reduce((n, p) => n + p.bytes.length, 0),
    plannedPeakBytes: plan.peakBytes,
  };
}

async function profiled(run: PlanRun): Promise<Profiler.Profile> {
  const inspector = new Inspector();
  inspector.connect();
  await inspector.post('Profiler.enable');
  await inspector.post('Profiler.setSamplingInterval', { interval: 200 });
  await inspector.post('Profiler.start');
  once(run);
  const { profile } = await inspector.post('Profiler.stop');
  return profile;
}

async function main(): Promise<void> {
  const run = givenConfig<PlanRun>();
  if (run.profile) {
    await serve({ profile: await profiled(run) }, () => Promise.resolve({}));
    return;
  }
  const cpu = process.cpuUsage();
  const cold = once(run);
  const { user, system } = process.cpuUsage(cpu);
  const warm = Array.from({ length: run.repeats }, () => once(run));
  await serve({ cold, coldCpuMs: (user + system) / 1e3, warm, peakBytes: peakResidentBytes() }, () =>
    Promise.resolve({}),
  );
}

void main();
