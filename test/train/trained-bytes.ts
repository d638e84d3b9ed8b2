/** What a run has trained, for tests that compare runs: the values of all trainable parameters and a checksum of their bytes. */
import { crc32 } from 'node:zlib';
import type { PreTrainedModel } from '../../src/pretrained/model';

export async function trainedBytes(model: PreTrainedModel): Promise<{ parameters: number[]; crc: number }> {
  const session = await model.ready();
  const parameters: number[] = [];
  let crc = 0;
  for (const p of model.trainableParameters()) {
    const bytes = await session.readState(p.slot().name);
    crc = crc32(bytes, crc);
    for (const value of new Float32Array(bytes.slice().buffer)) parameters.push(value);
  }
  return { parameters, crc };
}
