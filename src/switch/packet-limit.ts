/** A bucket of frames: what a storm is measured with. */
import { TokenBucket } from '../device/token-bucket.js';

/** How much of a second's frames may come at once. */
const BURST_SECONDS = 0.1;
/** The least burst: a turn of a ring must not look like a storm. */
const BURST_MIN = 64;

export class PacketLimit extends TokenBucket {
  constructor(perSecond: number, nowMs: number) {
    super(perSecond / 1000, Math.max(BURST_MIN, perSecond * BURST_SECONDS), nowMs);
  }
}
