import { test } from 'vitest';
import { fuzz, fuzzTimeoutMs } from './engine.js';
import { vchanTarget } from './vchan-target.js';

test('whatever a server does with the rings of a vchan, no byte and no wake-up is lost', {
  timeout: fuzzTimeoutMs,
}, async () => {
  await fuzz(vchanTarget);
});
