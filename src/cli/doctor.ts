/** `lathe doctor`: what this machine has, and what is missing. */
import { freemem, totalmem } from 'node:os';
import { formatBytes } from '../errors';
import { defaultThreads } from '../compile/devices';
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
  if (gpus.length === 0) say('CUDA      not built into this addon: programs run on the CPU');
  for (const gpu of gpus) say(`${gpu.device.padEnd(10)}${gpu.name}, ${formatBytes(gpu.memoryBytes)}`);
}
