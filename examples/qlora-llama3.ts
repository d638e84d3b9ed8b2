/**
 * QLoRA of Llama 3 8B on Alpaca rows with the loss on the answers only: the classic recipe.
 *
 *   npx ts-node examples/qlora-llama3.ts MODEL_FOLDER DATA.json [OUTPUT]
 *
 * Any Llama works in place of the 8B; SmolLM2-135M trains on a laptop.
 */
import {
  alpacaPrompt,
  AutoModelForCausalLM,
  AutoTokenizer,
  BitsAndBytesConfig,
  getPeftModel,
  loadDataset,
  LoraConfig,
  SFTConfig,
  SFTTrainer,
} from '../src';

async function main(modelPath: string, dataPath: string, outputDir = 'outputs/qlora'): Promise<void> {
  const tokenizer = await AutoTokenizer.fromPretrained(modelPath);
  const model = await AutoModelForCausalLM.fromPretrained(modelPath, {
    dtype: 'bfloat16',
    quantizationConfig: new BitsAndBytesConfig({
      loadIn4bit: true,
      bnb4bitQuantType: 'nf4',
      bnb4bitUseDoubleQuant: true,
      bnb4bitComputeDtype: 'bf16',
    }),
  });
  getPeftModel(
    model,
    new LoraConfig({
      r: 16,
      loraAlpha: 16,
      loraDropout: 0,
      bias: 'none',
      taskType: 'CAUSAL_LM',
      targetModules: ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'],
    }),
  );
  model.printTrainableParameters();

  const rows = await loadDataset(dataPath, { split: 'train' });
  const plain = await rows.filter((row) => !row.input);
  const pairs = await plain.map(
    (row) => ({ prompt: alpacaPrompt(String(row.instruction)), completion: String(row.output) }),
    { removeColumns: plain.columnNames },
  );
  const { train, test } = pairs.trainTestSplit({ testSize: 0.01, seed: 42 });

  const trainer = new SFTTrainer({
    model,
    processingClass: tokenizer,
    trainDataset: train,
    evalDataset: test,
    args: new SFTConfig({
      outputDir,
      maxLength: 2048,
      perDeviceTrainBatchSize: 2,
      gradientAccumulationSteps: 8,
      maxSteps: 100,
      learningRate: 1e-4,
      lrSchedulerType: 'constant_with_warmup',
      warmupSteps: 50,
      optim: 'adamw_8bit',
      weightDecay: 0.01,
      bf16: true,
      gradientCheckpointing: true,
      loggingSteps: 1,
      evalStrategy: 'steps',
      evalSteps: 10,
      saveSteps: 50,
      seed: 42,
    }),
  });
  for await (const event of trainer.run()) {
    if (event.type === 'step')
      console.log(`step ${event.step}  loss ${event.loss.toFixed(4)}  ${Math.round(event.tokensPerSecond)} tokens/s`);
    if (event.type === 'evaluate') console.log(`eval loss ${event.metrics.eval_loss.toFixed(4)}`);
  }
  await trainer.saveModel();
  await model.close();
}

const [modelPath, dataPath, outputDir] = process.argv.slice(2);
if (!dataPath) {
  console.error('usage: npx ts-node examples/qlora-llama3.ts MODEL_FOLDER DATA.json [OUTPUT]');
  process.exit(1);
}
main(modelPath, dataPath, outputDir).catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
