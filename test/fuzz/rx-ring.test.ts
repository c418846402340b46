import { test } from 'vitest';
import type { SeededRandom } from '../support/random.js';
import { fuzz, fuzzTimeoutMs, once, pick } from './engine.js';
import { generateFrame } from './packets.js';
import { type RxCase, type RxFrameSpec, type RxStep, rxTarget } from './rx-target.js';

function generateRxCase(random: SeededRandom): RxCase {
  const mostly = () => !once(random, 4);
  const pages = Array.from({ length: 1 + random.below(40) }, () =>
    once(random, 25) ? pick(random, ['read', 'foreign', 'revoked'] as const) : ('write' as const),
  );
  const features = {
    scatterGather: mostly(),
    gso4: mostly(),
    gso6: mostly(),
    checksum4: mostly(),
    checksum6: mostly(),
    multicastFilter: once(random, 4),
  };
  const steps: RxStep[] = [];
  for (let count = 1 + random.below(40); count > 0; count -= 1) {
    steps.push(once(random, 2) ? post(random, pages.length) : write(random));
  }
  if (once(random, 8)) steps.push({ op: 'lie', ahead: pick(random, [0, 1, 1000, random.u32()]) });
  const start = pick(random, [0, 0, 0xffffff80, 0xffffffff, random.u32()]);
  const rewrites = once(random, 3);
  return { start, split: once(random, 2), rewrites, features, pages, steps };
}

function post(random: SeededRandom, pageCount: number): RxStep {
  const count = pick(random, [0, 1, 1, 2, 3, 8, 20, 64, 256]);
  const pages = Array.from({ length: count }, () => {
    return once(random, 60) ? -1 : random.below(pageCount);
  });
  const notify = pick(random, ['asked', 'asked', 'asked', 'always', 'late'] as const);
  return { op: 'post', pages, firstId: random.below(0x10000), notify };
}

function write(random: SeededRandom): RxStep {
  const count = pick(random, [1, 1, 1, 2, 5, 20, 60]);
  return { op: 'write', frames: Array.from({ length: count }, () => frame(random)) };
}

function frame(random: SeededRandom): RxFrameSpec {
  const lengthMax = pick(random, [60, 1514, 1514, 1514, 4096, 9014, 60_000, 65_535]);
  return {
    frame: generateFrame(random, lengthMax),
    blank: once(random, 2),
    validated: once(random, 4),
    gsoSize: once(random, 3) ? pick(random, [64, 100, 536, 1448, 4060, 9000]) : 0,
  };
}

test('whatever buffers and frames come together, the model and the backend agree', {
  timeout: fuzzTimeoutMs,
}, async () => {
  await fuzz(rxTarget(generateRxCase));
});
