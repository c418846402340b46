/** Captures as tshark and capinfos read them, which know nothing of us. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Writable } from 'node:stream';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { CHECKSUM_BLANK, FrameBatch } from '../../../../src/device/frame-batch.js';
import { BasicBackend, Vnetif } from '../../../../src/device/vnetif/index.js';
import { PcapWriter, type PcapWriterOptions } from '../../../../src/device/wrap/pcap-writer.js';
import { blankTcpFrame } from '../../../support/tcp-frames.js';

let directory: string;
let near: Vnetif;
let far: Vnetif;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'xenvif-pcap-'));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

beforeEach(async () => {
  const backend = new BasicBackend();
  near = await Vnetif.connect(backend);
  far = await Vnetif.connect(backend);
});
afterEach(async () => {
  await near.disconnect();
  await far.disconnect();
});

/** A writer of captures and the file that it writes. */
function capture(options: Partial<PcapWriterOptions> = {}) {
  const stream = new PassThrough();
  const chunks: Buffer[] = [];
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  const writer = new PcapWriter(near, stream, { name: 'vifs/1.0', ...options });
  return { writer, file: () => Buffer.concat(chunks) };
}

/** What a program prints of a capture. */
function read(file: Buffer, program: string, ...parameters: string[]): string {
  const path = join(directory, 'capture.pcapng');
  writeFileSync(path, file);
  try {
    return execFileSync(program, [...parameters, path], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
    });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    throw new Error(`These tests need ${program} (Debian: apt-get install tshark).`);
  }
}

/** Fields of each packet as tshark reads them, told to check TCP's checksums. */
function packets(file: Buffer, ...fields: string[]): string[][] {
  const wanted = fields.flatMap((field) => ['-e', field]);
  const options = ['-o', 'tcp.check_checksum:TRUE', '-T', 'fields', ...wanted, '-r'];
  const text = read(file, 'tshark', ...options);
  return text
    .replace(/\n$/, '')
    .split('\n')
    .map((line) => line.split('\t'));
}

function batchOf(frames: readonly Uint8Array[], flags = 0): FrameBatch {
  const bytes = Buffer.concat(frames);
  const batch = new FrameBatch(bytes, frames.length);
  let offset = 0;
  for (const { length } of frames) {
    batch.add(offset, length, flags);
    offset += length;
  }
  return batch;
}

function frameOf(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (index * 31) & 0xff);
}

