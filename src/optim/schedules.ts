/**
 * Learning-rate schedules: pure functions of the optimizer step, equal to transformers' `get_scheduler` (optimization.py).
 *
 * A schedule is (factor of the step) times (peak rate). Step 0 is the first optimizer step, and with warm-up its rate is 0, as there.
 * The learning rate is a run-time input of the optimizer program, so a schedule never causes a recompilation. Being
 * functions of the step they have no state: a resumed run only needs its step number.
 */

import { LatheError, nearest } from '../errors';

export type ScheduleName =
  | 'constant'
  | 'constant_with_warmup'
  | 'linear'
  | 'cosine'
  | 'cosine_with_restarts'
  | 'polynomial'
  | 'inverse_sqrt'
  | 'cosine_with_min_lr'
  | 'cosine_warmup_with_min_lr'
  | 'warmup_stable_decay';

export interface ScheduleOptions {
  readonly name: ScheduleName;
  /** Peak rate, reached at the end of the warm-up. */
  readonly learningRate: number;
  /** Whole steps; see `warmupStepCount`. */
  readonly warmupSteps: number;
  readonly totalSteps: number;
  /** lr_scheduler_kwargs, in transformers' spelling (num_cycles, lr_end, min_lr_rate, ...). */
  readonly kwargs?: Readonly<Record<string, unknown>> | null;
}

/** The learning rate of optimizer step `step` (0-based). */
export type Schedule = (step: number) => number;

type Factor = (step: number) => number;
type Parameters = Record<string, number | string | null>;

interface Definition {
  /** Parameter names with their defaults; null: no default, absent unless given. */
  readonly parameters: Parameters;
  factor(options: ScheduleOptions, parameters: Parameters): Factor;
}

/** `warmup_steps` as a file says it: whole steps, or below 1 a fraction of all steps, rounded up. */
export function warmupStepCount(warmupSteps: number, totalSteps: number): number {
  return warmupSteps >= 1 ? Math.floor(warmupSteps) : Math.ceil(totalSteps * warmupSteps);
}

/** The schedule for `options`. Fails with ERR_CONFIG on an unknown name or parameter, or a missing or wrong one. */
export function createSchedule(options: ScheduleOptions): Schedule {
  const definition = Object.hasOwn(SCHEDULES, options.name) ? SCHEDULES[options.name] : undefined;
  if (!definition) {
    throw new LatheError(
      'ERR_CONFIG',
      `lr_scheduler_type: expected one of ${Object.keys(SCHEDULES).join(', ')}, received ${options.name}`,
      {
        remedy: `did you mean ${nearest(options.name, Object.keys(SCHEDULES)) ?? 'linear'}?`,
      },
    );
  }
  const factor = definition.factor(options, readParameters(options, definition));
  return (step) => options.learningRate * factor(step);
}

const NUMBER_OF_CYCLES = { num_cycles: 0.5 };
const MINIMUM = { ...NUMBER_OF_CYCLES, min_lr: null, min_lr_rate: null };

const SCHEDULES: Readonly<Record<ScheduleName, Definition>> = {
  constant: { parameters: {}, factor: () => () => 1 },
  constant_with_warmup: { parameters: {}, factor: (o) => afterWarmup(o, () => 1) },
  linear: { parameters: {}, factor: (o) => afterWarmup(o, (step) => Math.max(0, (o.totalSteps - step) / span(o))) },
  cosine: {
    parameters: NUMBER_OF_CYCLES,
    factor: (o, p) => afterWarmup(o, (step) => Math.max(0, cosine(progress(o, step), p.num_cycles as number))),
  },
  cosine_with_restarts: {
    parameters: { num_cycles: 1 },
    factor: (o, p) =>
      afterWarmup(o, (step) => {
        const at = progress(o, step);
        return at >= 1 ? 0 : Math.max(0, cosine(((p.num_cycles as number) * at) % 1, 0.5));
      }),
  },
  polynomial: { parameters: { lr_end: 1e-7, power: 1 }, factor: polynomial },
  inverse_sqrt: {
    parameters: { timescale: null },
    factor: (o, p) => {
      const timescale = (p.timescale as number | null) ?? (o.warmupSteps || 10_000);
      return afterWarmup(o, (step) => 1 / Math.sqrt((step + timescale - o.warmupSteps) / timescale));
    },
  },
  cosine_with_min_lr: {
    parameters: MINIMUM,
    factor: (o, p) => {
      const floor = minimumRate(o, p);
      return afterWarmup(o, (step) => Math.max(0, raised(cosine(progress(o, step), p.num_cycles as number), floor)));
    },
  },
  cosine_warmup_with_min_lr: { parameters: { ...MINIMUM, warmup_lr_rate: null }, factor: cosineFromFirstStep },
  warmup_stable_decay: {
    parameters: {
      num_decay_steps: null,
      num_stable_steps: null,
      warmup_type: 'linear',
      decay_type: 'cosine',
      min_lr_ratio: 0,
      num_cycles: 0.5,
    },
    factor: warmupStableDecay,
  },
};

function afterWarmup(options: ScheduleOptions, factor: Factor): Factor {
  const { warmupSteps } = options;
  return (step) => (step < warmupSteps ? step / Math.max(1, warmupSteps) : factor(step));
}

/** Steps after the warm-up. */
function span(options: ScheduleOptions): number {
  return Math.max(1, options.totalSteps - options.warmupSteps);
}

function progress(options: ScheduleOptions, step: number): number {
  return (step - options.warmupSteps) / span(options);
}

