/**
 * Thoughts of Words: add `<ToW>` and `</ToW>` to the vocabulary, grow the embeddings, train on completions only.
 *
 *   npx ts-node examples/tow.ts MODEL_FOLDER DATA.jsonl [OUTPUT]      rows: {"prompt": ..., "completion": ...}
 */
import {
  AutoModelForCausalLM,
  AutoTokenizer,
  getPeftModel,
  loadDataset,
  LoraConfig,
  SFTConfig,
  SFTTrainer,
} from '../src';

async function main(modelPath: string, dataPath: string, outputDir = 'outputs/tow'): Promise<void> {
  const tokenizer = await AutoTokenizer.fromPretrained(modelPath);
  const model = await AutoModelForCausalLM.fromPretrained(modelPath, { dtype: 'bfloat16' });
  tokenizer.addSpecialTokens({ additionalSpecialTokens: ['<ToW>', '</ToW>'] });
  if (tokenizer.vocabSize > model.vocabSize) model.resizeTokenEmbeddings(tokenizer.vocabSize);
  getPeftModel(
    model,
    new LoraConfig({ r: 16, loraAlpha: 32, targetModules: 'all-linear', modulesToSave: ['embed_tokens'] }),
  );
  model.printTrainableParameters();

  const trainer = new SFTTrainer({
    model,
    processingClass: tokenizer,
    trainDataset: await loadDataset(dataPath, { split: 'train' }),
    args: new SFTConfig({
      outputDir,
      maxLength: 1024,
      perDeviceTrainBatchSize: 2,
      gradientAccumulationSteps: 4,
      numTrainEpochs: 1,
      learningRate: 1e-4,
      loggingSteps: 10,
    }),
  });
  await trainer.train();
  await trainer.saveModel();
  await model.close();
}

const [modelPath, dataPath, outputDir] = process.argv.slice(2);
if (!dataPath) {
  console.error('usage: npx ts-node examples/tow.ts MODEL_FOLDER DATA.jsonl [OUTPUT]');
  process.exit(1);
}
main(modelPath, dataPath, outputDir).catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