describe('a writer of captures', () => {
  test('writes what is sent and what is received, whole, with direction and time', async () => {
    const { writer, file } = capture();
    const received: Uint8Array[] = [];
    void writer.listen((frame) => received.push(frame));
    const before = Date.now();
    await writer.write(frameOf(60));
    await far.write(frameOf(61));
    writer.writeBatch(batchOf([frameOf(62), frameOf(1514), frameOf(14)]));
    await writer.disconnect();
    expect(received.length).toBe(1);
    const fields = ['frame.packet_flags_direction', 'frame.len', 'frame.interface_name'];
    const [OUT, IN, NAME] = ['0x00000002', '0x00000001', 'vifs/1.0'];
    expect(packets(file(), ...fields)).toEqual([
      [OUT, '60', NAME],
      [IN, '61', NAME],
      [OUT, '62', NAME],
      [OUT, '1514', NAME],
      [OUT, '14', NAME],
    ]);
    const times = packets(file(), 'frame.time_epoch').map(([time]) => Number(time) * 1000);
    expect([...times].sort((a, b) => a - b)).toEqual(times);
    for (const time of times) expect(Math.abs(time - before)).toBeLessThan(60_000);
    const hex = read(file(), 'tshark', '-x', '-r').replace(/^[0-9a-f]{4} {2}/gm, '');
    expect(hex.startsWith('00 1f 3e 5d 7c 9b ba d9')).toBe(true);
  });

  test('completes a blank checksum in the copy, and in the copy alone', async () => {
    const { writer, file } = capture();
    const frames = [4, 6].map((version) =>
      blankTcpFrame({ version: version as 4 | 6, payload: frameOf(333) }),
    );
    const batch = batchOf(frames, CHECKSUM_BLANK);
    const before = batch.bytes.slice();
    writer.writeBatch(batch);
    expect(batch.bytes).toEqual(before);
    writer.writeBatch(batchOf(frames));
    await writer.disconnect();
    // 1: good; 0: bad, for the same frames without the flag are what they say they are.
    expect(packets(file(), 'tcp.checksum.status').map(([status]) => status)).toEqual([
      '1',
      '1',
      '0',
      '0',
    ]);
  });

  test('cuts frames to the length asked for, and tells how long they were', async () => {
    const { writer, file } = capture({ snaplen: 65 });
    const frame = blankTcpFrame({ payload: frameOf(1000) });
    writer.writeBatch(batchOf([frame, frameOf(64)], CHECKSUM_BLANK));
    await writer.disconnect();
    expect(packets(file(), 'frame.cap_len', 'frame.len')).toEqual([
      ['65', '1054'],
      ['64', '64'],
    ]);
    // Over the whole frame, though most of it is not in the file.
    const whole = capture();
    whole.writer.writeBatch(batchOf([frame], CHECKSUM_BLANK));
    const [sums, wholeSums] = [file(), whole.file()].map((bytes) => packets(bytes, 'tcp.checksum'));
    expect(sums?.[0]).toEqual(wholeSums?.[0]);
  });

  test('cuts a frame before its checksum without harm to what follows', async () => {
    const { writer, file } = capture({ snaplen: 20 });
    const frame = blankTcpFrame({ payload: frameOf(1000) });
    writer.writeBatch(batchOf([frame, frame], CHECKSUM_BLANK));
    await writer.disconnect();
    expect(packets(file(), 'frame.cap_len', 'frame.packet_flags_direction')).toEqual([
      ['20', '0x00000002'],
      ['20', '0x00000002'],
    ]);
  });

  test('never waits for the file: what does not fit is missing, and is told', async () => {
    let resume: () => void = () => undefined;
    const chunks: Buffer[] = [];
    const slow = new Writable({
      write: (chunk: Buffer, _, done) => {
        chunks.push(chunk);
        resume = done;
      },
    });
    const writer = new PcapWriter(near, slow, { name: 'slow', bufferBytes: 5000 });
    for (let index = 0; index < 10; index += 1) writer.writeBatch(batchOf([frameOf(1000)]));
    expect(writer.dropped).toBe(6);
    expect(near.stats.txPackets).toBe(10n);
    while (slow.writableLength > 0) {
      resume();
      await new Promise(setImmediate);
    }
    writer.writeBatch(batchOf([frameOf(100)]));
    writer.writeBatch(batchOf([frameOf(101)]));
    writer.finish();
    while (slow.writableLength > 0) {
      resume();
      await new Promise(setImmediate);
    }
    const file = Buffer.concat(chunks);
    expect(packets(file, 'frame.len').map(([length]) => length)).toEqual([
      '1000',
      '1000',
      '1000',
      '1000',
      '100',
      '101',
    ]);
    expect(packets(file, 'frame.number', 'frame.drop_count').slice(-2)).toEqual([
      ['5', '6'],
      ['6', ''],
    ]);
    expect(read(file, 'capinfos', '-M', '-c')).toMatch(/packets:\s+6/);
  });

  test('stops at the end of the stream, and the NIC goes on', async () => {
    const stream = new PassThrough().resume();
    const writer = new PcapWriter(near, stream, { name: 'short' });
    stream.on('error', () => undefined);
    stream.destroy(new Error('the disk is full'));
    await new Promise(setImmediate);
    const heard: number[] = [];
    void far.listen((frame) => heard.push(frame.length));
    await writer.write(frameOf(60));
    writer.finish();
    await writer.write(frameOf(61));
    expect(heard).toEqual([60, 61]);
  });

  test('leaves a stream alone that somebody has ended', async () => {
    const stream = new PassThrough().resume();
    const faults: Error[] = [];
    stream.on('error', (error) => faults.push(error));
    const writer = new PcapWriter(near, stream, { name: 'short' });
    stream.end();
    await writer.write(frameOf(60));
    writer.finish();
    await new Promise(setImmediate);
    expect(faults).toEqual([]);
    expect(writer.dropped).toBe(1);
  });

  test('changes no time of a batch that others get, too', async () => {
    const { writer, file } = capture();
    const batch = batchOf([frameOf(60)]);
    batch.timeNs = 12_345n;
    writer.writeBatch(batch);
    expect(batch.timeNs).toBe(12_345n);
    const [[time]] = packets(file(), 'frame.time_epoch') as [[string]];
    expect(Math.abs(Number(time) * 1000 - Date.now())).toBeLessThan(60_000);
  });

  test('once finished writes no more', async () => {
    const { writer, file } = capture();
    await writer.write(frameOf(60));
    writer.finish();
    const { length } = file();
    await writer.write(frameOf(60));
    writer.finish();
    await writer.disconnect();
    expect(file().length).toBe(length);
    expect(packets(file(), 'frame.len')).toEqual([['60']]);
  });
});
