/**
 * The files of a model and of an adapter in a folder, for saves that replace those of an earlier one.
 *
 * The idea: a loader takes the first form of weights it knows (a single file, then shards, then PyTorch's archives), so whatever
 * an earlier save of the same kind has left goes: shards and index beside a single file, a single file beside shards. Archives
 * come after both and hide nothing: they stay. An adapter and a model in one folder are refused: transformers puts the adapter on
 * the model that lies beside it, lathe opens the model without it, and neither is what was saved.
 *
 * Source: transformers `save_pretrained` (which keeps a single file beside new shards, and loads that one) and `from_pretrained`.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { LatheError } from '../errors';
import { CHECKSUMS_FILE } from './atomic-file';
import { weightFiles } from './checkpoint-files';
import type { FileSet } from './file-set';

export const ADAPTER_CONFIG_FILE = 'adapter_config.json';

export const MODEL_FILES: FileSet & Required<Pick<FileSet, 'check'>> = {
  lead: 'config.json',
  owns: /^(config\.json|generation_config\.json|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json)$/,
  check(dir) {
    requireNoCheckpoint(dir);
    if (!existsSync(join(dir, ADAPTER_CONFIG_FILE))) return;
    throw new LatheError(
      'ERR_CHECKPOINT',
      `expected a folder without an adapter for a model, found ${ADAPTER_CONFIG_FILE}: transformers would put that adapter on the model beside it`,
      {
        at: join(dir, ADAPTER_CONFIG_FILE),
        remedy: 'choose another output folder, or move the adapter (adapter_config.json, adapter_model.*) away',
      },
    );
  },
};

export const ADAPTER_FILES: FileSet & Required<Pick<FileSet, 'check'>> = {
  lead: ADAPTER_CONFIG_FILE,
  owns: /^(adapter_config\.json|adapter_model(-\d{5}-of-\d{5})?\.safetensors|adapter_model\.safetensors\.index\.json)$/,
  // A card that somebody has written is theirs.
  keeps: ['README.md'],
  check(dir) {
    requireNoCheckpoint(dir);
    const weights =
      existsSync(join(dir, MODEL_FILES.lead)) && weightFiles('model').find((name) => existsSync(join(dir, name)));
    if (!weights) return;
    throw new LatheError(
      'ERR_CHECKPOINT',
      `expected a folder without a model for an adapter, found ${weights}: lathe would open that model without the adapter`,
      {
        at: join(dir, weights),
        remedy: `choose another output folder, or move the model (${MODEL_FILES.lead}, ${weights}) away`,
      },
    );
  },
};

/** Weights of another run in a checkpoint would spoil it: its checksums are what a resume goes by. */
function requireNoCheckpoint(dir: string): void {
  if (!existsSync(join(dir, CHECKSUMS_FILE))) return;
  throw new LatheError('ERR_CHECKPOINT', `expected a folder that is no checkpoint of a run, found ${CHECKSUMS_FILE}`, {
    at: join(dir, CHECKSUMS_FILE),
    remedy: 'choose another output folder',
  });
}
