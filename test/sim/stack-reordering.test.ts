/**
 * A wire that loses nothing and delivers in any order: what is late is taken for lost at first, and
 * must not keep a connection slow. Times are the wire's own, so that every run gives the same.
 */
import { expect, test } from 'vitest';
import { seededRandom } from '../support/random.js';
import { StackWire } from './stack-wire.js';

const BYTES = 3_000_000;
const SEGMENTS = Math.ceil(BYTES / 1448);
const PORT = 5000;

async function transfer(seed: number, delayMs: number, jitterMs: number, timestamps: boolean) {
  const faults = { loss: 0, duplicate: 0, corrupt: 0, delayMs, jitterMs };
  const tcp = { timestamps };
  const wire = new StackWire(seededRandom(seed), faults, [tcp, tcp]);
  let received = 0;
  wire.right
    .createServer({}, (socket) => {
      socket.on('data', (data) => {
        received += data.length;
      });
    })
    .listen(PORT);
  wire.left.connect({ host: '10.0.0.2', port: PORT }).end(Buffer.alloc(BYTES));
  const startMs = wire.clock.nowMs();
  expect(await wire.run(() => received === BYTES, 600_000)).toBe(true);
  const tookMs = wire.clock.nowMs() - startMs;
  const { sent } = wire.left.counts.output;
  await wire.end();
  return { tookMs, sent };
}

test.each([
  { delayMs: 5, jitterMs: 4, timestamps: true },
  { delayMs: 5, jitterMs: 4, timestamps: false },
  { delayMs: 20, jitterMs: 20, timestamps: true },
])(
  'reordering of $jitterMs ms in $delayMs ms (timestamps: $timestamps) costs little',
  async ({ delayMs, jitterMs, timestamps }) => {
    for (let seed = 1; seed <= 5; seed += 1) {
      const straight = await transfer(seed, delayMs + jitterMs, 0, timestamps);
      const reordered = await transfer(seed, delayMs, jitterMs, timestamps);
      console.log(
        `seed ${seed}: ${reordered.tookMs.toFixed(0)} ms, in order ${straight.tookMs.toFixed(0)} ms; ` +
          `${reordered.sent} packets for ${SEGMENTS} segments`,
      );
      expect(reordered.tookMs).toBeLessThan(1.5 * straight.tookMs);
      // Some are sent again before it is known how late others are.
      expect(reordered.sent).toBeLessThan(1.2 * SEGMENTS);
    }
  },
);
