import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { completeChecksum } from '../../../src/wire/checksum-offload.js';
import { Segmenter } from '../../../src/wire/segmentation.js';
import { seededRandom } from '../../support/random.js';
import { randomPacket, TCP } from './packet-builder.js';

let directory: string;

beforeAll(() => {
  try {
    execFileSync('tshark', ['--version'], { stdio: 'ignore' });
  } catch {
    throw new Error(
      'These tests need tshark (Debian: apt-get install tshark): it is the judge here.',
    );
  }
  directory = mkdtempSync(join(tmpdir(), 'xenvif-wire-'));
});

afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** A capture file (libpcap 2.4, Ethernet). */
function pcap(frames: readonly Uint8Array[]): Buffer {
  const header = Buffer.alloc(24);
  header.writeUInt32LE(0xa1b2c3d4, 0);
  header.writeUInt16LE(2, 4);
  header.writeUInt16LE(4, 6);
  header.writeUInt32LE(65535, 16);
  header.writeUInt32LE(1, 20);
  const records = frames.flatMap((frame) => {
    const record = Buffer.alloc(16);
    record.writeUInt32LE(frame.length, 8);
    record.writeUInt32LE(frame.length, 12);
    return [record, Buffer.from(frame)];
  });
  return Buffer.concat([header, ...records]);
}

/** What tshark, told to check every checksum, reads in `fields` of each frame. */
function tshark(frames: readonly Uint8Array[], fields: readonly string[]): string[][] {
  const file = join(directory, 'frames.pcap');
  writeFileSync(file, pcap(frames));
  const checks = ['tcp', 'udp', 'ip'].flatMap((layer) => ['-o', `${layer}.check_checksum:TRUE`]);
  const fieldArgs = fields.flatMap((field) => ['-e', field]);
  const text = execFileSync('tshark', ['-r', file, ...checks, '-T', 'fields', ...fieldArgs], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    maxBuffer: 64 * 1024 * 1024,
  });
  return text
    .replace(/\n$/, '')
    .split('\n')
    .map((line) => line.split('\t'));
}

const STATUS = ['ip.checksum.status', 'tcp.checksum.status', 'udp.checksum.status'];
const GOOD = '1';

describe('tshark', () => {
  test('finds every completed checksum good, and those before bad', () => {
    const frames: Uint8Array[] = [];
    const blank: Uint8Array[] = [];
    const versions: number[] = [];
    for (let seed = 1; seed <= 400; seed += 1) {
      const { frame, plan } = randomPacket(seededRandom(seed));
      blank.push(frame.slice());
      expect(completeChecksum(frame, 0, frame.length)).toBe(true);
      frames.push(frame);
      versions.push(plan.version);
    }
    const statuses = tshark(frames, STATUS);
    expect(statuses.length).toBe(frames.length);
    for (const [index, [ip, tcp, udp]] of statuses.entries()) {
      expect(ip, `frame ${index + 1}`).toBe(versions[index] === 4 ? GOOD : '');
      expect([tcp, udp].sort(), `frame ${index + 1}`).toEqual(['', GOOD]);
    }
    const before = tshark(blank, STATUS).filter(([, tcp, udp]) => `${tcp}${udp}` === GOOD);
    expect(before.length).toBeLessThan(5);
  });

  test('finds every checksum of segments good, and the payload whole', () => {
    const segmenter = new Segmenter();
    const frames: Uint8Array[] = [];
    const origins: number[] = [];
    const payloads: string[] = [];
    for (let seed = 1; seed <= 60; seed += 1) {
      const random = seededRandom(seed);
      const { frame, plan } = randomPacket(random, {
        protocol: TCP,
        payloadBytes: 1 + random.below(20000),
      });
      const gsoSize = 500 + random.below(1000);
      for (let left = segmenter.begin(frame, 0, frame.length, gsoSize); left > 0; left -= 1) {
        const segment = new Uint8Array(segmenter.longest);
        frames.push(segment.subarray(0, segmenter.next(segment, 0)));
        origins.push(seed - 1);
      }
      payloads.push(Buffer.from(plan.payload).toString('hex'));
    }
    const rows = tshark(frames, [...STATUS, 'tcp.seq_raw', 'tcp.payload']);
    expect(rows.length).toBe(frames.length);
    const joined = payloads.map(() => '');
    let next = 0;
    for (const [index, [ip, tcp, udp, sequence, payload = '']] of rows.entries()) {
      expect([ip === '' ? GOOD : ip, tcp, udp], `frame ${index + 1}`).toEqual([GOOD, GOOD, '']);
      const origin = origins[index] as number;
      if (joined[origin] !== '') expect(Number(sequence)).toBe(next);
      joined[origin] += payload;
      next = (Number(sequence) + payload.length / 2) % 2 ** 32;
    }
    expect(joined).toEqual(payloads);
  });
});
