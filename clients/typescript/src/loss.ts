/** The account of frames that a stream selected and that will never come. */
import type { Lost } from './frame-messages.js';

/** Totals of a stream, kept up as the losses are told. */
export interface LostTotals {
  /** All lost frames. */
  readonly frames: bigint;
  /** Those that this client did not read fast enough. */
  readonly slowReader: bigint;
  /** Those for which it gave too little credit. */
  readonly noCredit: bigint;
  /** How often the connection was lost: what passed meanwhile is in no count. */
  readonly reconnects: number;
}

export class LossAccount implements LostTotals {
  frames = 0n;
  slowReader = 0n;
  noCredit = 0n;
  reconnects = 0;

  add(lost: Lost): void {
    this.frames += lost.count;
    if (lost.cause === 'slow-reader') this.slowReader += lost.count;
    else if (lost.cause === 'no-credit') this.noCredit += lost.count;
  }
}
