/** `lathe convert INPUT OUTPUT`: a GGUF file as a Hugging Face folder. */
import { LatheError } from '../errors';
import { convertModel } from '../pretrained/convert';
import { floatDtype, requireOtherFolder } from './merge';
import { say } from './output';

/** `tokenizer`: false saves none, a path takes the one that lies there, undefined is the input's own. */
export async function convertCommand(
  from: string,
  to: string,
  o: { dtype: string; tokenizer?: string | boolean },
): Promise<void> {
  requireOtherFolder(to, from);
  const tokenizer = o.tokenizer === false ? null : typeof o.tokenizer === 'string' ? o.tokenizer : undefined;
  const written = await convertModel(from, to, { dtype: floatDtype(o.dtype), tokenizer }).catch((error: unknown) => {
    const { message, remedy, at } = error as LatheError;
    if (tokenizer !== undefined || !message.includes('tokenizer.ggml')) throw error;
    const what = message.slice(0, message.length - (remedy ? remedy.length + 2 : 0) - (at ? at.length + 6 : 0));
    throw new LatheError('ERR_UNSUPPORTED', what, {
      at,
      remedy: 'give --tokenizer FOLDER, or --no-tokenizer for the weights alone',
      cause: error,
    });
  });
  say(
    `converted ${from} to ${to}: ${written.totalParameters.toLocaleString('en-US')} parameters, ${written.files.length} files`,
  );
}
