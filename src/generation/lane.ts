/**
 * Lanes: a KV cache in a session and the programs compiled for it, kept from one generation to the next.
 *
 * A generation owns one lane while it runs. Two generations at once get two lanes, so neither waits for the other and a
 * caller that stops reading a stream half way blocks nobody. An idle lane whose cache is large enough is reused with its
 * programs; one of another shape is emptied and made anew; only if all are busy a further one appears.
 *
 * Invariant: the slots named after a lane have exactly the type of `shape`, and every program of the lane was loaded for it.
 */
import { compile } from '../compile/compile';
import { deviceSpec } from '../compile/devices';
import type { Graph } from '../graph/trace';
import type { CausalLm } from '../models/causal-lm';
import { allCacheSlots, type KvCacheShape } from '../nn/kv-cache';
import type { ProgramHandle, Session } from '../runtime/session';
import { bucketOf } from './programs';

/** Loaded programs a lane keeps; the one used longest ago goes first. */
const MAX_PROGRAMS = 24;

export class Lane {
  busy = false;
  private cache: KvCacheShape | null = null;
  private owner: CausalLm | null = null;
  private readonly programs = new Map<string, ProgramHandle>();

  constructor(
    private readonly session: Session,
    private readonly name: string,
  ) {}

  /** The cache's shape; throws nothing once `open` has succeeded. */
  get shape(): KvCacheShape {
    return this.cache!;
  }

  /** True when a generation of this size can use the lane as it is. */
  fits(module: CausalLm, batch: number, length: number): boolean {
    return this.owner === module && this.cache !== null && this.cache.batch === batch && this.cache.length >= length;
  }

  /** Makes the cache at least this large. Throws ERR_PLAN_MEMORY when there is no room; the lane is then empty. */
  open(module: CausalLm, batch: number, length: number): void {
    if (this.fits(module, batch, length)) return;
    this.empty();
    const shape: KvCacheShape = { ...module.cacheShape(batch, bucketOf(length)), name: this.name };
    this.session.defineState(allCacheSlots(shape));
    this.cache = shape;
    this.owner = module;
  }

  /** The loaded program of `key`, compiled on first use. */
  program(key: string, build: () => Graph): ProgramHandle {
    let program = this.programs.get(key);
    if (program) this.programs.delete(key);
    else {
      const { device, threads } = this.session.stats();
      program = this.session.loadProgram(compile(build(), { device: { ...deviceSpec(device), threads } }).bytes);
    }
    // Re-inserted last: the map's order is the order of use.
    this.programs.set(key, program);
    const [oldest] = this.programs.keys();
    if (this.programs.size > MAX_PROGRAMS) {
      this.session.releaseProgram(this.programs.get(oldest)!);
      this.programs.delete(oldest);
    }
    return program;
  }

  /** Frees programs and cache. */
  empty(): void {
    for (const program of this.programs.values()) this.session.releaseProgram(program);
    this.programs.clear();
    const shape = this.cache;
    this.cache = null;
    this.owner = null;
    if (shape) this.session.dropState(allCacheSlots(shape).map((slot) => slot.name));
  }
}

const lanesOf = new WeakMap<Session, Lane[]>();

/** A lane for `batch` sequences of up to `length` cached tokens; the caller sets `busy` to false when done. */
export function acquireLane(session: Session, module: CausalLm, batch: number, length: number): Lane {
  const lanes = lanesOf.get(session) ?? [];
  lanesOf.set(session, lanes);
  const idle = lanes.filter((lane) => !lane.busy);
  let lane = idle.find((l) => l.fits(module, batch, length)) ?? idle[0];
  if (!lane) lanes.push((lane = new Lane(session, lanes.length ? `kv_cache_${lanes.length}` : 'kv_cache')));
  lane.open(module, batch, length);
  lane.busy = true;
  return lane;
}

/**
 * Frees the caches and programs that generations left in a session. Needed before slots that these programs read are
 * dropped or redefined, and worth it when training goes on for long. Running generations keep theirs.
 */
export function releaseGeneration(session: Session): void {
  for (const lane of lanesOf.get(session) ?? []) if (!lane.busy) lane.empty();
  session.releaseFiles();
}
