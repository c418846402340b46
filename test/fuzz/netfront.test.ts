import { test } from 'vitest';
import type { SeededRandom } from '../support/random.js';
import { fuzz, fuzzTimeoutMs, once, pick } from './engine.js';
import {
  type NetfrontCase,
  type NetfrontStep,
  netfrontTarget,
  type Response,
} from './netfront-target.js';
import { generateFrame } from './packets.js';

const MORE_DATA = 4;
const EXTRA_INFO = 8;
const GSO = 1;

function generateNetfrontCase(random: SeededRandom): NetfrontCase {
  const steps: NetfrontStep[] = [];
  for (let count = 1 + random.below(30); count > 0; count -= 1) steps.push(step(random));
  if (once(random, 10)) {
    const ahead = pick(random, [0, 1, 255, 1000, random.u32()]);
    steps.push({ op: 'lie', ring: once(random, 2) ? 'tx' : 'rx', ahead });
  }
  return { gso: once(random, 2), split: once(random, 2), steps };
}

function step(random: SeededRandom): NetfrontStep {
  const kind = random.below(4);
  if (kind < 2) return { op: 'receive', responses: packets(random) };
  if (kind === 2) {
    const lengthMax = pick(random, [60, 1514, 1514, 4097, 9014, 65_535]);
    const gsoSize = once(random, 2) ? pick(random, [64, 536, 1448, 9000]) : 0;
    return { op: 'send', frame: generateFrame(random, lengthMax), gsoSize };
  }
  return {
    op: 'answer',
    count: pick(random, [0, 1, 1, 1, 2, 5, 256]),
    from: once(random, 3) ? random.below(256) : 0,
    status: pick(random, [0, 0, 0, -1, -2]),
    wrong: once(random, 4) ? pick(random, ['twice', 'unknown', 'extra'] as const) : 'no',
  };
}

function packets(random: SeededRandom): Response[] {
  const responses: Response[] = [];
  for (let count = pick(random, [1, 1, 2, 5, 20]); count > 0; count -= 1) {
    responses.push(...packet(random));
  }
  // Something is wrong with one slot of some.
  if (once(random, 6) && responses.length > 0) {
    const at = random.below(responses.length);
    responses[at] = damaged(random, responses[at] as Response);
  }
  if (once(random, 30)) responses.length = 1 + random.below(responses.length);
  return responses;
}

function packet(random: SeededRandom): Response[] {
  const slots = pick(random, [1, 1, 1, 1, 2, 3, 17, 18, 19]);
  // As many parts as there may be, all full, are more than a frame may have.
  const isFull = once(random, 3);
  const responses: Response[] = [];
  for (let part = 0; part < slots; part += 1) {
    const offset = !isFull && once(random, 3) ? random.below(1000) : 0;
    const status = isFull ? 4096 : 14 + random.below(3000);
    responses.push({
      id: 0,
      offset,
      flags: (part + 1 < slots ? MORE_DATA : 0) | random.below(4),
      status,
      fill: random.below(256),
    });
  }
  const [first] = responses;
  if (first === undefined || !once(random, 4)) return responses;
  const extras = pick(random, [1, 1, 1, 2, 3]);
  responses[0] = { ...first, flags: first.flags | EXTRA_INFO };
  for (let left = extras - 1; left >= 0; left -= 1) {
    responses.splice(1, 0, extraSlot(random, left < extras - 1));
  }
  return responses;
}

/** An extra, mostly of segmentation; `more` says that another one follows. */
function extraSlot(random: SeededRandom, more: boolean): Response {
  const type = pick(random, [GSO, GSO, GSO, 4, 4, once(random, 5) ? 2 : GSO]);
  const size = once(random, 10) ? 0 : 1448;
  const extra = [type, more ? 1 : 0, size & 0xff, size >> 8, once(random, 8) ? 3 : 1, 0, 0, 0];
  return { id: 0, offset: 0, flags: 0, status: 0, fill: 0, extra };
}

function damaged(random: SeededRandom, response: Response): Response {
  const { extra } = response;
  if (extra !== undefined) {
    const type = pick(random, [0, 5, 6, 200, 255]);
    return { ...response, extra: [type, ...extra.slice(1)] };
  }
  switch (random.below(7)) {
    case 0:
      return { ...response, id: pick(random, [1, -1, 256, random.below(0x10000)]) };
    case 1:
      return { ...response, offset: random.below(0x10000) };
    case 2:
      return { ...response, status: -1 - random.below(3) };
    case 3:
      return { ...response, status: random.below(0x8000) };
    case 4:
      // To the last byte of the page, or one more.
      return { ...response, offset: 4096 - response.status + random.below(2) };
    case 5:
      return { ...response, flags: response.flags ^ (1 << random.below(16)) };
    default:
      return { ...response, status: random.below(16) };
  }
}

test('whatever a backend answers, the model and the netfront agree', {
  timeout: fuzzTimeoutMs,
}, async () => {
  await fuzz(netfrontTarget(generateNetfrontCase));
});
