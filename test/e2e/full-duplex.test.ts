/**
 * One connection with everything on it at once, both ways and as fast as it goes: more than kernel
 * and HTTP/2 hold on the way. Neither end may come to wait for the other for ever: that shows as a test
 * that does not end.
 */
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Nic, type Vchan, XenvifClient } from '../../clients/typescript/src/index.js';
import { type DaemonUnderTest, startDaemon } from '../support/daemon.js';

const PAIRS = 3;
const FRAMES = 12_000;
const FRAME_BYTES = 1514;
const SMALL_FRAMES = 4_000;
const VCHAN_BYTES = 8 * 1024 * 1024;
/** The mark of frames that ask whether a way is open, behind the type. */
const ASKING = 0xa5;

let daemon: DaemonUnderTest;

beforeAll(async () => {
  daemon = await startDaemon();
});
afterAll(async () => {
  await daemon?.stop();
});

/** A NIC that counts what it hears, and hears whether it is asked. */
class Station {
  readonly nic: Nic;
  heard = 0;
  isAsked = false;

  constructor(nic: Nic) {
    this.nic = nic;
    nic.listenBatch((batch) => {
      this.heard += batch.count;
      for (let index = 0; index < batch.count; index += 1) {
        if (batch.bytes[batch.offset(index) + 14] === ASKING) this.isAsked = true;
      }
    });
  }

  frameTo(peer: Station, length: number): Buffer {
    const frame = Buffer.alloc(length);
    frame.write(`${peer.nic.mac}${this.nic.mac}88b5`.replaceAll(':', ''), 'hex');
    return frame;
  }

  /** Sends as fast as the transport takes it, many frames to a message. */
  async flood(peer: Station): Promise<void> {
    const frame = this.frameTo(peer, FRAME_BYTES);
    for (let sent = 0; sent < FRAMES; sent += 1) {
      const place = this.nic.place(frame.length);
      this.nic.placedBytes.set(frame, place);
      if (sent % 256 === 255) await this.nic.drained();
    }
    await this.nic.drained(0);
  }

  /** Sends small messages, one in each turn. */
  async patter(peer: Station): Promise<void> {
    const frame = this.frameTo(peer, 60);
    const written: Promise<void>[] = [];
    for (let sent = 0; sent < SMALL_FRAMES; sent += 1) {
      written.push(this.nic.write(frame));
      await turn();
    }
    await Promise.all(written);
  }

  /** Sends one frame again and again until `peer` has heard one. */
  async reach(peer: Station): Promise<void> {
    const frame = this.frameTo(peer, 60);
    frame[14] = ASKING;
    while (!peer.isAsked) {
      await this.nic.write(frame);
      await sleep(10);
    }
  }
}

async function stations(client: XenvifClient, name: string): Promise<[Station, Station][]> {
  await client.switches.create(name);
  const pairs: [Station, Station][] = [];
  for (let index = 0; index < PAIRS; index += 1) {
    const [a, b] = [
      await client.attach(`switches/${name}`),
      await client.attach(`switches/${name}`),
    ];
    pairs.push([new Station(a), new Station(b)]);
  }
  // The switch learns who is where, so that nothing is flooded.
  await both(pairs, (from, to) => from.reach(to));
  for (const station of pairs.flat()) station.isAsked = false;
  return pairs;
}

async function both(
  pairs: readonly [Station, Station][],
  step: (from: Station, to: Station) => Promise<void>,
): Promise<void> {
  await Promise.all(pairs.flatMap(([a, b]) => [step(a, b), step(b, a)]));
}

async function carry(from: Vchan, to: Vchan): Promise<void> {
  const bytes = randomBytes(VCHAN_BYTES);
  const chunks: Buffer[] = [];
  let received = 0;
  const all = new Promise<void>((resolve) => {
    to.on('data', (chunk: Buffer) => {
      chunks.push(chunk);
      received += chunk.length;
      if (received >= bytes.length) resolve();
    });
  });
  from.write(bytes);
  await all;
  expect(Buffer.concat(chunks).equals(bytes)).toBe(true);
}

describe.each(['tcp', 'socket'] as const)('one connection, full both ways, over %s', (way) => {
  test('goes on, and every way is open afterwards', async () => {
    const address = way === 'tcp' ? daemon.tcp : daemon.address;
    const client = await XenvifClient.connect({ address });
    try {
      const pairs = await stations(client, `full-${way}`);
      const port = `full-${way}`;
      const vchans = await Promise.all([
        client.vchan({ listen: true, domid: 1, asDomid: 2, port }),
        client.vchan({ domid: 2, asDomid: 1, port }),
      ]);
      const [server, peer] = vchans;
      await Promise.all([
        both(pairs, (from, to) => from.flood(to)),
        both(pairs, (from, to) => from.patter(to)),
        carry(server, peer),
        carry(peer, server),
      ]);
      await both(pairs, (from, to) => from.reach(to));
      for (const { heard, nic } of pairs.flat()) {
        expect(heard + Number(nic.lost.frames)).toBeGreaterThan(0);
        expect(nic.stats.txPackets).toBeGreaterThan(BigInt(FRAMES + SMALL_FRAMES));
      }
      for (const vchan of vchans) vchan.destroy();
    } finally {
      client.close();
    }
  });
});
