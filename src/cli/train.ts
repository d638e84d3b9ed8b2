/** `lathe train [CONFIG] [key=value...]`: the main job. */
import { join, relative } from 'node:path';
import { printPlan } from '../compile/plan';
import { LatheError } from '../errors';
import { generateAll } from '../generation/generate';
import { releaseGeneration } from '../generation/lane';
import type { PreTrainedModel } from '../pretrained/model';
import type { Tokenizer } from '../tokenizers/tokenizer';
import { alpacaPrompt } from '../data';
import { currentWorld, leaveWorld } from '../runtime/world';
import { loadConfig, type ResolvedConfig } from '../train/arguments';
import type { TrainEvent } from '../train/events';
import { setupSft, type RunParts } from '../train/setup';
import type { LogEntry } from '../train/state';
import { describeDevice, duration, say, silence, style, warn } from './output';
import { Progress } from './progress';

/** Where the package's own configurations lie. */
export const CONFIG_DIR = join(__dirname, '..', '..', 'configs');

/** As a shell tells of a process that SIGTERM ended. */
const kTerminated = 143;

export async function trainCommand(path: string | undefined, overrides: readonly string[]): Promise<void> {
  const quickstart = path === undefined;
  const config = loadConfig(
    path ?? join(CONFIG_DIR, 'quickstart.yaml'),
    quickstart ? [...bundledPaths(), ...overrides] : overrides,
  );
  const first = currentWorld().rank === 0;
  if (!first) silence();
  for (const note of config.notes) warn(note);
  for (const [key, value] of Object.entries(config.env ?? {})) process.env[key] = String(value);
  const { trainer, model, tokenizer } = await setupSft(config, { warn });
  if (config.planOnly) {
    const { plan, remedies } = await trainer.plan();
    say(printPlan(plan, remedies));
    return;
  }
  const interrupt = new Interrupt();
  try {
    const { end, losses, answers } = await follow(config, { trainer, model, tokenizer }, interrupt.signal);
    if (end.interrupted) {
      const step = end.state.globalStep;
      const again = [
        'lathe',
        'train',
        ...(path ? [path] : []),
        ...overrides.filter((o) => !o.startsWith('resume_from_checkpoint=')),
        'resume_from_checkpoint=true',
      ];
      say(
        step === 0
          ? 'stopped before the first step'
          : `stopped at step ${step}; continue with: ${again.map(quoted).join(' ')}`,
      );
      if (interrupt.terminated) process.exitCode = kTerminated;
      return;
    }
    await trainer.saveModel();
    if (first) await summary(config, losses, end.metrics, answers, model, tokenizer, quickstart);
  } finally {
    interrupt.release();
    await model.close();
    // Ends MPI also where the exit code says that the run is not finished: the ranks stopped together, nobody is to be ended.
    if (process.exitCode === kTerminated) leaveWorld();
  }
}

/** As a shell takes it. */
const quoted = (argument: string): string =>
  /^[\w@%+=:,./-]+$/.test(argument) ? argument : `'${argument.replaceAll("'", "'\\''")}'`;

/** Where the quickstart's model and data lie, seen from another folder than the package's. */
function bundledPaths(): string[] {
  const root = join(CONFIG_DIR, '..');
  if (relative(root, process.cwd()) === '') return [];
  return [`model_name_or_path=${join(root, 'data', 'base-model')}`, `dataset_name=${join(root, 'data', 'quickstart')}`];
}

interface Followed {
  end: Extract<TrainEvent, { type: 'end' }>;
  /** Evaluation losses in order. */
  losses: number[];
  /** Answers to the sample prompts before the first step. */
  answers: Map<string, string>;
}

/** Runs the trainer and shows what happens. */
async function follow(
  config: ResolvedConfig,
  { trainer, model, tokenizer }: Pick<RunParts, 'trainer' | 'model' | 'tokenizer'>,
  signal: AbortSignal,
): Promise<Followed> {
  const answers = new Map<string, string>();
  const progress = new Progress(config.disableTqdm === true || currentWorld().rank > 0);
  const losses: number[] = [];
  for await (const event of trainer.run({ signal })) {
    if (event.type === 'plan') announce(event, config, model);
    if (event.type === 'begin') {
      if (event.resumedFrom) say(`resumed from ${event.resumedFrom} at step ${event.state.globalStep}`);
      for (const prompt of config.samplePrompts) answers.set(prompt, await answer(model, tokenizer, prompt, config));
      // The caches of generation are not part of the plan: give them back before the first step.
      if (config.samplePrompts.length) releaseGeneration(await model.ready());
    }
    if (event.type === 'evaluate') losses.push(event.metrics.eval_loss);
    progress.show(event);
    if (event.type === 'end') return { end: event, losses, answers };
  }
  throw new LatheError('ERR_PROGRAM', 'the run ended without saying so');
}

