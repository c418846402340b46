/**
 * Fragments of all kinds, in all orders, with time passing: what the stack puts together must be what
 * a model does that keeps every byte in a map and knows nothing but the rules.
 */
import { Stack } from '@xenvif/client/stack';
import { test } from 'vitest';
import { type SeededRandom, seededRandom } from '../support/random.js';
import { MemoryLink } from '../unit/stack/memory-link.js';
import { ipv4 } from '../unit/stack/packets.js';
import { VirtualClock } from '../unit/stack/virtual-clock.js';
import { fuzz, fuzzTimeoutMs, once, pick, shorter, type Target } from './engine.js';

const TIMEOUT_MS = 30_000;
const PAYLOAD_BYTES_MAX = 65_515;
const PENDING_MAX = 64;
const PENDING_PER_SOURCE_MAX = 16;
const TCP = 6;

/** A fragment, or time that passes. */
interface Step {
  readonly passMs?: number;
  readonly source: number;
  readonly identification: number;
  readonly protocol: number;
  /** In bytes, a multiple of eight. */
  readonly offset: number;
  readonly length: number;
  readonly more: boolean;
  readonly fill: number;
}

interface Whole {
  readonly protocol: number;
  readonly source: string;
  readonly data: Buffer;
}

interface Pending {
  readonly startedMs: number;
  readonly source: number;
  readonly bytes: Map<number, number>;
  total: number | undefined;
}

class Model {
  nowMs = 0;
  readonly #pending = new Map<string, Pending>();

  pass(ms: number): void {
    this.nowMs += ms;
    for (const [key, { startedMs }] of this.#pending) {
      if (this.nowMs >= startedMs + TIMEOUT_MS) this.#pending.delete(key);
    }
  }

  /** What becomes of a fragment, and the whole where it is complete. */
  add(step: Step): { readonly outcome: string; readonly data?: Buffer } {
    const { source, identification, protocol, offset, length, more } = step;
    const content = contentOf(step);
    if (offset === 0 && !more) return { outcome: 'whole', data: content };
    const key = [source, identification, protocol].join();
    let pending = this.#pending.get(key);
    if (pending === undefined) {
      this.#makeRoom(source);
      pending = { startedMs: this.nowMs, source, bytes: new Map(), total: undefined };
      this.#pending.set(key, pending);
    }
    const end = offset + length;
    const isTcpTrick = protocol === TCP && (offset === 8 || (offset === 0 && length < 20));
    const isRagged = more && length % 8 !== 0;
    if (length === 0 || end > PAYLOAD_BYTES_MAX || isRagged || isTcpTrick) {
      return { outcome: 'invalid' };
    }
    const { bytes, total } = pending;
    const highest = Math.max(-1, ...bytes.keys());
    const isPastEnd = total !== undefined && end > total;
    const isOtherEnd = !more && (highest >= end || (total !== undefined && total !== end));
    // The last unit of eight is taken whole, though the last fragment may fill it in part.
    const units = new Set(Array.from(bytes.keys(), (index) => index >> 3));
    const wanted = [...new Set(Array.from(content.keys(), (index) => (index + offset) >> 3))];
    const known = wanted.filter((unit) => units.has(unit)).length;
    if (isPastEnd || isOtherEnd) return this.#drop(key);
    if (known === wanted.length) return { outcome: 'duplicate' };
    if (known > 0) return this.#drop(key);
    for (const [index, byte] of content.entries()) bytes.set(offset + index, byte);
    if (!more) pending.total = end;
    if (pending.total === undefined || bytes.size < pending.total) return { outcome: 'waiting' };
    this.#pending.delete(key);
    const data = Buffer.from(
      Array.from({ length: pending.total }, (_, index) => bytes.get(index) ?? 0),
    );
    return { outcome: 'complete', data };
  }

  #drop(key: string): { readonly outcome: string } {
    this.#pending.delete(key);
    return { outcome: 'overlap' };
  }

  #makeRoom(source: number): void {
    const keys = [...this.#pending.keys()];
    const ofSource = keys.filter((key) => this.#pending.get(key)?.source === source);
    const isTooMany = ofSource.length >= PENDING_PER_SOURCE_MAX;
    const oldest = isTooMany ? ofSource[0] : keys.length >= PENDING_MAX ? keys[0] : undefined;
    if (oldest !== undefined) this.#pending.delete(oldest);
  }
}

function contentOf({ offset, length, fill }: Step): Buffer {
  return Buffer.from(Array.from({ length }, (_, index) => ((offset + index) * 31 + fill) & 255));
}

