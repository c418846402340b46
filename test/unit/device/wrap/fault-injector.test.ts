/** A bad wire whose badness is exact: under a clock of the test's own, and by its seed. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { CHECKSUM_BLANK, DATA_VALIDATED, FrameBatch } from '../../../../src/device/frame-batch.js';
import { WriteOutcome } from '../../../../src/device/network.js';
import { BasicBackend, Vnetif } from '../../../../src/device/vnetif/index.js';
import {
  type FaultClock,
  FaultInjector,
  type Faults,
} from '../../../../src/device/wrap/fault-injector.js';
import { completeChecksum } from '../../../../src/wire/checksum-offload.js';
import { until } from '../../../support/machine.js';
import { blankTcpFrame, hasRightTcpChecksum } from '../../../support/tcp-frames.js';

/** Time that passes when told to, running on its way what is due. */
class ManualClock implements FaultClock {
  #nowMs = 1000;
  #alarms: { readonly atMs: number; readonly run: () => void }[] = [];

  nowMs(): number {
    return this.#nowMs;
  }

  wake(delayMs: number, run: () => void): () => void {
    const alarm = { atMs: this.#nowMs + delayMs, run };
    this.#alarms.push(alarm);
    return () => {
      this.#alarms = this.#alarms.filter((other) => other !== alarm);
    };
  }

  advance(ms: number): void {
    const end = this.#nowMs + ms;
    for (;;) {
      const next = this.#alarms
        .filter(({ atMs }) => atMs <= end)
        .sort((a, b) => a.atMs - b.atMs)
        .at(0);
      if (next === undefined) break;
      this.#alarms = this.#alarms.filter((alarm) => alarm !== next);
      this.#nowMs = Math.max(this.#nowMs, next.atMs);
      next.run();
    }
    this.#nowMs = end;
  }
}

interface Arrival {
  readonly number: number;
  readonly atMs: number;
}

/** An injector on a hub, its clock, and what arrives at the hub's other node. */
class Wire {
  readonly clock = new ManualClock();
  readonly arrivals: Arrival[] = [];
  readonly flags: number[] = [];
  readonly frames: Uint8Array[] = [];
  readonly backend: BasicBackend;
  readonly injector: FaultInjector;
  readonly far: Vnetif;

  private constructor(
    near: Vnetif,
    far: Vnetif,
    backend: BasicBackend,
    seed: number,
    options: Options,
  ) {
    const { clock } = this;
    this.backend = backend;
    this.far = far;
    this.injector = new FaultInjector(near, { memory: backend.memory, seed, clock, ...options });
    far.listenBatch((batch) => {
      for (let index = 0; index < batch.count; index += 1) {
        const offset = batch.offset(index);
        const frame = batch.bytes.slice(offset, offset + batch.length(index));
        this.frames.push(frame);
        this.flags.push(batch.flag(index));
        this.arrivals.push({ number: numberOf(frame), atMs: clock.nowMs() - 1000 });
      }
    });
  }

  static async open(sent: Faults, seed = 7, received: Faults = {}): Promise<Wire> {
    const backend = new BasicBackend();
    const near = await Vnetif.connect(backend);
    const far = await Vnetif.connect(backend);
    return new Wire(near, far, backend, seed, { sent, received });
  }

  get numbers(): number[] {
    return this.arrivals.map(({ number }) => number);
  }

  /** Sends frames `first` to `end`, `intervalMs` apart. */
  send(first: number, end: number, intervalMs = 0, length = 100): void {
    for (let number = first; number < end; number += 1) {
      this.injector.writeBatch(batchOf(numbered(number, length)));
      if (intervalMs > 0) this.clock.advance(intervalMs);
    }
  }

