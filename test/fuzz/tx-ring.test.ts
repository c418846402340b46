import { test } from 'vitest';
import { fuzz, fuzzTimeoutMs } from './engine.js';
import { generateTxCase } from './tx-generator.js';
import { txTarget } from './tx-target.js';

const KILLS = ['RING_OVERFLOW', 'CHAIN_TRUNCATED', 'CHAIN_TOO_LONG', 'FRAGMENT_CROSSES_PAGE'];
const OUTCOMES = [
  ...[...KILLS, 'HEAD_CROSSES_PAGE'].map((reason) => `K ${reason}`),
  ...['sent', 'too short', 'too many fragments', 'fragments exceed total', 'bad grant'],
  ...['checksum nowhere', 'sent with a blank checksum', 'notify asked', 'notify late'],
];

test('whatever is on the TX ring, the model and the backend agree', {
  timeout: fuzzTimeoutMs,
}, async () => {
  const leaning = { extras: 12, mutations: 5, producers: 120 };
  await fuzz(txTarget('tx-ring', OUTCOMES, (random) => generateTxCase(random, leaning)));
});
