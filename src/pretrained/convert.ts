/**
 * convertModel: any model that can be opened (a GGUF file, a Hugging Face folder, a bitsandbytes checkpoint) as a dense
 * Hugging Face folder.
 *
 * No model is loaded for it: each tensor is one program that maps the file's bytes, undoes what the format did to them
 * (block quantisation, row order, shifted norms) and returns floats, which go straight to the new file.
 */
import { LatheError } from '../errors';
import { elementCount } from '../graph/tensor';
import { buildModel } from '../models/registry';
import { Session } from '../runtime/session';
import { checkNames } from './materialize';
import { openModel } from './open';
import { configWith, writeModelFolder, type ModelSaved } from './save';
import { programTensor, type FloatDType } from './tensor-export';
import type { TokenizerSource } from './tokenizer-copy';
import { checkShape, traceDense, type WeightSource } from './weights';

export interface ConvertOptions {
  /** Float type of the result; default bf16. */
  dtype?: FloatDType;
  maxShardBytes?: number;
  threads?: number;
  /** What to save as tokenizer; default: the model's own. Null saves none, for a GGUF whose tokenizer is not supported. */
  tokenizer?: TokenizerSource | null;
}

/** Converts `path` to a dense folder. @throws LatheError ERR_FORMAT, ERR_UNSUPPORTED, ERR_CHECKPOINT */
export async function convertModel(path: string, outDir: string, o: ConvertOptions = {}): Promise<ModelSaved> {
  const { dtype = 'bf16', threads, maxShardBytes, tokenizer = path } = o;
  const open = await openModel(path);
  const config = configWith(open.config, dtype);
  const model = buildModel(config, { dtype }, path);
  const parameters = model.parameters();
  const tied = model.config.tieWordEmbeddings;
  checkNames(
    parameters.keys(),
    open.sources.keys(),
    path,
    (name) => (tied && name === 'lm_head.weight') || name.endsWith('rotary_emb.inv_freq'),
  );
  for (const [name, p] of parameters) checkShape(name, open.sources.get(name)!, p.shape);

  const session = Session.create({ threads });
  try {
    const tensors = [...parameters].map(([name, p]) =>
      programTensor(session, name, p.shape, dtype, (bindings) =>
        traceDense(open.sources.get(name) as WeightSource, name, bindings),
      ),
    );
    const totalParameters = [...parameters.values()].reduce((n, p) => n + elementCount(p.shape), 0);
    return await writeModelFolder(outDir, {
      tensors,
      config,
      generationConfig: open.generationConfig,
      tokenizer,
      totalParameters,
      maxShardBytes,
    });
  } finally {
    await session.close();
  }
}

/** Converts a GGUF file to a Hugging Face folder, tokenizer and chat template included. */
export async function convertGguf(path: string, outDir: string, o: ConvertOptions = {}): Promise<ModelSaved> {
  if (!path.endsWith('.gguf'))
    throw new LatheError('ERR_CONFIG', `expected a .gguf file, received '${path}'`, {
      remedy: 'use convertModel for folders',
    });
  return convertModel(path, outDir, o);
}
