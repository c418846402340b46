/**
 * Guests that leave checksums and segmentation to us, the whole way: rings, netback, hub and gRPC, to
 * clients of the SDK on one side and to other guests on the other. What a guest is told of a frame
 * and what is in the frame must agree, whoever looks on.
 */
import { type Frame, type Nic, XenvifClient } from '@xenvif/client';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { loadConfig } from '../../../src/config.js';
import { GrpcServer } from '../../../src/service/server.js';
import { XenbusState } from '../../../src/xen/xenbus.js';
import { type GrantedPage, HostileGuest, type Nodes } from '../../hostile/guest.js';
import {
  CSUM_BLANK,
  DATA_VALIDATED,
  EXTRA_INFO,
  gsoExtra,
  MORE_DATA,
  RX_CSUM_BLANK,
  txRequest,
} from '../../hostile/slots.js';
import { Machine, silent, until } from '../../support/machine.js';
import { seededRandom } from '../../support/random.js';
import {
  type BuiltPacket,
  buildPacket,
  expectedChecksum,
  expectedFrame,
  expectedPseudoHeader,
  randomBytes,
  TCP,
  UDP,
} from '../wire/packet-builder.js';

const PAGE = 4096;
const BUFFERS = 200;
const MTU = 1500;
const NO_OFFLOADS: Nodes = {
  'feature-gso-tcpv4': undefined,
  'feature-gso-tcpv6': undefined,
  'feature-no-csum-offload': '1',
  'feature-ipv6-csum-offload': undefined,
};

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

interface ReceivedFrame {
  readonly bytes: Uint8Array;
  readonly isBlank: boolean;
}

/** A raw frontend that sends frames with what it wants done to them, and sees what it is given. */
class OffloadGuest {
  readonly guest: HostileGuest;
  readonly name: string;
  readonly #buffers: GrantedPage[];

