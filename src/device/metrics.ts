/**
 * Counters of one direction of a device. They are plain numbers, exact to 2^53, because a counter
 * is touched for every batch and a bigint would allocate each time.
 */

/** Where a frame was dropped. */
export type DropStage = 'tx-ring' | 'rx-queue' | 'rx-ring';

export class FrameCounters {
  packets = 0;
  bytes = 0;
  /** Drops by `stage cause`; few keys, made at the first drop of a kind. */
  readonly drops = new Map<string, { stage: DropStage; cause: string; packets: number }>();

  count(packets: number, bytes: number): void {
    this.packets += packets;
    this.bytes += bytes;
  }

  drop(stage: DropStage, cause: string, packets = 1): void {
    const key = `${stage} ${cause}`;
    const counter = this.drops.get(key);
    if (counter === undefined) this.drops.set(key, { stage, cause, packets });
    else counter.packets += packets;
  }

  reset(): void {
    this.packets = 0;
    this.bytes = 0;
    this.drops.clear();
  }
}
