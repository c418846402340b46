/**
 * Keeps this process from going to sleep between two pieces of a bulk transfer. Where both ends are
 * about as fast the receiver would sleep after every few pieces, and waking it costs both of them more
 * than a piece does, in a virtual machine above all. While little comes, nothing is kept awake.
 */

/** Bulk is so many bytes within a step: a quarter of what a processor takes in... */
const BULK_BYTES = 256 * 1024;
/** ... in milliseconds. For as long the next piece is waited for without sleep. */
const STEP_MS = 1;

let stepEndMs = 0;
let stepBytes = 0;
let awakeUntilMs = 0;
let isAwake = false;

/** Tells of `bytes` that have just come. */
export function spinOnBulk(bytes: number): void {
  const nowMs = performance.now();
  if (nowMs >= stepEndMs) {
    stepEndMs = nowMs + STEP_MS;
    stepBytes = 0;
  }
  stepBytes += bytes;
  if (stepBytes < BULK_BYTES) return;
  awakeUntilMs = nowMs + STEP_MS;
  if (isAwake) return;
  isAwake = true;
  setImmediate(stayAwake);
}

/** An event loop that has an immediate to run looks for events, and does not wait for them. */
function stayAwake(): void {
  if (performance.now() < awakeUntilMs) setImmediate(stayAwake);
  else isAwake = false;
}
