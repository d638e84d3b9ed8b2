/** `lathe data preview CONFIG`: what will be trained, before training it. Exit code 2 when the doctor finds an error. */
import {
  formatFinding,
  inspectDataset,
  IterableDataset,
  previewLegend,
  renderPreview,
  renderSummary,
  tokenizeDataset,
} from '../data';
import { loadConfig } from '../train/arguments';
import { tokenizeOptions } from '../train/sft-trainer';
import { firstRows, openData } from '../train/open-data';
import { openTokenizer } from '../train/setup';
import { say, warn } from './output';

const STREAM_ROWS = 256;

export async function previewCommand(
  path: string,
  overrides: readonly string[],
  options: { rows: number; tokens?: boolean },
): Promise<void> {
  const config = loadConfig(path, overrides);
  for (const note of config.notes) warn(note);
  const tokenizer = await openTokenizer(config);
  const { train } = await openData({ ...config, evalStrategy: 'no', evalOnStart: false }, warn);
  // A stream may be of any size: its beginning stands for it.
  const rows = train instanceof IterableDataset ? await firstRows(train, Math.max(options.rows, STREAM_ROWS)) : train;
  if (rows !== train) say(`the first ${rows.length} rows of the stream`);
  const data = await tokenizeDataset(rows, tokenizer, tokenizeOptions(config, warn));
  say(previewLegend());
  say();
  for (const example of data.examples.slice(0, options.rows)) {
    say(renderPreview(example, tokenizer, { tokens: options.tokens, at: data.describeRow(example.row) }));
    say();
  }
  say(renderSummary(data, config.maxLength));
  const findings = inspectDataset(data, { tokenizer });
  for (const finding of findings) say(formatFinding(finding));
  if (findings.length === 0) say('doctor: nothing found');
  if (findings.some((f) => f.severity === 'error')) process.exitCode = 2;
}
