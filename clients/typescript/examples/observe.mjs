#!/usr/bin/env node
// Count what passes on vifs, by direction, and print it each second. Ctrl-C ends it.
//
//   node observe.mjs VIF...                       for example: node observe.mjs 1.0 2.0
import { XenvifClient } from '@xenvif/client';

const vifs = process.argv.slice(2);
if (vifs.length === 0) {
  console.error('usage: node observe.mjs VIF...');
  process.exit(2);
}

const counts = { 'from-guest': 0, 'to-guest': 0, bytes: 0 };

const client = new XenvifClient();
try {
  // 64 bytes hold every header up to TCP's; the rest stays in the daemon.
  const frames = client.observe(vifs, { snaplen: 64 });
  process.once('SIGINT', () => frames.stop());
  const timer = setInterval(() => console.log({ ...counts, lost: frames.lost.frames }), 1000);
  try {
    for await (const frame of frames) {
      counts[frame.direction] += 1;
      counts.bytes += frame.originalLength;
    }
  } finally {
    clearInterval(timer);
  }
  console.log('in all', { ...counts, lost: frames.lost.frames });
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
} finally {
  client.close();
}
