import { test } from 'vitest';
import { fuzz, fuzzTimeoutMs } from './engine.js';
import { generateTxCase } from './tx-generator.js';
import { txTarget } from './tx-target.js';

const OUTCOMES = [
  ...['EXTRA_MISSING', 'EXTRA_TYPE_INVALID', 'GSO_INVALID'].map((reason) => `K ${reason}`),
  ...['sent with GSO', 'checksum nowhere', 'multicast', 'multicast list full', 'sent'],
];

test('whatever extras come with a packet, the model and the backend agree', {
  timeout: fuzzTimeoutMs,
}, async () => {
  const leaning = { extras: 1, mutations: 8, producers: 2000 };
  await fuzz(txTarget('extras', OUTCOMES, (random) => generateTxCase(random, leaning)));
});
