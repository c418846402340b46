import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readCapture } from '../../../../clients/cli/src/capture-reader.js';
import {
  enhancedPackets,
  interfaceDescription,
  interfaceStatistics,
  sectionHeader,
} from '../../../../clients/cli/src/pcapng.js';
import { FrameBatch } from '../../../../clients/typescript/src/gen/xenvif/v1/frame_service.js';
import { decodeFrameBatch, type FrameBatchView } from '../../../../clients/typescript/src/index.js';

const FROM_GUEST = 1;
const TO_GUEST = 2;
const BASE_NS = 1_700_000_000_123_456_789n;

/** An ICMP echo request, so that there is something to dissect. */
const PING = Buffer.from(
  '00163e00000200163e0000010800' + '4500001c0001000040012ede0a0000010a000002' + '0800f7fd00010001',
  'hex',
);

function batchOf(message: Partial<FrameBatch>): FrameBatchView {
  const batch: FrameBatch = { ...FrameBatch.create(), ...message };
  return decodeFrameBatch(Buffer.from(FrameBatch.encode(batch).finish()));
}

const NOTHING_MISSING = { lost: 0n, comment: '' };
let directory: string;
let file: string;

beforeAll(() => {
  try {
    execFileSync('tshark', ['--version'], { stdio: 'ignore' });
  } catch {
    throw new Error(
      'These tests need tshark (Debian: apt-get install tshark): it is the judge here.',
    );
  }
  directory = mkdtempSync(join(tmpdir(), 'xenvif-pcapng-'));
  file = join(directory, 'capture.pcapng');
});

afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** What tshark reads in `fields` of a file made of `blocks`. */
function tshark(blocks: readonly Buffer[], fields: readonly string[]): string[][] {
  writeFileSync(file, Buffer.concat(blocks));
  const args = ['-r', file, '-T', 'fields', ...fields.flatMap((field) => ['-e', field])];
  const text = execFileSync('tshark', args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  return text
    .trimEnd()
    .split('\n')
    .map((line) => line.split('\t'));
}

const twoVifs = [
  sectionHeader('xenvif test'),
  interfaceDescription({ name: 'vifs/1.0', description: 'first', snaplen: 0, filter: '' }),
  interfaceDescription({ name: 'vifs/2.0', description: 'second', snaplen: 40, filter: 'icmp' }),
];

describe('a pcapng file, as tshark reads it', () => {
  it('has the frames with their times, lengths, interfaces and directions', () => {
    const batch = batchOf({
      frames: [PING, Buffer.concat([PING, Buffer.alloc(3)]), PING.subarray(0, 40)],
      baseTimeNs: BASE_NS,
      timeDeltaNs: [0, 1, 4_294_967_295],
      originalLength: [42, 45, 99],
      vifIndex: [0, 1, 1],
      flags: [FROM_GUEST, TO_GUEST, TO_GUEST],
    });
    const rows = tshark(
      [...twoVifs, enhancedPackets(batch, 3, NOTHING_MISSING)],
      [
        'frame.time_epoch',
        'frame.interface_name',
        'frame.packet_flags_direction',
        'frame.cap_len',
        'frame.len',
        'icmp.type',
      ],
    );
    expect(rows).toEqual([
      ['1700000000.123456789', 'vifs/1.0', '0x00000001', '42', '42', '8'],
      ['1700000000.123456790', 'vifs/2.0', '0x00000002', '45', '45', '8'],
      ['1700000004.418424084', 'vifs/2.0', '0x00000002', '40', '99', '8'],
    ]);
  });

  it('tells how many frames are missing before a frame, and what else there is to say', () => {
    const batch = batchOf({ frames: [PING, PING], baseTimeNs: BASE_NS, flags: [1, 1] });
    const missing = { lost: 5_000_000_000n, comment: 'The connection was lost.' };
    const rows = tshark(
      [...twoVifs, enhancedPackets(batch, 2, missing)],
      ['frame.drop_count', 'frame.comment', 'icmp.seq'],
    );
    expect(rows).toEqual([
      ['5000000000', 'The connection was lost.', '1'],
      ['', '', '1'],
    ]);
  });

  it('has as many frames as were asked for, and is right without any', () => {
    const batch = batchOf({ frames: [PING, PING, PING], baseTimeNs: BASE_NS });
    const two = [...twoVifs, enhancedPackets(batch, 2, NOTHING_MISSING)];
    expect(tshark(two, ['frame.number'])).toEqual([['1'], ['2']]);
    const none = [...twoVifs, enhancedPackets(batch, 0, { lost: 3n, comment: 'lost' })];
    expect(tshark(none, ['frame.number'])).toEqual([['']]);
  });

  it('carries the frames of any length byte for byte', () => {
    const frames = [14, 15, 16, 17, 1514, 65_535].map((length) => Buffer.alloc(length, length));
    const blocks = [
      ...twoVifs,
      enhancedPackets(batchOf({ frames, baseTimeNs: BASE_NS }), frames.length, NOTHING_MISSING),
    ];
    expect(tshark(blocks, ['frame.len']).flat()).toEqual(
      frames.map(({ length }) => String(length)),
    );
    expect(readCapture(Buffer.concat(blocks)).map(({ data }) => data)).toEqual(frames);
  });

  it('describes its interfaces and ends with their statistics', () => {
    const batch = batchOf({ frames: [PING], baseTimeNs: BASE_NS });
    const statistics = { startNs: BASE_NS, endNs: BASE_NS + 5n, received: 12n, dropped: 11n };
    writeFileSync(
      file,
      Buffer.concat([
        ...twoVifs,
        enhancedPackets(batch, 1, NOTHING_MISSING),
        interfaceStatistics(0, statistics),
        interfaceStatistics(1, { ...statistics, received: 0n, dropped: 0n }),
      ]),
    );
    const text = execFileSync('capinfos', [file], { encoding: 'utf8' });
    expect(text).toContain('Name = vifs/2.0');
    expect(text).toContain('Description = second');
    expect(text).toContain('Filter string = icmp');
    expect(text).toContain('Capture length = 40');
    expect(text).toContain('Time precision = nanoseconds');
    expect(text).toContain('Number of stat entries = 1');
    expect(text).toContain('Capture application: xenvif test');
  });
});
