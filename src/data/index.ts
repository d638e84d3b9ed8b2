/**
 * The public names of the data layer, by explicit re-export.
 */
export { chooseBuckets, type BucketChoice, type BucketOptions } from './buckets';
export { collate, type CollateOptions } from './collate';
export { Dataset, type Columns, type MapOptions, type SplitOptions } from './dataset';
export {
  assertHealthy,
  formatFinding,
  inspectDataset,
  type Finding,
  type FindingCode,
  type InspectOptions,
} from './doctor';
export {
  alpacaPrompt,
  detectKind,
  fillTemplate,
  RowFormatter,
  type FormatOptions,
  type Formatter,
  type NormalRow,
  type RowKind,
} from './format';
export { loadDataset, type DatasetDict, type IterableDatasetDict, type LoadOptions } from './load';
export {
  createLoader,
  type Loader,
  type LoaderOptions,
  type LoaderState,
  type LoaderSummary,
  type StepBatches,
} from './loader';
export { countTrained, findAll, maskByTemplate } from './masks';
export { packBestFit, packExamples, type Packing, type PackingStrategy } from './pack';
export { philox4x32, PhiloxStream, permutation } from './philox';
export {
  previewLegend,
  renderPreview,
  renderSummary,
  summarise,
  type DatasetSummary,
  type PreviewOptions,
} from './preview';
export { type SamplingStrategy } from './sampler';
export { StreamLoader, type StreamLoaderOptions, type StreamLoaderState, type StreamStep } from './stream-loader';
export { interleave, IterableDataset, type InterleaveOptions, type StreamState } from './stream';
export { tokenizeDataset, tokenizeStream, type TokenizedDataset, type TokenizeOptions } from './tokenize';
export { describeTruncation, type TruncationPolicy, type TruncationReport } from './truncate';
export {
  IGNORE_INDEX,
  type Batch,
  type ChatMessage,
  type ChatRenderOptions,
  type EncodedText,
  type Row,
  type TextTokenizer,
  type TokenizedExample,
} from './types';
