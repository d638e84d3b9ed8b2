/**
 * What the trainers of a job's ranks tell each other besides gradients: sums of a step, decisions, the state that a
 * checkpoint needs. For one rank all of it is the identity, and no session is asked.
 *
 * Invariants: every rank makes the same calls in the same order; a sum is taken in rank order in f64, so all ranks see the
 * same number and take the same decisions from it.
 */
import { LatheError } from '../errors';
import { typeBytes, type StateSlot } from '../graph/tensor';
import type { Session } from '../runtime/session';
import type { World } from '../runtime/world';

/** A slot and the rank that holds it. */
export interface OwnedSlot {
  readonly slot: StateSlot;
  readonly owner: number;
}

/** Requests of the rank that writes a checkpoint: a slot's index, or one of these. */
const DONE = -1;
const FAILED = -2;

export class Ranks {
  constructor(
    private readonly world: World,
    private readonly session: () => Promise<Session>,
  ) {}

  get rank(): number {
    return this.world.rank;
  }

  get size(): number {
    return this.world.size;
  }

  /** Rank 0 writes logs and checkpoints. */
  get isFirst(): boolean {
    return this.world.rank === 0;
  }

  /** Element-wise sums over ranks. */
  async sums(values: readonly number[]): Promise<number[]> {
    if (this.size === 1) return [...values];
    const all = await this.gather(values);
    return values.map((_, i) => all.reduce((sum, rank) => sum + rank[i], 0));
  }

  /** For each flag, whether any rank has it. */
  async any(flags: readonly boolean[]): Promise<boolean[]> {
    return (await this.sums(flags.map(Number))).map((count) => count > 0);
  }

  /** @throws LatheError ERR_CONFIG when a value is not the same on all ranks: they would train something else each */
  async expectSame(values: Readonly<Record<string, number>>): Promise<void> {
    if (this.size === 1) return;
    const all = await this.gather(Object.values(values));
    Object.keys(values).forEach((name, i) => {
      const other = all.findIndex((rank) => !Object.is(rank[i], all[0][i]));
      if (other < 0) return;
      throw new LatheError(
        'ERR_CONFIG',
        `the ranks disagree: ${name} is ${all[0][i]} on rank 0 and ${all[other][i]} on rank ${other}`,
        {
          remedy:
            'give every rank the same configuration, data and output folder (a file system that all machines share)',
        },
      );
    });
  }

  /**
   * Runs `write` on rank 0 while the other ranks hand over the slots that it asks for; `read` gives a slot's bytes wherever it lies.
   * Returns on every rank when the writing is done. @throws what `write` throws; ERR_CHECKPOINT on the other ranks
   */
  async collect(
    slots: readonly OwnedSlot[],
    write: (read: (name: string) => Promise<Uint8Array>) => Promise<void>,
  ): Promise<void> {
    const session = await this.session();
    const index = new Map(slots.map(({ slot }, i) => [slot.name, i]));
    if (this.size === 1) return write((name) => session.readState(name));
    if (!this.isFirst) {
      for (
        let request = await this.request(session, DONE);
        request !== DONE;
        request = await this.request(session, DONE)
      ) {
        if (request === FAILED)
          throw new LatheError('ERR_CHECKPOINT', 'rank 0 could not write the checkpoint', {
            remedy: 'see its message',
          });
        await transfer(session, slots[request], this.rank);
      }
      return;
    }
    try {
      await write(async (name) => {
        const i = index.get(name);
        if (i === undefined || slots[i].owner === this.rank) return session.readState(name);
        await this.request(session, i);
        return transfer(session, slots[i], this.rank);
      });
    } catch (error) {
      await this.request(session, FAILED);
      throw error;
    }
    await this.request(session, DONE);
  }

  /** Rank 0's word to all. */
  private async request(session: Session, value: number): Promise<number> {
    const bytes = await session.broadcast(new Uint8Array(Int32Array.of(value).buffer), 0);
    return new Int32Array(bytes.buffer, bytes.byteOffset, 1)[0];
  }

  /** What each rank gives, in rank order. */
  async gatherBytes(bytes: Uint8Array): Promise<Uint8Array[]> {
    if (this.size === 1) return [bytes];
    const lengths = (await this.gather([bytes.length])).map(([length]) => length);
    const most = Math.max(...lengths, 1);
    const padded = new Uint8Array(most);
    padded.set(bytes);
    const all = await (await this.session()).allGather(padded);
    return lengths.map((length, rank) => all.slice(rank * most, rank * most + length));
  }

  private async gather(values: readonly number[]): Promise<Float64Array[]> {
    const session = await this.session();
    const mine = Float64Array.from(values);
    const all = await session.allGather(new Uint8Array(mine.buffer));
    return Array.from(
      { length: this.size },
      (_, rank) => new Float64Array(all.slice(rank * mine.byteLength, (rank + 1) * mine.byteLength).buffer),
    );
  }
}

/** A slot's bytes from its owner to all. */
async function transfer(session: Session, { slot, owner }: OwnedSlot, rank: number): Promise<Uint8Array> {
  const bytes = rank === owner ? await session.readState(slot.name) : new Uint8Array(typeBytes(slot));
  return session.broadcast(bytes, owner);
}
