/**
 * Which device 'auto' means: asked here by everything that opens a model or plans a run, so that all of one run agree.
 *
 * The first CUDA device when the CUDA module is there and sees one, else the CPU; of several processes that train together each
 * takes the CPU, as that is where they can. Nothing is said when there is no GPU: `lathe doctor` tells why.
 */
import { hasNative, loadNative } from './binding';
import { currentWorld } from './world';

/** `'cuda:0'` or `'cpu'` for `'auto'`; any other name as it is. Needs no addon: without one there is no GPU. */
export function resolveDevice(asked: string): string {
  if (asked !== 'auto') return asked;
  if (currentWorld().size > 1 || !hasNative()) return 'cpu';
  return (
    loadNative()
      .devices()
      .find((d) => d.device.startsWith('cuda'))?.device ?? 'cpu'
  );
}

/** True for two names of one device: `'cuda'` is `'cuda:0'`. */
export function sameDevice(a: string, b: string): boolean {
  const numbered = (name: string): string => (name === 'cuda' ? 'cuda:0' : name);
  return numbered(a) === numbered(b);
}
