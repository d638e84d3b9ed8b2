/** Reporters: TensorBoard files, events.jsonl and the loss curve, as callbacks on the run's events. */
import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { curveFromLogHistory, writeCurve } from '../io/curve';
import { EventWriter, tensorboardDir } from '../io/tensorboard';
import { toIoError } from '../io/io-error';
import { configToJson, type ResolvedConfig } from './arguments';
import type { CallbackContext, TrainerCallback, TrainEvent } from './events';
import type { LogEntry } from './state';

/** What every run writes into its output folder, and the TensorBoard files that `report_to` asks for. */
export function reportersOf(args: ResolvedConfig): TrainerCallback[] {
  const title = args.runName ?? [args.modelNameOrPath, args.datasetName].filter((name) => name).join(' on ');
  const list: TrainerCallback[] = [
    new JsonlReporter(args.outputDir),
    new CurveReporter(args.outputDir, title || args.outputDir),
  ];
  // A folder of its own for each run, unless the user named one: TensorBoard draws a folder as one curve.
  const dir = resolve(args.loggingDir) === resolve(args.outputDir, 'runs') ? null : args.loggingDir;
  if (args.reportTo.includes('tensorboard'))
    list.push(new TensorBoardReporter(args.outputDir, dir, JSON.stringify(configToJson(args), null, 2)));
  return list;
}

/** One JSON object per line in `events.jsonl`; lines after the step a run resumes from are dropped, all of them by a new run. */
export class JsonlReporter implements TrainerCallback {
  private readonly path: string;

  constructor(outputDir: string) {
    this.path = join(outputDir, 'events.jsonl');
  }

  onEvent({ state }: CallbackContext, event: TrainEvent): void {
    switch (event.type) {
      case 'begin':
        this.truncate(event.resumedFrom === null ? -1 : state.globalStep);
        return this.write({
          event: 'begin',
          step: state.globalStep,
          max_steps: state.maxSteps,
          resumed_from: event.resumedFrom,
        });
      case 'step': {
        const { step, epoch, loss, learningRate, gradNorm, numTokens, tokensPerSecond, stepMs, cpuPerWall, peakBytes } =
          event;
        return this.write({
          event: 'step',
          step,
          epoch,
          loss,
          learning_rate: learningRate,
          grad_norm: gradNorm,
          num_tokens: numTokens,
          tokens_per_second: tokensPerSecond,
          step_ms: stepMs,
          cpu_per_wall: cpuPerWall,
          peak_bytes: peakBytes,
        });
      }
      case 'evaluate':
        return this.write({ event: 'evaluate', step: event.step, ...event.metrics });
      case 'save':
        return this.write({ event: 'save', step: event.step, path: event.path });
      case 'end':
        return this.write({ event: 'end', step: state.globalStep, interrupted: event.interrupted, ...event.metrics });
    }
  }

  private truncate(step: number): void {
    if (!existsSync(this.path)) return;
    const kept = readFileSync(this.path, 'utf8')
      .split('\n')
      .filter((line) => line && keepLine(line, step));
    this.toDisk(() => writeFileSync(this.path, kept.map((line) => `${line}\n`).join('')));
  }

  private write(entry: Record<string, unknown>): void {
    this.toDisk(() => appendFileSync(this.path, `${JSON.stringify(entry)}\n`));
  }

  private toDisk(action: () => void): void {
    try {
      action();
    } catch (error) {
      throw toIoError(error, 'write', this.path);
    }
  }
}

function keepLine(line: string, step: number): boolean {
  try {
    // A line cut short by a kill does not parse and goes too.
    return (JSON.parse(line) as { step: number }).step <= step;
  } catch {
    return false;
  }
}

/** TensorBoard event files with the tags that transformers writes. */
export class TensorBoardReporter implements TrainerCallback {
  private writer: EventWriter | null = null;

  constructor(
    private readonly outputDir: string,
    private readonly loggingDir: string | null,
    private readonly configText: string,
  ) {}

  onTrainBegin({ state }: CallbackContext): void {
    this.writer = new EventWriter({
      dir: this.loggingDir ?? tensorboardDir(this.outputDir),
      purgeStep: state.globalStep > 0 ? state.globalStep + 1 : undefined,
    });
    this.writer.writeText('args', this.configText, 0);
  }

  onLog({ state }: CallbackContext, { step: _axis, ...values }: LogEntry): void {
    this.writer?.writeLog(values, state.globalStep);
  }

  onTrainEnd(): void {
    this.writer?.close();
    this.writer = null;
  }
}

/** `loss-curve.png` and `.svg` in the output folder, drawn at every save and at the end. */
export class CurveReporter implements TrainerCallback {
  constructor(
    private readonly outputDir: string,
    private readonly title: string,
  ) {}

  async onSave({ state }: CallbackContext): Promise<void> {
    await this.draw(state.logHistory);
  }

  async onTrainEnd({ state }: CallbackContext): Promise<void> {
    await this.draw(state.logHistory);
  }

  private async draw(history: readonly LogEntry[]): Promise<void> {
    mkdirSync(this.outputDir, { recursive: true });
    await writeCurve(join(this.outputDir, 'loss-curve'), curveFromLogHistory(history), { title: this.title });
  }
}
