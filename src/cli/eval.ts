/** `lathe eval CONFIG`: loss and perplexity on the configured evaluation rows, with or without an adapter. */
import { loadConfig } from '../train/arguments';
import { evaluateRun } from '../eval/perplexity';
import { describeDevice, say, warn } from './output';

export async function evalCommand(
  path: string,
  overrides: readonly string[],
  options: { json?: boolean },
): Promise<void> {
  const config = loadConfig(path, overrides);
  if (!options.json) for (const note of config.notes) warn(note);
  const result = await evaluateRun(config, options.json ? () => undefined : warn);
  if (options.json) {
    say(JSON.stringify(result, null, 2));
    return;
  }
  say(
    `eval loss ${result.eval_loss.toFixed(4)}  perplexity ${result.eval_perplexity.toFixed(3)}  token accuracy ${(100 * result.eval_mean_token_accuracy).toFixed(1)} %`,
  );
  say(
    `${result.eval_samples} rows, ${result.eval_tokens} tokens, ${result.eval_labels} judged, ${result.eval_runtime.toFixed(1)} s on ${describeDevice(result.device)}`,
  );
}
