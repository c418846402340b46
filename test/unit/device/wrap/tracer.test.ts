import { type Level, pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import {
  CHECKSUM_BLANK,
  FrameBatch,
  GSO_SIZE_SHIFT,
  GSO_TYPE_SHIFT,
} from '../../../../src/device/frame-batch.js';
import { BasicBackend, Vnetif } from '../../../../src/device/vnetif/index.js';
import { Tracer, type TracerOptions } from '../../../../src/device/wrap/tracer.js';

let near: Vnetif;
let far: Vnetif;
let lines: Record<string, unknown>[];

beforeEach(async () => {
  const backend = new BasicBackend({ yieldTurn: async () => undefined });
  near = await Vnetif.connect(backend);
  far = await Vnetif.connect(backend);
  lines = [];
});
afterEach(async () => {
  vi.useRealTimers();
  await near.disconnect();
  await far.disconnect();
});

function trace(options: Omit<TracerOptions, 'name'> = {}, level: Level = 'debug'): Tracer {
  const write = (line: string) => void lines.push(JSON.parse(line));
  return new Tracer(near, pino({ level }, { write }), { name: 'vifs/1.0', ...options });
}

function frame(length: number, firstByte = 2): Uint8Array {
  const bytes = new Uint8Array(length);
  bytes.set([firstByte, 1, 2, 3, 4, 5, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x08, 0x06]);
  return bytes;
}

describe('a tracer', () => {
  test('logs a line for each frame, both ways', async () => {
    const tracer = trace();
    void tracer.listen(() => undefined);
    await tracer.write(frame(60));
    await far.write(frame(99, 0xff));
    const header = { destination: '02:01:02:03:04:05', source: '0a:0b:0c:0d:0e:0f' };
    const common = { level: 20, msg: 'frame', nic: 'vifs/1.0', ethertype: '0x0806' };
    expect(lines).toMatchObject([
      { ...common, ...header, direction: 'sent', bytes: 60 },
      { ...common, destination: 'ff:01:02:03:04:05', direction: 'received', bytes: 99 },
    ]);
    expect(lines[0]).not.toHaveProperty('checksum');
  });

  test('tells what is left undone in a frame', async () => {
    const tracer = trace();
    const batch = new FrameBatch(frame(3000), 1);
    const gso = (1 << GSO_TYPE_SHIFT) | (1448 << GSO_SIZE_SHIFT);
    batch.add(0, 3000, CHECKSUM_BLANK | gso);
    tracer.writeBatch(batch);
    expect(lines).toMatchObject([{ bytes: 3000, checksum: 'blank', segmentBytes: 1448 }]);
  });

  test('logs nothing at a level that nobody wants', async () => {
    await trace({}, 'info').write(frame(60));
    expect(lines).toEqual([]);
    await trace({ level: 'warn' }, 'info').write(frame(60));
    expect(lines).toMatchObject([{ level: 40 }]);
  });

  test('sums up what passed in each interval in which something did', async () => {
    vi.useFakeTimers();
    const tracer = trace({ mode: 'summary', intervalMs: 1000 });
    void tracer.listen(() => undefined);
    await tracer.write(frame(60));
    await tracer.write(frame(100, 0xff));
    await far.write(frame(1514, 3));
    expect(lines).toEqual([]);
    vi.advanceTimersByTime(1000);
    const sent = { frames: 2, bytes: 160, toGroups: 1, longest: 100 };
    const received = { frames: 1, bytes: 1514, toGroups: 1, longest: 1514 };
    expect(lines).toMatchObject([{ level: 30, nic: 'vifs/1.0', sent, received }]);
    vi.advanceTimersByTime(5000);
    expect(lines.length).toBe(1);
    await tracer.write(frame(14));
    await tracer.disconnect();
    expect(lines.slice(1)).toMatchObject([
      { sent: { frames: 1, bytes: 14 }, received: { frames: 0 } },
    ]);
    vi.advanceTimersByTime(5000);
    expect(lines.length).toBe(2);
  });
});
