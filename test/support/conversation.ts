/** Two NICs of the SDK of which one speaks to the other: what is lost between them shows. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Nic } from '../../clients/typescript/src/index.js';

/** Frames from `from` to `to`, numbered from 0, until `stop`, which says how many there were. */
export function conversation(from: Nic, to: Nic) {
  const heard: number[] = [];
  const source = from.mac.replaceAll(':', '');
  void to.listen((bytes) => {
    const frame = Buffer.from(bytes);
    if (frame.toString('hex', 6, 12) === source) heard.push(frame.readUInt32BE(14));
  });
  let isOver = false;
  const sending = (async () => {
    const frame = Buffer.alloc(400);
    frame.write(`${to.mac.replaceAll(':', '')}${source}88b5`, 'hex');
    let number = 0;
    for (; !isOver; number += 1) {
      frame.writeUInt32BE(number, 14);
      await from.write(frame);
      if (number % 10 === 9) await sleep(1);
    }
    return number;
  })();
  // Where a test fails, its client goes under its hands.
  sending.catch(() => {});
  const stop = (): Promise<number> => {
    isOver = true;
    return sending;
  };
  return { heard, stop };
}
