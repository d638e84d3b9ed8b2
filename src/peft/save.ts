/**
 * Writes a PEFT adapter folder: adapter_model.safetensors, adapter_config.json and a model card.
 *
 * All of them take the place of an earlier adapter's files, or none does.
 *
 * Source: peft `save_pretrained`, `get_peft_model_state_dict`.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { LatheError } from '../errors';
import type { DType } from '../graph/dtype';
import { writeFileAtomic, writeJsonAtomic } from '../io/atomic-file';
import { replaceFileSets } from '../io/file-set';
import { ADAPTER_CONFIG_FILE, ADAPTER_FILES } from '../io/model-files';
import { writeSafetensors, type SafetensorsDType, type TensorToWrite } from '../io/safetensors';
import type { Parameter } from '../nn/module';
import { Linear } from '../nn/layers';
import { adapterConfigJson } from './adapter-json';
import { adapterParameters, type PeftModel } from './inject';
import { ADAPTER_WEIGHTS_FILE } from './load';
import { LoraConfig } from './lora-config';

/** What `saveAdapter` needs of a model; a PreTrainedModel is one. */
export interface AdapterOwner {
  readonly peft: PeftModel | null;
  readonly origin: { readonly path: string };
  /** Starts the session when need be. */
  ready(): Promise<{ readState(name: string): Promise<Uint8Array> }>;
  /** The vocabulary no longer has the size of the base model's files. */
  readonly vocabularyResized: boolean;
  /** Task and base of a loaded adapter; null for a new one. */
  readonly adapterBase?: string | null;
}

const STORED: Partial<Record<DType, SafetensorsDType>> = { f32: 'F32', bf16: 'BF16', f16: 'F16' };

export interface AdapterWritten {
  files: string[];
  parameters: number;
  bytes: number;
}

/** Saves the model's adapter. @throws LatheError ERR_CONFIG without one, ERR_CHECKPOINT for the disk and for a folder that holds a model */
export async function saveAdapter(model: AdapterOwner, dir: string): Promise<AdapterWritten> {
  const { peft } = model;
  if (!peft)
    throw new LatheError('ERR_CONFIG', 'the model has no adapter to save', {
      remedy: 'add one with getPeftModel, or save the model itself with savePretrained',
    });
  const session = await model.ready();
  const tensors = [...adapterParameters(peft, { embeddings: model.vocabularyResized })].map(([name, p]) =>
    adapterTensor(name, p, session),
  );
  const base = model.adapterBase ?? (model.origin.path || null);
  const hasCard = existsSync(join(dir, 'README.md'));
  const written = await replaceFileSets(dir, [ADAPTER_FILES], async (staging) => {
    await writeFileAtomic(join(staging, 'README.md'), modelCard(peft, base));
    await writeJsonAtomic(
      join(staging, ADAPTER_CONFIG_FILE),
      adapterConfigJson(savedConfig(peft), { baseModel: base, revision: null }),
    );
    return writeSafetensors(join(staging, ADAPTER_WEIGHTS_FILE), tensors);
  });
  const files = [ADAPTER_WEIGHTS_FILE, ...(hasCard ? [] : ['README.md']), ADAPTER_CONFIG_FILE];
  return { files, parameters: written.parameters, bytes: written.fileBytes };
}

function adapterTensor(
  name: string,
  p: Parameter,
  session: { readState(name: string): Promise<Uint8Array> },
): TensorToWrite {
  const slot = p.slot();
  return { name, dtype: STORED[slot.dtype]!, shape: slot.shape, data: () => session.readState(slot.name) };
}

/** The config with its targets spelled out: `all-linear` and defaults mean other modules in another version or model. */
function savedConfig(peft: PeftModel): LoraConfig {
  const { config, base } = peft;
  const linears = [...base.modules()].filter((m): m is Linear => m instanceof Linear);
  const explicit = config.targetModules !== null && config.targetModules !== 'all-linear';
  const targetModules = explicit
    ? config.targetModules
    : shortestNames(
        [...peft.pairs.keys()],
        linears.map((m) => m.path),
      );
  const fanInFanOut = linears.some((m) => peft.pairs.has(m.path) && m.layout === 'in_out');
  // PEFT ties the head to a saved embedding, never the other way round.
  const embedding = /([^.]*)\.weight$/.exec(base.embedding.name)![1];
  const tied = base.config.tieWordEmbeddings && config.ensureWeightTying && peft.copied.has(base.embedding.name);
  const modulesToSave = tied
    ? [...new Set([...config.modulesToSave!.filter((name) => !'lm_head'.endsWith(name)), embedding])]
    : config.modulesToSave;
  // 'all-linear' ignores the layer filter, a list of names would obey it.
  const layersToTransform = config.targetModules === 'all-linear' ? null : config.layersToTransform;
  return new LoraConfig({ ...config, targetModules, layersToTransform, fanInFanOut, modulesToSave });
}

/** Last parts of the paths when these mean exactly the chosen modules, else the whole paths. */
function shortestNames(chosen: readonly string[], all: readonly string[]): string[] {
  const last = (path: string): string => path.slice(path.lastIndexOf('.') + 1);
  const names = new Set(chosen.map(last));
  const picked = new Set(chosen);
  return all.some((path) => names.has(last(path)) && !picked.has(path)) ? [...chosen] : [...names];
}

function modelCard(peft: PeftModel, base: string | null): string {
  const { config } = peft;
  const front = [
    '---',
    ...(base ? [`base_model: ${JSON.stringify(base)}`] : []),
    'library_name: peft',
    ...(config.taskType === 'CAUSAL_LM' ? ['pipeline_tag: text-generation'] : []),
    'tags:',
    ...(base ? [`- ${JSON.stringify(`base_model:adapter:${base}`)}`] : []),
    '- lora',
    '- transformers',
    '---',
  ];
  const rows = [
    ['Base model', base ?? 'none given'],
    ['Rank r', String(config.r)],
    ['Alpha', String(config.loraAlpha) + (config.useRslora ? ', rank-stabilised' : '')],
    ['Dropout', String(config.loraDropout)],
    ['Adapted modules', String(peft.pairs.size)],
    ...(peft.saved.size
      ? [
          [
            'Tensors trained in full',
            [...peft.saved.keys()].slice(0, 4).join(', ') + (peft.saved.size > 4 ? ', ...' : ''),
          ],
        ]
      : []),
  ];
  const table = ['| | |', '|---|---|', ...rows.map(([key, value]) => `| ${key} | ${value} |`)];
  return `${[...front, '', '# LoRA adapter', '', ...table, '', 'Trained with lathe. Load it with PEFT on the base model, or with lathe.'].join('\n')}\n`;
}