/** Half a wave per 0.5 cycles: 1 at progress 0, 0 at the end of each half wave. */
function cosine(at: number, cycles: number): number {
  return 0.5 * (1 + Math.cos(Math.PI * cycles * 2 * at));
}

/** [0, 1] onto [floor, 1]. */
function raised(factor: number, floor: number): number {
  return factor * (1 - floor) + floor;
}

function minimumRate(options: ScheduleOptions, parameters: Parameters): number {
  const { min_lr: rate, min_lr_rate: ratio } = parameters as Record<string, number | null>;
  if ((rate === null) === (ratio === null)) {
    throw parameterError(
      options,
      `expected one of min_lr and min_lr_rate, received ${rate === null ? 'neither' : 'both'}`,
    );
  }
  return ratio ?? (rate as number) / options.learningRate;
}

function polynomial(options: ScheduleOptions, parameters: Parameters): Factor {
  const { lr_end: end, power } = parameters as Record<string, number>;
  const start = options.learningRate;
  if (!(start > end))
    throw parameterError(options, `expected lr_end below the learning rate ${start}, received ${end}`);
  return afterWarmup(options, (step) => {
    if (step > options.totalSteps) return end / start;
    const remaining = 1 - (step - options.warmupSteps) / (options.totalSteps - options.warmupSteps);
    return ((start - end) * remaining ** power + end) / start;
  });
}

/** The variant whose warm-up starts above 0 at the first step, and whose decay is one step ahead of cosine_with_min_lr. */
function cosineFromFirstStep(options: ScheduleOptions, parameters: Parameters): Factor {
  const floor = minimumRate(options, parameters);
  const first = parameters.warmup_lr_rate as number | null;
  const { warmupSteps } = options;
  return (step) => {
    if (step < warmupSteps) {
      if (first === null) return (step + 1) / Math.max(1, warmupSteps);
      return first + ((1 - first) * step) / Math.max(1, warmupSteps - 1);
    }
    const at = (step - warmupSteps + 1) / span(options);
    return Math.max(0, raised(cosine(at, parameters.num_cycles as number), floor));
  };
}

function warmupStableDecay(options: ScheduleOptions, parameters: Parameters): Factor {
  const decaySteps = parameters.num_decay_steps as number | null;
  if (decaySteps === null) throw parameterError(options, 'expected num_decay_steps, received none');
  const stableSteps =
    (parameters.num_stable_steps as number | null) ?? options.totalSteps - options.warmupSteps - decaySteps;
  const floor = parameters.min_lr_ratio as number;
  const warmup = shape(options, 'warmup_type', parameters.warmup_type);
  const decay = shape(options, 'decay_type', parameters.decay_type);
  const stableFrom = options.warmupSteps;
  const decayFrom = stableFrom + stableSteps;
  return (step) => {
    if (step < stableFrom) {
      const at = step / Math.max(1, stableFrom);
      return Math.max(0, raised(WARMUP_SHAPES[warmup](at), floor));
    }
    if (step < decayFrom) return 1;
    if (step >= decayFrom + decaySteps) return floor;
    const at = (step - decayFrom) / Math.max(1, decaySteps);
    return Math.max(0, raised(DECAY_SHAPES[decay](at, parameters.num_cycles as number), floor));
  };
}

type Shape = 'linear' | 'cosine' | '1-sqrt';

const WARMUP_SHAPES: Readonly<Record<Shape, (at: number) => number>> = {
  linear: (at) => at,
  cosine: (at) => 0.5 * (1 - Math.cos(Math.PI * at)),
  '1-sqrt': (at) => 1 - Math.sqrt(1 - at),
};

const DECAY_SHAPES: Readonly<Record<Shape, (at: number, cycles: number) => number>> = {
  linear: (at) => 1 - at,
  cosine,
  '1-sqrt': (at) => 1 - Math.sqrt(at),
};

function shape(options: ScheduleOptions, name: string, value: unknown): Shape {
  if (value === 'linear' || value === 'cosine' || value === '1-sqrt') return value;
  throw parameterError(options, `${name}: expected linear, cosine or 1-sqrt, received ${String(value)}`);
}

function readParameters(options: ScheduleOptions, definition: Definition): Parameters {
  const result: Parameters = { ...definition.parameters };
  const known = Object.keys(definition.parameters);
  for (const [name, value] of Object.entries(options.kwargs ?? {})) {
    if (!known.includes(name)) {
      const guess = nearest(name, known);
      throw new LatheError(
        'ERR_CONFIG',
        `lr_scheduler_kwargs: ${options.name} takes ${known.join(', ') || 'no parameters'}, received ${name}`,
        {
          at: `lr_scheduler_kwargs.${name}`,
          remedy: guess ? `did you mean ${guess}?` : 'remove it',
        },
      );
    }
    if (value === null) continue;
    const isText = typeof definition.parameters[name] === 'string';
    if (isText ? typeof value !== 'string' : typeof value !== 'number' || !Number.isFinite(value)) {
      throw parameterError(
        options,
        `${name}: expected ${isText ? 'text' : 'a number'}, received ${JSON.stringify(value)}`,
      );
    }
    result[name] = value as number | string;
  }
  return result;
}

function parameterError(options: ScheduleOptions, message: string): LatheError {
  return new LatheError('ERR_CONFIG', `lr_scheduler_type ${options.name}: ${message}`, {
    at: 'lr_scheduler_kwargs',
    remedy: 'set it in lr_scheduler_kwargs',
  });
}
