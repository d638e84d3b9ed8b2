/**
 * The public names of the data layer, by explicit re-export.
 */
export { badRowHandler, type BadRowPolicy } from './bad-rows';
export { chooseBuckets, type BucketChoice, type BucketOptions } from './buckets';
export { collate, type CollateOptions } from './collate';
export { Dataset, splitRows, type Columns, type MapOptions, type SplitOptions } from './dataset';
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
export {
  DataCollatorForLanguageModeling,
  type LanguageModelingBatch,
  type LanguageModelingOptions,
} from './language-modeling';
export { datasetFiles, loadDataset, type DatasetDict, type IterableDatasetDict, type LoadOptions } from './load';
export { createLoader, type Loader, type LoaderOptions, type LoaderState, type LoaderSummary } from './loader';
export { countTrained, maskByTemplate } from './masks';
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
export { RowEncoder, type RowEncoderOptions } from './row-encoder';
export { type SamplingStrategy } from './sampler';
export { type StepBatches, type StepSource, type StepSourceState } from './step-source';
export { StreamLoader, type StreamLoaderOptions, type StreamLoaderState, type StreamPeers } from './stream-loader';
export { interleave, IterableDataset, type InterleaveOptions, type StreamState } from './stream';
export { provideFileMapping, TokenFile, TokenFileWriter } from './token-file';
export { tokenizeDataset, type TokenizedDataset, type TokenizeOptions } from './tokenize';
export {
  describeTruncation,
  emptyReport,
  truncateExample,
  type TruncationPolicy,
  type TruncationReport,
} from './truncate';
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