function announce(event: Extract<TrainEvent, { type: 'plan' }>, config: ResolvedConfig, model: PreTrainedModel): void {
  say(style.bold(`${config.modelNameOrPath} on ${config.datasetName}`));
  if (model.peft && currentWorld().rank === 0) model.printTrainableParameters();
  // The plan's first line has the device's name; of a GPU people want to know which.
  if (event.plan.device.kind !== 'cpu') say(`device: ${describeDevice(event.plan.device.name)}`);
  say(printPlan(event.plan, event.remedies));
  say(`  recomputation: ${event.policy}`);
}

/** First Ctrl-C, or SIGTERM as schedulers send it: save and stop after this step. Second Ctrl-C: stop now. */
class Interrupt {
  private readonly controller = new AbortController();
  /** Whoever asked with SIGTERM learns from the exit code that the run is not finished, and may start it again. */
  terminated = false;
  private readonly onInterrupt = (): void => {
    if (this.controller.signal.aborted) process.exit(130);
    this.stop('; press Ctrl-C again to stop now');
  };
  private readonly onTerminate = (): void => {
    // Launchers send it to the group and to the process: a second one asks for nothing new.
    this.terminated = true;
    if (!this.controller.signal.aborted) this.stop('');
  };

  constructor() {
    process.on('SIGINT', this.onInterrupt);
    process.on('SIGTERM', this.onTerminate);
  }

  private stop(more: string): void {
    if (currentWorld().rank === 0) process.stderr.write(`\nstopping after this step and saving a checkpoint${more}\n`);
    this.controller.abort();
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  release(): void {
    process.off('SIGINT', this.onInterrupt);
    process.off('SIGTERM', this.onTerminate);
  }
}

async function answer(
  model: PreTrainedModel,
  tokenizer: Tokenizer,
  prompt: string,
  config: ResolvedConfig,
): Promise<string> {
  const text = config.datasetFormat === 'alpaca' ? alpacaPrompt(prompt) : prompt;
  const ids = await tokenizer.encode(text);
  const [result] = await generateAll(model, [ids], {
    tokenizer,
    maxNewTokens: 40,
    doSample: false,
    eosTokenId: tokenizer.eosTokenId ?? undefined,
  });
  return (result.text ?? '').trim().replaceAll('\n', ' ');
}

async function summary(
  config: ResolvedConfig,
  losses: readonly number[],
  metrics: LogEntry,
  before: ReadonlyMap<string, string>,
  model: PreTrainedModel,
  tokenizer: Tokenizer,
  quickstart: boolean,
): Promise<void> {
  const out = config.outputDir;
  say();
  say(
    `trained ${Math.round(metrics.epoch * 100) / 100} epochs in ${duration(metrics.train_runtime)}, mean train loss ${metrics.train_loss.toFixed(4)}`,
  );
  if (losses.length > 1) {
    const [first, last] = [losses[0], losses[losses.length - 1]];
    say(style.bold(`eval loss ${first.toFixed(4)} -> ${last.toFixed(4)} (${(100 * (last / first - 1)).toFixed(1)} %)`));
  }
  for (const [prompt, old] of before) {
    say();
    say(`prompt: ${prompt}`);
    say(`  before: ${old}`);
    say(`  after:  ${await answer(model, tokenizer, prompt, config)}`);
  }
  say();
  say(`${model.peft ? 'adapter' : 'model'}:  ${out}`);
  say(`curve:    ${join(out, 'loss-curve.png')}`);
  say(`events:   ${join(out, 'events.jsonl')}`);
  if (config.reportTo.includes('tensorboard'))
    say(`logs:     tensorboard --logdir ${config.loggingDir ?? join(out, 'runs')}`);
  if (quickstart) {
    say();
    say('next:');
    say(
      `  npm run lathe -- generate --model ${config.modelNameOrPath} --adapter ${out} --alpaca --prompt "Name a fruit."`,
    );
    say('  npm run lathe -- plan configs/llama3-8b-qlora.yaml --device h200');
    say('  npm run train -- configs/smollm2-135m-qlora.yaml model_name_or_path=FOLDER dataset_name=FILE.jsonl');
  }
}
