/** A model and an adapter from PyTorch's archives compute what the same ones from safetensors do, bit for bit. */
import { join } from 'node:path';
import { AutoModelForCausalLM } from '../../src/pretrained/auto';
import { PeftModel } from '../../src/pretrained/peft-model';

const GOLDEN = join(__dirname, '../golden');

async function continuation(folder: string, adapter?: string): Promise<unknown> {
  const model = await AutoModelForCausalLM.fromPretrained(join(GOLDEN, folder), { dtype: 'float32', threads: 1 });
  try {
    if (adapter) await PeftModel.fromPretrained(model, join(GOLDEN, adapter));
    const [{ tokens, logprobs }] = await model.generate([[5, 17, 33, 2]], { maxNewTokens: 12, eosTokenId: [] });
    return { tokens, logprobs };
  } finally {
    await model.close();
  }
}

test('gpt2 as the Hub has it (no prefix, causal masks), and in shards', async () => {
  const expected = await continuation('gpt2-tiny');
  expect(await continuation('torch-archive/gpt2')).toEqual(expected);
  expect(await continuation('torch-archive/gpt2-sharded')).toEqual(expected);
});

test('an adapter', async () => {
  const expected = await continuation('llama-tiny/tied', 'llama-tiny/tied/adapter');
  expect(await continuation('llama-tiny/tied', 'torch-archive/adapter')).toEqual(expected);
  expect(await continuation('llama-tiny/tied')).not.toEqual(expected);
});
