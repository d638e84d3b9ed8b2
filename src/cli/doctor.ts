/** `lathe doctor`: what this machine has, and what is missing. Memory in binary units; fails with ERR_NATIVE_LOAD without an addon. */
import { freemem, totalmem } from 'node:os';
import { formatBytes } from '../errors';
import { defaultThreads } from '../compile/devices';
import { Sandbox } from '../eval/sandbox';
import { loadNative } from '../runtime/binding';
import { say } from './output';

export async function doctorCommand(): Promise<void> {
  say(`node      ${process.version} ${process.platform}-${process.arch}`);
  say(`memory    ${formatBytes(freemem())} free of ${formatBytes(totalmem())}`);
  const addon = loadNative();
  const isa = addon.isa();
  say(`addon     loaded, ${addon.kernels().length} CPU kernels`);
  say(`isa       ${isa.arch}: ${isa.features.join(' ') || 'portable'}`);
  say(`threads   ${defaultThreads()}`);
  const gpus = addon.devices().filter((d) => d.device.startsWith('cuda'));
  const cuda = addon.cuda();
  if (cuda.module) say(`CUDA      ${cuda.kernels.length} kernels for ${cuda.built}`);
  if (cuda.libraries) say(`          ${cuda.libraries}`);
  if (gpus.length === 0)
    say(
      `CUDA      ${cuda.module ? `no device: ${cuda.problem}` : 'not built: programs run on the CPU (npm run build:cuda builds it, with nvcc)'}`,
    );
  for (const gpu of gpus)
    say(
      `${gpu.device.padEnd(10)}${gpu.name}, ${formatBytes(gpu.freeBytes ?? 0)} free of ${formatBytes(gpu.memoryBytes)}`,
    );
  say(`python    ${await python()}`);
}

/** Only `lathe eval passk` runs Python: the programs that models write. */
async function python(): Promise<string> {
  try {
    const sandbox = await Sandbox.open();
    const { isolated } = sandbox.isolation;
    return `${sandbox.version}, for lathe eval passk; programs are shut off from ${isolated.length ? isolated.join(', ') : 'nothing by the kernel, only by a check inside of Python'}`;
  } catch (error) {
    return `none that runs (needed by lathe eval passk only): ${(error as Error).message}`;
  }
}