  private constructor(guest: HostileGuest) {
    this.guest = guest;
    this.name = `vifs/${guest.domid}.0`;
    this.#buffers = Array.from({ length: BUFFERS }, () => guest.page());
    guest.queue.post(this.#buffers.map(({ ref }) => ref));
  }

  static async join(machine: Machine, nodes: Nodes = {}): Promise<OffloadGuest> {
    const domain = await machine.hypervisor.createDomain();
    const xen = await domain.open({ localMemoryBytes: 65536 });
    const guest = new HostileGuest(domain, xen);
    await machine.plug(domain.domid);
    const status = () => machine.netback.get(domain.domid, 0)?.status;
    await until('netback waits', () => status()?.backendState === XenbusState.initWait);
    await guest.shake({ nodes });
    await until('the guest connects', () => status()?.phase === 'connected');
    return new OffloadGuest(guest);
  }

  /** Sends a frame with its checksum blank, in pieces of a page; `gso` is type and segment size. */
  async send(frame: Uint8Array, gso?: readonly [number, number]): Promise<void> {
    const { guest } = this;
    const pieces = Math.ceil(frame.length / PAGE);
    const slots = Array.from({ length: pieces }, (_, index) => {
      const piece = frame.subarray(index * PAGE, (index + 1) * PAGE);
      const isFirst = index === 0;
      const more = index + 1 < pieces ? MORE_DATA : 0;
      const extra = isFirst && gso !== undefined ? EXTRA_INFO : 0;
      const flags = (isFirst ? CSUM_BLANK | DATA_VALIDATED : 0) | more | extra;
      const size = isFirst ? frame.length : piece.length;
      return txRequest({ gref: guest.page(piece, 'read').ref, flags, id: index, size });
    });
    if (gso !== undefined) slots.splice(1, 0, gsoExtra(gso[1], gso[0]));
    guest.queue.send(slots);
    const answers = await guest.queue.answers(slots.length);
    for (const { status } of answers) expect([0, 1]).toContain(status);
  }

  /** Everything received so far. Buffers are not posted again. */
  received(): ReceivedFrame[] {
    const frames: { parts: Uint8Array[]; isBlank: boolean }[] = [];
    let isFirst = true;
    const responses = this.guest.queue.takeRx();
    for (let index = 0; index < responses.length; index += 1) {
      const { id, flags, status, offset } = responses[index] as (typeof responses)[number];
      if (isFirst) frames.push({ parts: [], isBlank: (flags & RX_CSUM_BLANK) !== 0 });
      const page = this.#buffers[id]?.page.bytes ?? new Uint8Array(0);
      frames.at(-1)?.parts.push(page.slice(offset, offset + status));
      // An extra lies where a response would.
      if ((flags & EXTRA_INFO) !== 0) index += 1;
      isFirst = (flags & MORE_DATA) === 0;
    }
    return frames.map(({ parts, isBlank }) => ({ bytes: Buffer.concat(parts), isBlank }));
  }
}

let machine: Machine;
let server: GrpcServer;
let client: XenvifClient;
let memoryBefore: number;
let guests: OffloadGuest[];

beforeEach(async () => {
  machine = await Machine.start();
  machine.joinToHub();
  memoryBefore = machine.xen.memory.allocatedBytes;
  server = new GrpcServer(machine.xen, machine.netback, machine.switches(), loadConfig({}), silent);
  const port = await server.listen('127.0.0.1:0');
  server.ready();
  client = new XenvifClient({ address: `127.0.0.1:${port}` });
  guests = [];
});

afterEach(async () => {
  client.close();
  await server.stop();
  for (const { guest } of guests) {
    await guest.setState('6');
    const status = () => machine.netback.get(guest.domid, 0)?.status.backendState;
    await until('netback lets go', () => status() !== XenbusState.connected);
    await guest.end();
  }
  expect(machine.xen.memory.allocatedBytes).toBe(memoryBefore);
  await machine.end();
});

async function join(nodes: Nodes = {}): Promise<OffloadGuest> {
  const guest = await OffloadGuest.join(machine, nodes);
  guests.push(guest);
  return guest;
}

function packet(version: 4 | 6, protocol: number, payloadBytes: number): BuiltPacket {
  const random = seededRandom(payloadBytes + version + protocol);
  const plan = { version, protocol, payload: randomBytes(random, payloadBytes), tcpFlags: 0x18 };
  const blank = buildPacket(plan);
  return buildPacket({ ...plan, checksum: expectedPseudoHeader(blank) });
}

/** Checksum and frame agree with what the guest was told of them. */
function expectSound(received: ReceivedFrame | undefined, sent: BuiltPacket): void {
  const expected = received?.isBlank ? sent.frame : expectedFrame(sent);
  expect(hex(received?.bytes ?? new Uint8Array(0))).toBe(hex(expected));
}

/** Joins what the segments carry, and sees that each is a whole packet with its checksum. */
function joinSegments(segments: readonly Uint8Array[], sent: BuiltPacket): Uint8Array {
  const parts = segments.map((segment, index) => {
    expect(segment.length).toBeLessThanOrEqual(14 + MTU);
    const payload = segment.subarray(sent.payloadOffset);
    const alone = buildPacket({
      ...sent.plan,
      payload,
      sequence: 1 + index * ((segments[0]?.length ?? 0) - sent.payloadOffset),
      identification: index,
      tcpFlags: index === segments.length - 1 ? 0x18 : 0x10,
    });
    expect(hex(segment)).toBe(hex(expectedFrame(alone)));
    return payload;
  });
  return Buffer.concat(parts);
}

/** Collects from an observation or a NIC until `count` frames are there. */
async function take(source: AsyncIterable<Frame>, count: number): Promise<Frame[]> {
  const frames: Frame[] = [];
  for await (const frame of source) {
    frames.push(frame);
    if (frames.length === count) break;
  }
  return frames;
}

/** Resolves when so many streams are open, and what passes from then on is seen. */
async function untilOpen(streams: number): Promise<void> {
  await until('the streams are open', () => server.frames.streams === streams);
}

describe('a frame with a blank checksum', () => {
  test.each([
    [4, TCP],
    [4, UDP],
    [6, TCP],
    [6, UDP],
  ] as const)(
    'IPv%i protocol %i is completed for clients, and sound for each guest',
    async (version, protocol) => {
      const [sender, modern, another] = [await join(), await join(), await join()];
      const plain = await join(NO_OFFLOADS);
      const sent = packet(version, protocol, 700);
      expect(expectedChecksum(sent)).not.toBe(expectedPseudoHeader(sent));
      const others = client.observe([modern.name, another.name, plain.name]);
      await untilOpen(1);
      await sender.send(sent.frame);
      const copies = await take(others, 3);
      for (const copy of copies) {
        expect(hex(copy.data)).toBe(hex(expectedFrame(sent)));
        expect(copy).toMatchObject({ checksum: 'verified', direction: 'to-guest' });
      }
      for (const guest of [modern, another, plain]) expectSound(guest.received()[0], sent);
    },
  );

  test('is not filled in for guests that take it blank while nobody looks', async () => {
    const [sender, modern, plain] = [await join(), await join(), await join(NO_OFFLOADS)];
    const sent = packet(4, TCP, 700);
    await sender.send(sent.frame);
    const [toModern] = modern.received();
    const [toPlain] = plain.received();
    expect([toModern?.isBlank, toPlain?.isBlank]).toEqual([true, false]);
    expectSound(toModern, sent);
    expectSound(toPlain, sent);
  });

  test('is completed for a capture at its source, with a snaplen and without', async () => {
    const [sender, modern] = [await join(), await join()];
    const sent = packet(6, UDP, 900);
    const whole = client.observe(sender.name);
    const cut = client.observe(sender.name, { snaplen: 62 });
    await untilOpen(2);
    await sender.send(sent.frame);
    const [[first], [second]] = await Promise.all([take(whole, 1), take(cut, 1)]);
    expect(hex(first?.data ?? new Uint8Array(0))).toBe(hex(expectedFrame(sent)));
    expect(hex(second?.data ?? new Uint8Array(0))).toBe(hex(expectedFrame(sent).subarray(0, 62)));
    expect([first?.checksum, second?.checksum]).toEqual(['verified', 'verified']);
    expectSound(modern.received()[0], sent);
  });
});

describe('a frame that is to be segmented', () => {
  test.each([
    [4, 1],
    [6, 2],
  ] as const)(
    'IPv%i reaches captures in one piece, plain NICs in segments, and guests as they take it',
    async (version, type) => {
      const [sender, modern, plain] = [await join(), await join(), await join(NO_OFFLOADS)];
      const sent = packet(version, TCP, 30000);
      const nic: Nic = await client.attach(sender.name);
      const capture = client.observe([sender.name, modern.name]);
      await untilOpen(2);
      const gsoSize = 1400;
      const count = Math.ceil(30000 / gsoSize);
      await sender.send(sent.frame, [type, gsoSize]);
      const [captured, segments] = await Promise.all([take(capture, 2), take(nic, count)]);
      for (const copy of captured) {
        expect(hex(copy.data)).toBe(hex(expectedFrame(sent)));
        expect(copy).toMatchObject({ checksum: 'verified', gso: { segmentBytes: gsoSize } });
      }
      const bytes = segments.map(({ data }) => data);
      expect(hex(joinSegments(bytes, sent))).toBe(hex(sent.plan.payload));
      expect(segments.map(({ sequence }) => Number(sequence))).toEqual(
        segments.map((_, i) => i + 1),
      );
      for (const segment of segments) {
        expect(segment.checksum).toBe('verified');
        expect(segment.gso).toBeUndefined();
      }
      const [large] = modern.received();
      expect(large?.isBlank).toBe(true);
      expectSound(large, sent);
      const small = plain.received();
      expect(small.every(({ isBlank }) => !isBlank)).toBe(true);
      expect(
        hex(
          joinSegments(
            small.map((frame) => frame.bytes),
            sent,
          ),
        ),
      ).toBe(hex(sent.plan.payload));
      await nic.disconnect();
    },
  );

  test('is cut for a plain NIC to its MTU, whatever size the guest asked for', async () => {
    const sender = await join();
    const sent = packet(4, TCP, 9000);
    const nic = await client.attach(sender.name);
    await sender.send(sent.frame, [1, 8000]);
    const segments = await take(nic, Math.ceil(9000 / (MTU - 40)));
    const joined = joinSegments(
      segments.map(({ data }) => data),
      sent,
    );
    expect(hex(joined)).toBe(hex(sent.plan.payload));
    await nic.disconnect();
  });
});
