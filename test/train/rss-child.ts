/**
 * Trains a random model of middle size in full and prints, as JSON, what was planned and what this process grew by. Usage:
 *   rss-child.ts OUTPUT_DIR
 */
import { createLoader, type TokenizedExample } from '../../src/data';
import { AutoModelForCausalLM } from '../../src/pretrained/auto';
import { loadNative } from '../../src/runtime/binding';
import { configFromObject } from '../../src/train/arguments';
import { sftLoss } from '../../src/train/losses/sft';
import { Trainer } from '../../src/train/trainer';

const VOCAB = 8192;
const LENGTH = 512;

async function main(outputDir: string): Promise<void> {
  const model = AutoModelForCausalLM.fromConfig(
    {
      model_type: 'llama',
      architectures: ['LlamaForCausalLM'],
      hidden_size: 256,
      intermediate_size: 1024,
      num_hidden_layers: 8,
      num_attention_heads: 8,
      num_key_value_heads: 4,
      vocab_size: VOCAB,
      max_position_embeddings: LENGTH,
      tie_word_embeddings: false,
      dtype: 'float32',
    },
    { threads: 2 },
  );
  model.trainAll();
  const examples: TokenizedExample[] = Array.from({ length: 4 }, (_, row) => {
    const inputIds = Int32Array.from({ length: LENGTH }, (_v, i) => (i * 7919 + row * 104729) % VOCAB);
    return { inputIds, labels: inputIds, row };
  });
  const args = configFromObject({
    outputDir,
    maxSteps: 1,
    perDeviceTrainBatchSize: 4,
    bf16: false,
    gradientCheckpointing: false,
    saveStrategy: 'no',
    threads: 2,
    optim: 'adamw_torch',
  });
  const trainer = new Trainer({
    model,
    args,
    loss: sftLoss,
    trainLoader: createLoader(examples, { batchSize: 4, seed: 1 }),
  });
  loadNative();
  const before = process.memoryUsage.rss();
  const { plan } = trainer.plan();
  await trainer.train();
  const { arenaHighWaterBytes } = (await model.ready()).stats();
  console.log(
    JSON.stringify({
      planned: plan.peakBytes,
      grown: process.resourceUsage().maxRSS * 1024 - before,
      before,
      arenaHighWater: arenaHighWaterBytes,
      arenaPlanned: plan.arenaBytes,
    }),
  );
  await model.close();
}

main(process.argv[2]).catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
