/**
 * DataCollatorForLanguageModeling: rows of ids to a padded rectangle with labels, for causal and for masked language models.
 *
 * The idea: transformers' collator. Causal labels are the ids themselves, masked ones are the ids at the positions that were
 * drawn (15 %); of those, 80 % show the mask token, 10 % a random token and 10 % stay. Every position takes the same three
 * numbers of a Philox stream keyed by seed and batch, so a batch does not depend on what was collated before it.
 *
 * Invariants: special and padding tokens are never drawn; labels are not shifted and -100 where there is nothing to predict.
 * Source: transformers/data/data_collator.py.
 */
import { LatheError } from '../errors';
import { PhiloxStream, RANDOM_DOMAIN } from './philox';
import { IGNORE_INDEX } from './types';

/** What the collator needs to know of a tokenizer; `Tokenizer` has it. */
export interface MaskingTokenizer {
  readonly vocabSize: number;
  readonly padTokenId: number | undefined;
  readonly maskTokenId: number | undefined;
  readonly allSpecialIds: readonly number[];
}

export interface LanguageModelingOptions {
  tokenizer: MaskingTokenizer;
  /** Masked (true, as in transformers) or causal. */
  mlm?: boolean;
  /** Share of the tokens to predict (0.15). */
  mlmProbability?: number;
  /** Of those, the share shown as the mask token (0.8) and as a random token (0.1); the rest stays as it is. */
  maskReplaceProb?: number;
  randomReplaceProb?: number;
  padToMultipleOf?: number;
  seed?: number;
}

/** Row-major rectangles of `shape`. */
export interface LanguageModelingBatch {
  shape: [rows: number, length: number];
  inputIds: Int32Array;
  /** 1 for a token, 0 for padding. */
  attentionMask: Int32Array;
  /** Not shifted; -100 where nothing is predicted. */
  labels: Int32Array;
}

/** Ids of a row, alone or under the name that data sets give them. */
export type IdRow = ArrayLike<number> | { inputIds: ArrayLike<number> } | { input_ids: ArrayLike<number> };

export class DataCollatorForLanguageModeling {
  private readonly mlm: boolean;
  private readonly special: ReadonlySet<number>;
  private batches = 0;

  /** @throws ERR_CONFIG for masking without a mask token, or shares that are none */
  constructor(private readonly options: LanguageModelingOptions) {
    this.mlm = options.mlm ?? true;
    this.special = new Set(options.tokenizer.allSpecialIds);
    if (this.mlm && options.tokenizer.maskTokenId === undefined) {
      throw new LatheError('ERR_CONFIG', 'mlm: expected a tokenizer with a mask token, received one without', {
        remedy: "set mlm: false, or add one: addSpecialTokens({ maskToken: '<mask>' })",
      });
    }
    const { mask, random } = this.shares();
    for (const [name, share] of Object.entries({
      mlmProbability: options.mlmProbability ?? 0.15,
      maskReplaceProb: mask,
      randomReplaceProb: random,
      'maskReplaceProb + randomReplaceProb': mask + random,
    })) {
      if (!(share >= 0 && share <= 1 + 1e-12))
        throw new LatheError('ERR_CONFIG', `${name}: expected a share from 0 to 1, received ${share}`, {
          remedy: 'transformers uses 0.15, 0.8 and 0.1',
        });
    }
  }

  /** @param batch which numbers are drawn; default: one further with each call @throws ERR_DATA for no rows, ERR_CONFIG when padding is needed and there is no pad token */
  collate(rows: readonly IdRow[], batch = this.batches++): LanguageModelingBatch {
    const ids = rows.map(idsOf);
    if (ids.length === 0)
      throw new LatheError('ERR_DATA', 'collate: expected rows, received none', { remedy: 'leave empty batches out' });
    const multiple = this.options.padToMultipleOf ?? 1;
    const length = Math.ceil(Math.max(...ids.map((row) => row.length)) / multiple) * multiple;
    const { padTokenId } = this.options.tokenizer;
    if (padTokenId === undefined && ids.some((row) => row.length < length)) {
      throw new LatheError(
        'ERR_CONFIG',
        'collate: expected a tokenizer with a pad token for rows of different length, received one without',
        { remedy: 'name one: tokenizer.padToken = tokenizer.eosToken, or pack the rows' },
      );
    }
    const result: LanguageModelingBatch = {
      shape: [ids.length, length],
      inputIds: new Int32Array(ids.length * length).fill(padTokenId ?? 0),
      attentionMask: new Int32Array(ids.length * length),
      labels: new Int32Array(ids.length * length).fill(IGNORE_INDEX),
    };
    ids.forEach((row, r) => {
      result.inputIds.set(row, r * length);
      result.attentionMask.fill(1, r * length, r * length + row.length);
    });
    if (this.mlm) this.mask(result, batch);
    else this.copyLabels(result);
    return result;
  }

  /** As transformers does, padding is told by its id: where pad is EOS, the end of a row is not trained. */
  private copyLabels({ inputIds, labels }: LanguageModelingBatch): void {
    const { padTokenId } = this.options.tokenizer;
    inputIds.forEach((id, i) => {
      if (id !== padTokenId) labels[i] = id;
    });
  }

  private mask({ inputIds, attentionMask, labels }: LanguageModelingBatch, batch: number): void {
    const { tokenizer, mlmProbability = 0.15, seed = 42 } = this.options;
    const { mask, random } = this.shares();
    const stream = new PhiloxStream(seed, RANDOM_DOMAIN.mlm, batch);
    for (let i = 0; i < inputIds.length; i++) {
      const [isDrawn, how, other] = [stream.uniform(), stream.uniform(), stream.uniform()];
      if (attentionMask[i] === 0 || this.special.has(inputIds[i]) || isDrawn >= mlmProbability) continue;
      labels[i] = inputIds[i];
      if (how < mask) inputIds[i] = tokenizer.maskTokenId as number;
      else if (how < mask + random) inputIds[i] = Math.floor(other * tokenizer.vocabSize);
    }
  }

  private shares(): { mask: number; random: number } {
    return { mask: this.options.maskReplaceProb ?? 0.8, random: this.options.randomReplaceProb ?? 0.1 };
  }
}

function idsOf(row: IdRow): ArrayLike<number> {
  if ('inputIds' in row) return row.inputIds;
  return 'input_ids' in row ? row.input_ids : row;
}
