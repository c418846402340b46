import { test } from 'vitest';
import type { SeededRandom } from '../support/random.js';
import {
  type ControlCase,
  type ControlPageSpec,
  type ControlRequestSpec,
  type ControlStep,
  controlTarget,
} from './control-target.js';
import { fuzz, fuzzTimeoutMs, once, pick } from './engine.js';
import { generateFrame } from './packets.js';

const SET_TYPES = 2;
const SET_KEY = 3;
const SET_MAPPING_SIZE = 5;
const SET_MAPPING = 6;
const SET_ALGORITHM = 7;
const ODD = [0, 1, 39, 40, 41, 127, 128, 129, 1024, 1025, 0x7fffffff, 0xffffffff];

function generateControlCase(random: SeededRandom): ControlCase {
  const queues = 1 + random.below(2);
  const pages = Array.from({ length: 1 + random.below(5) }, () => page(random, queues));
  const steps: ControlStep[] = [];
  for (let count = 1 + random.below(40); count > 0; count -= 1) {
    steps.push(once(random, 2) ? ask(random, pages.length) : frame(random));
  }
  if (once(random, 8)) steps.push({ op: 'lie', ahead: pick(random, [0, 1, random.u32()]) });
  const start = pick(random, [0, 0, 0xffffffc0, 0xffffffff, random.u32()]);
  return { start, queues, rewrites: once(random, 3), pages, steps };
}

/** A table of queues, mostly, of which any bytes are a key as well. */
function page(random: SeededRandom, queues: number): ControlPageSpec {
  const isKey = once(random, 2);
  const words = Array.from({ length: isKey ? 10 : 128 }, () => {
    if (isKey) return random.u32();
    return once(random, 300) ? queues : random.below(queues);
  });
  const grant = once(random, 10)
    ? pick(random, ['foreign', 'revoked'] as const)
    : pick(random, ['write', 'read'] as const);
  return { grant, words };
}

function ask(random: SeededRandom, pageCount: number): ControlStep {
  const count = once(random, 10) ? 100 : 1 + random.below(6);
  const requests = Array.from({ length: count }, () => request(random, pageCount));
  const notify = pick(random, ['asked', 'asked', 'asked', 'always', 'late'] as const);
  return { op: 'ask', requests, notify };
}

function request(random: SeededRandom, pageCount: number): ControlRequestSpec {
  const id = random.below(0x10000);
  const type = once(random, 12) ? random.below(0x10000) : 1 + random.below(10);
  if (once(random, 6)) {
    return { id, type, data: [pick(random, ODD), pick(random, ODD), pick(random, ODD)] };
  }
  const chosen = random.below(pageCount);
  switch (type) {
    case SET_ALGORITHM:
      return { id, type, data: [once(random, 5) ? 0 : 1, 0, 0] };
    case SET_TYPES:
      return { id, type, data: [once(random, 5) ? 15 : random.below(18), 0, 0] };
    case SET_KEY:
      return { id, type, page: chosen, data: [0, once(random, 2) ? 40 : random.below(43), 0] };
    case SET_MAPPING_SIZE:
      return { id, type, data: [random.below(131), 0, 0] };
    case SET_MAPPING:
      return { id, type, page: chosen, data: [0, random.below(64), random.below(80)] };
    default:
      return { id, type, data: [0, 0, 0] };
  }
}

/** Frames without flaws: how a broken one is hashed is for nobody to know. */
function frame(random: SeededRandom): ControlStep {
  const spec = generateFrame(random, 1514);
  return { op: 'frame', frame: { ...spec, flaw: undefined, tags: Math.min(spec.tags, 2) } };
}

test('whatever is asked on the control ring, the model and the backend agree', {
  timeout: fuzzTimeoutMs,
}, async () => {
  await fuzz(controlTarget(generateControlCase));
});
