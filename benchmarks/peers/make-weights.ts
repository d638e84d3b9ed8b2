/** Saves a model of a shape with random bf16 weights as a Hugging Face folder: `make-weights SHAPE FOLDER`. */
import { AutoModelForCausalLM } from '../../src/pretrained/auto';
import { givenConfig, serve } from '../harness/serve';
import { shapeConfig, type ModelShape } from '../step/shapes';

async function main(): Promise<void> {
  const { shape, folder } = givenConfig<{ shape: ModelShape; folder: string }>();
  const model = AutoModelForCausalLM.fromConfig(shapeConfig(shape), { dtype: 'bf16' });
  await model.savePretrained(folder);
  await model.close();
  await serve({}, () => Promise.resolve({}));
}

void main();
