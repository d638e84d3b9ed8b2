/**
 * A code completion model from scratch: train a tokenizer, stream the code, pretrain a GPT-2 from random weights, watch perplexity,
 * complete a function. The CodeParrot recipe.
 *
 *   npx ts-node examples/codeparrot.ts DATA OUTPUT [SIZE] [STEPS]
 *
 * DATA: files with a source file in the column `content` of each row, e.g. 'code/*.jsonl.gz' (quoted), of any size; SIZE: tiny, mini or small
 * (GPT-2's 124 million parameters).
 */
import {
  AutoModelForCausalLM,
  AutoTokenizer,
  loadDataset,
  pipeline,
  SFTConfig,
  SFTTrainer,
  type IterableDataset,
} from '../src';

const SIZES = {
  tiny: { vocab_size: 1024, n_embd: 64, n_layer: 2, n_head: 2, n_positions: 128 },
  mini: { vocab_size: 8192, n_embd: 384, n_layer: 6, n_head: 6, n_positions: 512 },
  small: { vocab_size: 32768, n_embd: 768, n_layer: 12, n_head: 12, n_positions: 1024 },
};

async function* contentOf(rows: IterableDataset): AsyncGenerator<string> {
  for await (const row of rows) yield String(row.content);
}

async function main(
  data: string,
  outputDir: string,
  size: keyof typeof SIZES = 'mini',
  maxSteps = 5000,
): Promise<void> {
  const code = await loadDataset(data, { split: 'train', streaming: true, onBadRow: 'skip' });
  const valid = code.take(200);
  const train = code.skip(200).shuffle({ seed: 1, bufferSize: 1000 });

  // A vocabulary for code: indentation and keywords become single tokens.
  const tokenizer = await AutoTokenizer.trainNewFromIterator(contentOf(train.take(100_000)), {
    vocabSize: SIZES[size].vocab_size,
    eosToken: '<|endoftext|>',
    bosToken: '<|endoftext|>',
  });
  console.log(tokenizer.decode(await tokenizer.encode('def say_hello():\n    print("Hello, World!")\n')));

  const special = { bos_token_id: tokenizer.bosTokenId, eos_token_id: tokenizer.eosTokenId };
  const model = AutoModelForCausalLM.fromConfig(
    {
      model_type: 'gpt2',
      activation_function: 'gelu_new',
      attn_pdrop: 0,
      layer_norm_epsilon: 1e-5,
      initializer_range: 0.02,
      ...SIZES[size],
      ...special,
      vocab_size: tokenizer.vocabSize,
    },
    { dtype: 'bfloat16', weightDtype: 'f32' },
  );
  const parameters = [...model.parameters().values()].reduce(
    (sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1),
    0,
  );
  console.log(`GPT-2 size: ${(parameters / 1e6).toFixed(1)} million parameters`);

  const trainer = new SFTTrainer({
    model,
    processingClass: tokenizer,
    trainDataset: train,
    evalDataset: valid,
    args: new SFTConfig({
      outputDir,
      datasetTextField: 'content',
      // Documents end to end with EOS between them, cut to the context.
      packing: true,
      packingStrategy: 'wrapped',
      maxLength: SIZES[size].n_positions,
      maxSteps,
      perDeviceTrainBatchSize: 4,
      perDeviceEvalBatchSize: 4,
      gradientAccumulationSteps: 4,
      learningRate: 5e-4,
      lrSchedulerType: 'cosine',
      warmupSteps: 0.05,
      weightDecay: 0.1,
      evalStrategy: 'steps',
      evalSteps: 0.2,
      saveSteps: 0.2,
      loggingSteps: 10,
    }),
  });
  for await (const event of trainer.run()) {
    if (event.type === 'log') console.log(`step ${event.step}  loss ${event.entry.loss.toFixed(3)}`);
    if (event.type === 'evaluate')
      console.log(`step ${event.step}  perplexity ${event.metrics.eval_perplexity.toFixed(2)}`);
  }
  await trainer.saveModel();

  const complete = await pipeline('text-generation', { model, tokenizer });
  for (const prompt of ['def fibonacci(n):\n    ', 'import numpy as np\n', 'class Stack:\n    def __init__(self']) {
    const [{ generatedText }] = await complete(prompt, {
      maxNewTokens: 40,
      doSample: true,
      temperature: 0.4,
      topP: 0.95,
      seed: 1,
    });
    console.log(`---\n${generatedText as string}`);
  }
  await model.close();
}

const [data, outputDir, size, steps] = process.argv.slice(2);
if (!outputDir) {
  console.error('usage: npx ts-node examples/codeparrot.ts DATA OUTPUT [SIZE] [STEPS]');
  process.exit(1);
}
main(data, outputDir, size as keyof typeof SIZES | undefined, steps ? Number(steps) : undefined).catch(
  (error: unknown) => {
    console.error(error);
    process.exitCode = 1;
  },
);