interface World {
  readonly clock: VirtualClock;
  readonly stack: Stack;
  readonly model: Model;
}

const target: Target<World, Step[]> = {
  name: 'stack-reassembly',
  outcomes: ['whole', 'waiting', 'complete', 'duplicate', 'overlap', 'invalid', 'time'],
  casesForAll: 500,
  async open() {
    const clock = new VirtualClock();
    const random = seededRandom(1);
    const stack = Stack.connect(new MemoryLink(), { clock, random, cidr: '10.0.0.1/16' });
    return { clock, stack, model: new Model() };
  },
  async close({ stack }) {
    await stack.disconnect();
  },
  generate(random) {
    const steps: Step[] = [];
    const packets = 1 + random.below(4);
    for (let packet = 0; packet < packets; packet += 1) steps.push(...fragmentsOf(random));
    if (once(random, 8)) steps.push(...flood(random));
    shuffle(random, steps, once(random, 3) ? 0 : steps.length);
    return steps;
  },
  async run({ clock, stack, model }, steps, count) {
    for (const step of steps) {
      if (step.passMs !== undefined) {
        await clock.pass(step.passMs);
        model.pass(step.passMs);
        count('time');
        continue;
      }
      const got = input(stack, step);
      const expected = model.add(step);
      count(expected.outcome);
      const isSame =
        expected.data === undefined ? got.length === 0 : got[0]?.data.equals(expected.data);
      if (!isSame || got.length > 1) {
        throw new Error(
          `The model says ${expected.outcome}, the stack gave ${got.length} packets.`,
        );
      }
    }
  },
  smaller: (steps) => shorter(steps),
};

function input(stack: Stack, step: Step): Whole[] {
  const got: Whole[] = [];
  const take = (protocol: number) => (source: string, _: string, payload: Uint8Array) =>
    got.push({ protocol, source, data: Buffer.from(payload) });
  const packet = ipv4(
    {
      protocol: step.protocol,
      source: `10.0.1.${step.source}`,
      identification: step.identification,
      fragmentOffset: step.offset,
      moreFragments: step.more,
    },
    contentOf(step),
  );
  stack.ipv4.input({ tcp: take(TCP), udp: take(17), default: take }, packet);
  return got;
}

/** A packet cut into fragments, with a few mistakes. */
function fragmentsOf(random: SeededRandom): Step[] {
  const total = pick(random, [1, 8, 20, 100, 1000, 3000, once(random, 20) ? 65_515 : 40]);
  const common = {
    source: 1 + random.below(3),
    identification: random.below(4),
    protocol: pick(random, [6, 17, 99]),
    fill: once(random, 2) ? 0 : random.below(256),
  };
  const steps: Step[] = [];
  const piece = 8 * (1 + random.below(Math.max(1, Math.ceil(total / 40))));
  for (let offset = 0; offset < total; offset += piece) {
    const length = Math.min(piece, total - offset);
    const step = { ...common, offset, length, more: offset + length < total };
    if (!once(random, 30)) steps.push(step);
    if (once(random, 15)) steps.push(step);
    if (once(random, 25)) steps.push(mutated(random, step));
    if (once(random, 60)) steps.push({ ...step, passMs: pick(random, [10, 29_000, 31_000]) });
  }
  return steps;
}

function mutated(random: SeededRandom, step: Step): Step {
  switch (random.below(6)) {
    case 0:
      return { ...step, more: !step.more };
    case 1:
      return { ...step, length: random.below(64) };
    case 2:
      return { ...step, offset: 8 * random.below(20) };
    case 3:
      return { ...step, offset: 65_528 };
    case 4:
      return { ...step, offset: step.offset + 8 };
    default:
      return { ...step, fill: random.below(256) };
  }
}

/** Beginnings without an end, of many packets from many hosts. */
function flood(random: SeededRandom): Step[] {
  const hosts = 1 + random.below(8);
  return Array.from({ length: random.below(120) }, (_, index) => ({
    ...{ source: 1 + (index % hosts), identification: 100 + index, protocol: 17 },
    ...{ offset: 0, length: 8, more: true, fill: 0 },
  }));
}

function shuffle(random: SeededRandom, steps: Step[], swaps: number): void {
  for (let swap = 0; swap < swaps; swap += 1) {
    const [a, b] = [random.below(steps.length), random.below(steps.length)];
    const [first, second] = [steps[a], steps[b]];
    if (first === undefined || second === undefined) continue;
    steps[a] = second;
    steps[b] = first;
  }
}

test('whatever fragments come, the model and the stack put the same together', {
  timeout: fuzzTimeoutMs,
}, async () => {
  await fuzz(target);
});
