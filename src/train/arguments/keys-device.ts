/** Keys about devices and distributed runs (TrainingArguments, and what TRL's command line hands to accelerate). */

import { ignored, supported, unsupported } from './key';
import { choice, dictionary, either, flag, integer, nullable, text } from './value-types';

const T = 'TrainingArguments';
const ddp = "gradients are summed by this engine's own collectives";
const launch = 'processes are started by mpirun or srun, not by the program';

// prettier-ignore
export const deviceKeys = {
  use_cpu: supported(flag(), false, T, 'Run on the CPU; the same as device: cpu.'),
  local_rank: ignored(integer(), -1, T, 'Rank within the node.', 'ranks come from the environment'),
  ddp_find_unused_parameters: ignored(nullable(flag()), null, T, 'Option of DistributedDataParallel.', ddp),
  ddp_bucket_cap_mb: ignored(nullable(integer()), null, T, 'Option of DistributedDataParallel.', ddp),
  ddp_broadcast_buffers: ignored(nullable(flag()), null, T, 'Option of DistributedDataParallel.', ddp),
  ddp_static_graph: ignored(nullable(flag()), null, T, 'Option of DistributedDataParallel.', ddp),
  ddp_backend: ignored(nullable(choice(['nccl', 'gloo', 'mpi', 'xccl', 'hccl', 'cncl', 'mccl'])), null, T, 'Backend of torch.distributed.', ddp),
  ddp_timeout: ignored(integer({ min: 0 }), 1800, T, 'Seconds until a collective gives up.', ddp),
  fsdp: unsupported(nullable(either(flag(), text())), null, T, 'Fully sharded data parallel.', 'leave it out: QLoRA needs no sharding, and the plan says what fits'),
  fsdp_config: unsupported(nullable(either(dictionary(), text())), null, T, 'Options of FSDP.', 'leave it out'),
  deepspeed: unsupported(nullable(either(dictionary(), text())), null, T, 'DeepSpeed configuration.', 'leave it out: QLoRA needs no sharding, and the plan says what fits'),
  parallelism_config: unsupported(nullable(dictionary()), null, T, 'Parallelism of accelerate.', 'leave it out'),
  accelerator_config: unsupported(nullable(either(dictionary(), text())), null, T, 'Options of accelerate.', 'leave it out'),

  env: supported(nullable(dictionary()), null, 'trl', 'Environment variables to set before the run.'),
  accelerate_config: unsupported(nullable(text()), null, 'trl', 'accelerate profile or file for the launcher.', launch),
  num_processes: unsupported(integer({ min: 1 }), 1, 'trl', 'Processes started by the launcher.', launch),
  num_machines: unsupported(integer({ min: 1 }), 1, 'trl', 'Machines used by the launcher.', launch),
  mixed_precision: ignored(nullable(text()), null, 'trl', 'Precision given to the launcher.', 'bf16 and fp16 say it'),
  gpu_ids: ignored(nullable(text()), null, 'trl', 'GPUs given to the launcher.', 'use device, or CUDA_VISIBLE_DEVICES'),
  main_process_port: ignored(nullable(integer({ min: 0 })), null, 'trl', 'Port of the launcher.', launch),
} as const;
