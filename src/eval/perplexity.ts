/** Loss and perplexity of a model on rows, masked as for training: exp of the mean token loss over unmasked labels. */
import { deviceSpec } from '../compile/devices';
import { assertHealthy, formatFinding, inspectDataset, IterableDataset, tokenizeDataset } from '../data';
import { LatheError } from '../errors';
import type { Program } from '../compile/program';
import type { ProgramHandle } from '../runtime/session';
import type { ResolvedConfig } from '../train/arguments';
import { sftLoss } from '../train/losses/sft';
import { evalProgram } from '../train/programs';
import { firstRows, openData } from '../train/open-data';
import { openModelFor, openTokenizer } from '../train/setup';
import { checkPositions, evalLoader, tokenizeOptions } from '../train/sft-trainer';

/** Loss and entropy in nats per judged label, perplexity = exp(loss), runtime in seconds. */
export interface EvalResult {
  eval_loss: number;
  eval_perplexity: number;
  eval_mean_token_accuracy: number;
  eval_entropy: number;
  eval_samples: number;
  eval_tokens: number;
  eval_labels: number;
  eval_runtime: number;
  /** Where it ran. */
  device: string;
}

/** What a model cannot be judged on; the doctor's other errors are about training. */
const STOPPING = ['no_rows', 'vocabulary_too_large'];

/**
 * Evaluates the configured model on its test rows (or, without any, its training rows), in the batches of an evaluation while
 * training. @throws LatheError ERR_DATA for rows that it has no tokens or positions for, ERR_NONFINITE for a loss that is no number
 */
export async function evaluateRun(config: ResolvedConfig, warn: (message: string) => void): Promise<EvalResult> {
  const tokenizer = await openTokenizer(config);
  const { train, test } = await openData(
    { ...config, evalOnStart: true, evalStrategy: config.evalStrategy },
    warn,
  ).catch((error: unknown) => {
    // Without a test split the whole file is judged.
    if ((error as LatheError).code !== 'ERR_CONFIG') throw error;
    return openData({ ...config, evalStrategy: 'no', evalOnStart: false }, warn);
  });
  if (!test) warn('no test split: evaluating the training rows');
  const most = config.maxEvalSamples ?? Infinity;
  const rows = test ?? (train instanceof IterableDataset ? await firstRows(train, most) : train.take(most));
  const data = await tokenizeDataset(rows, tokenizer, tokenizeOptions(config, warn, config.evalPacking));
  const model = await openModelFor(config, tokenizer);
  const findings = inspectDataset(data, { tokenizer, embeddingRows: model.vocabSize });
  assertHealthy(
    findings.filter(({ code }) => STOPPING.includes(code)),
    { allow: config.doctorAllow },
  );
  for (const finding of findings)
    if (['answer_cut', 'text_cut', 'rows_dropped'].includes(finding.code)) warn(formatFinding(finding));
  const loader = evalLoader(data, config);
  checkPositions(model.module, loader.summary.longestDocument);
  const device = deviceSpec(model.device, config.threads ?? undefined);
  const started = performance.now();
  try {
    const session = await model.ready();
    const programs = new Map<number, { program: Program; handle: ProgramHandle }>();
    const sums: Record<string, number> = {};
    let tokens = 0;
    let labels = 0;
    for (let i = 0; i < loader.stepsPerEpoch; i++) {
      for (const batch of loader.step(0, i).microBatches) {
        let entry = programs.get(batch.tokens);
        if (!entry) {
          const program = evalProgram(
            model.module,
            sftLoss,
            { tokens: batch.tokens, documents: loader.maxDocuments },
            device,
          );
          programs.set(batch.tokens, (entry = { program, handle: session.loadProgram(program.bytes, program.name) }));
        }
        const out = await session.run(entry.handle, {
          input_ids: batch.inputIds,
          position_ids: batch.positionIds,
          labels: batch.labels,
          cu_seqlens: batch.cuSeqlens,
        });
        for (const [name, value] of Object.entries(out)) sums[name] = (sums[name] ?? 0) + (value as Float32Array)[0];
        tokens += batch.numTokens;
        labels += batch.numLabels;
      }
    }
    const loss = sums.loss_sum / labels;
    if (labels === 0)
      throw new LatheError('ERR_DATA', `no token of the ${data.examples.length} rows is judged: all are masked`, {
        remedy: 'check the masks with lathe data preview',
      });
    if (!Number.isFinite(loss)) {
      throw new LatheError('ERR_NONFINITE', `the evaluation loss is ${loss}`, {
        at: config.adapterNameOrPath ?? config.modelNameOrPath ?? undefined,
        remedy: 'its weights hold values that are not finite, or overflow: look at the run that made it',
      });
    }
    return {
      eval_loss: loss,
      eval_perplexity: Math.exp(loss),
      eval_mean_token_accuracy: sums.mean_token_accuracy / labels,
      eval_entropy: sums.entropy / labels,
      eval_samples: data.examples.length,
      eval_tokens: tokens,
      eval_labels: labels,
      eval_runtime: (performance.now() - started) / 1000,
      device: device.name,
    };
  } finally {
    await model.close();
  }
}
