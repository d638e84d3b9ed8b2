/** `lathe convert INPUT OUTPUT`: a GGUF file as a Hugging Face folder. */
import { convertModel } from '../pretrained/convert';
import { floatDtype } from './merge';
import { say } from './output';

export async function convertCommand(from: string, to: string, o: { dtype: string }): Promise<void> {
  const written = await convertModel(from, to, { dtype: floatDtype(o.dtype) });
  say(`converted ${from} to ${to}: ${written.totalParameters.toLocaleString('en-US')} parameters, ${written.files.length} files`);
}