  async close(): Promise<void> {
    await this.injector.disconnect();
    await this.far.disconnect();
    await until('all memory is back', () => this.backend.memory.allocatedBytes === 0);
  }
}

interface Options {
  readonly sent: Faults;
  readonly received: Faults;
}

function numbered(number: number, length: number): Uint8Array {
  const frame = new Uint8Array(length);
  new DataView(frame.buffer).setUint32(14, number);
  return frame;
}

function numberOf(frame: Uint8Array): number {
  return new DataView(frame.buffer, frame.byteOffset).getUint32(14);
}

function batchOf(frame: Uint8Array, flags = 0): FrameBatch {
  const batch = new FrameBatch(frame, 1);
  batch.add(0, frame.length, flags);
  return batch;
}

let wire: Wire;

afterEach(async () => {
  await wire.close();
});

describe('a fault injector', () => {
  test('loses the share that it shall', async () => {
    wire = await Wire.open({ loss: 0.2 });
    wire.send(0, 5000);
    const { lost, passed } = wire.injector.counts('sent');
    expect(lost + passed).toBe(5000);
    expect(wire.arrivals.length).toBe(passed);
    // Five standard deviations of 5,000 draws.
    expect(Math.abs(lost / 5000 - 0.2)).toBeLessThan(0.03);
    expect([...wire.numbers].sort((a, b) => a - b)).toEqual(wire.numbers);
  });

  test('doubles frames, each right after itself', async () => {
    wire = await Wire.open({ duplicate: 0.5 });
    wire.send(0, 1000);
    const { duplicated } = wire.injector.counts('sent');
    expect(Math.abs(duplicated / 1000 - 0.5)).toBeLessThan(0.08);
    expect(wire.arrivals.length).toBe(1000 + duplicated);
    expect([...new Set(wire.numbers)]).toEqual(Array.from({ length: 1000 }, (_, index) => index));
    expect([...wire.numbers].sort((a, b) => a - b)).toEqual(wire.numbers);
  });

  test('lets each frame take its time, to the millisecond', async () => {
    wire = await Wire.open({ delayMs: 50 });
    wire.send(0, 3, 20);
    expect(wire.arrivals).toEqual([{ number: 0, atMs: 50 }]);
    expect(wire.injector.waiting('sent')).toBe(2);
    wire.clock.advance(29);
    expect(wire.arrivals.slice(1)).toEqual([{ number: 1, atMs: 70 }]);
    wire.clock.advance(1);
    expect(wire.arrivals.slice(2)).toEqual([{ number: 2, atMs: 90 }]);
    expect(wire.injector.waiting('sent')).toBe(0);
  });

  test('lets times differ by the jitter, and frames overtake each other by it', async () => {
    wire = await Wire.open({ delayMs: 10, jitterMs: 40 });
    wire.send(0, 500, 1);
    wire.clock.advance(50);
    const took = wire.arrivals.map(({ number, atMs }) => atMs - number);
    expect(took.length).toBe(500);
    expect(Math.min(...took)).toBeGreaterThanOrEqual(10);
    expect(Math.max(...took)).toBeLessThanOrEqual(50);
    expect(Math.max(...took) - Math.min(...took)).toBeGreaterThan(30);
    expect([...wire.numbers].sort((a, b) => a - b)).not.toEqual(wire.numbers);
  });

  test('holds some frames back so that those behind pass them', async () => {
    wire = await Wire.open({ reorder: 0.1, reorderDelayMs: 5 });
    wire.send(0, 200, 1);
    wire.clock.advance(5);
    const { reordered } = wire.injector.counts('sent');
    expect(reordered).toBeGreaterThan(5);
    const late = wire.arrivals.filter(({ number, atMs }) => atMs - number === 5);
    expect(late.length).toBe(reordered);
    const onTime = wire.arrivals.filter(({ number, atMs }) => atMs === number);
    expect(onTime.length).toBe(200 - reordered);
  });

  test('passes no more than the rate, and drops what cannot wait', async () => {
    wire = await Wire.open({ bytesPerSecond: 100_000, queueFrames: 50 });
    wire.send(0, 60);
    expect(wire.injector.counts('sent').overflowed).toBe(10);
    wire.clock.advance(25);
    // 100 bytes take a millisecond.
    expect(wire.arrivals).toEqual(
      Array.from({ length: 25 }, (_, index) => ({ number: index, atMs: index + 1 })),
    );
    wire.clock.advance(1000);
    expect(wire.arrivals.length).toBe(50);
    const outcomes = new Uint8Array(1);
    wire.send(0, 50);
    expect(wire.injector.writeBatch(batchOf(numbered(1, 100)), outcomes)).toBe(0);
    expect(outcomes[0]).toBe(WriteOutcome.queueFull);
  });

  test('holds no more bytes than it may', async () => {
    wire = await Wire.open({ delayMs: 1, queueBytes: 1000 });
    wire.send(0, 3, 0, 400);
    expect(wire.injector.counts('sent').overflowed).toBe(1);
    wire.clock.advance(1);
    expect(wire.numbers).toEqual([0, 1]);
    wire.send(3, 5, 0, 500);
    wire.clock.advance(1);
    expect(wire.numbers).toEqual([0, 1, 3, 4]);
  });

  test('turns one bit of a frame', async () => {
    wire = await Wire.open({ corrupt: 0.25 });
    wire.send(0, 400);
    const { corrupted } = wire.injector.counts('sent');
    expect(corrupted).toBeGreaterThan(60);
    let damaged = 0;
    for (const [index, frame] of wire.frames.entries()) {
      const bits = bitsThatDiffer(frame, numbered(index, 100));
      expect(bits).toBeLessThanOrEqual(1);
      damaged += bits;
    }
    expect(damaged).toBe(corrupted);
  });

  test('damages no frame so that a checksum made later would fit it', async () => {
    wire = await Wire.open({ corrupt: 1 });
    const frame = blankTcpFrame({ payload: new Uint8Array(500) });
    wire.injector.writeBatch(batchOf(frame.slice(), CHECKSUM_BLANK | DATA_VALIDATED));
    expect(wire.flags).toEqual([0]);
    const [arrived] = wire.frames as [Uint8Array];
    completeChecksum(frame, 0, frame.length);
    expect(bitsThatDiffer(arrived, frame)).toBe(1);
    // With this seed it is a bit of the payload, which is most of the frame.
    expect(arrived.findIndex((byte, index) => byte !== frame[index])).toBeGreaterThanOrEqual(54);
    expect(hasRightTcpChecksum(frame)).toBe(true);
    expect(hasRightTcpChecksum(arrived)).toBe(false);
  });

  test('loses what it shall damage and cannot: a frame that is still to be segmented', async () => {
    wire = await Wire.open({ corrupt: 1 });
    wire.injector.writeBatch(
      batchOf(blankTcpFrame({ payload: new Uint8Array(5000) }), (1 << 4) | (1000 << 16)),
    );
    expect(wire.frames).toEqual([]);
    expect(wire.injector.counts('sent').lost).toBe(1);
  });

  test('has the same in store for the same seed, whatever the other direction does', async () => {
    const faults: Faults = { loss: 0.1, duplicate: 0.1, corrupt: 0.1, reorder: 0.1, jitterMs: 9 };
    const runs: unknown[] = [];
    for (const [seed, isBusy] of [
      [42, false],
      [42, true],
      [43, false],
    ] as const) {
      wire = await Wire.open(faults, seed, faults);
      wire.injector.listenBatch(() => undefined);
      for (let number = 0; number < 300; number += 1) {
        wire.send(number, number + 1, 1);
        if (isBusy) wire.far.writeBatch(batchOf(numbered(number, 60)));
      }
      wire.clock.advance(100);
      runs.push({ arrivals: [...wire.arrivals], counts: wire.injector.counts('sent') });
      await wire.close();
    }
    expect(runs[1]).toEqual(runs[0]);
    expect(runs[2]).not.toEqual(runs[0]);
  });

  test('loses the same frames whatever else it does', async () => {
    const lost: number[][] = [];
    for (const others of [{}, { duplicate: 0.3, reorder: 0.2, jitterMs: 4, delayMs: 1 }]) {
      wire = await Wire.open({ loss: 0.3, ...others });
      wire.send(0, 300, 1);
      wire.clock.advance(50);
      const passed = new Set(wire.numbers);
      lost.push(Array.from({ length: 300 }, (_, index) => index).filter((n) => !passed.has(n)));
      await wire.close();
    }
    expect(lost[0]?.length).toBeGreaterThan(50);
    expect(lost[1]).toEqual(lost[0]);
  });

  test('does not lose the same frames in both directions', async () => {
    wire = await Wire.open({ loss: 0.5 }, 7, { loss: 0.5 });
    const heard: number[] = [];
    void wire.injector.listen((frame) => heard.push(numberOf(frame)));
    wire.send(0, 200);
    for (let index = 0; index < 200; index += 1) wire.far.writeBatch(batchOf(numbered(index, 100)));
    expect(heard.length).toBeGreaterThan(50);
    expect(heard).not.toEqual(wire.numbers);
  });

  test('treats what is received apart from what is sent, and may change its mind', async () => {
    wire = await Wire.open({}, 1, { loss: 1 });
    const heard: number[] = [];
    void wire.injector.listen((frame) => heard.push(numberOf(frame)));
    wire.far.writeBatch(batchOf(numbered(1, 60)));
    wire.send(2, 3);
    expect(wire.numbers).toEqual([2]);
    wire.injector.setFaults('received', { delayMs: 3 });
    wire.injector.setFaults('sent', { loss: 1 });
    wire.far.writeBatch(batchOf(numbered(4, 60)));
    wire.send(5, 6);
    wire.clock.advance(3);
    expect(heard).toEqual([4]);
    expect(wire.numbers).toEqual([2]);
  });

  test('loses what is on its way when it is given up', async () => {
    wire = await Wire.open({ delayMs: 10 });
    wire.send(0, 5);
    await wire.injector.disconnect();
    wire.clock.advance(20);
    expect(wire.numbers).toEqual([]);
    const outcomes = new Uint8Array(1);
    expect(wire.injector.writeBatch(batchOf(numbered(1, 60)), outcomes)).toBe(0);
    expect(outcomes[0]).toBe(WriteOutcome.notConnected);
  });

  test('may be given up by whom it hands a frame to', async () => {
    wire = await Wire.open({}, 1, { delayMs: 5 });
    let heard = 0;
    wire.injector.listenBatch(() => {
      heard += 1;
      void wire.injector.disconnect();
    });
    wire.far.writeBatch(batchOf(numbered(1, 60)));
    wire.clock.advance(1);
    wire.far.writeBatch(batchOf(numbered(2, 60)));
    wire.clock.advance(10);
    expect(heard).toBe(1);
    await wire.far.disconnect();
    expect(wire.backend.memory.allocatedBytes).toBe(0);
  });

  test.each([
    { loss: -0.1 },
    { duplicate: 1.1 },
    { corrupt: Number.NaN },
    { delayMs: -1 },
    { jitterMs: Number.POSITIVE_INFINITY },
    { bytesPerSecond: 0 },
  ])('refuses %o', async (faults) => {
    wire = await Wire.open({});
    expect(() => wire.injector.setFaults('sent', faults)).toThrow(
      expect.objectContaining({ code: 'FAULTS_INVALID', field: Object.keys(faults)[0] }),
    );
  });
});

describe('the real clock', () => {
  beforeEach(async () => {
    wire = await Wire.open({});
  });

  test('wakes the injector in time', async () => {
    const injector = new FaultInjector(wire.injector, {
      memory: wire.backend.memory,
      seed: 1,
      sent: { delayMs: 30 },
    });
    const before = performance.now();
    await injector.write(numbered(1, 60));
    expect(wire.numbers).toEqual([]);
    await until('it arrives', () => wire.numbers.length === 1);
    expect(performance.now() - before).toBeGreaterThanOrEqual(29);
    await injector.disconnect();
  });
});

function bitsThatDiffer(a: Uint8Array, b: Uint8Array): number {
  expect(a.length).toBe(b.length);
  let bits = 0;
  for (let index = 0; index < a.length; index += 1) {
    for (let rest = (a[index] as number) ^ (b[index] as number); rest !== 0; rest &= rest - 1)
      bits += 1;
  }
  return bits;
}
