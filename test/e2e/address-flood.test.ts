/**
 * A client that sends from a million MAC addresses, which is what fills a switch's table where nothing
 * bounds it. The others' entries and traffic are compared with those beside a client that sends as many
 * frames from one address.
 */
import { setImmediate as turn } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Nic, XenvifClient } from '../../clients/typescript/src/index.js';
import { type DaemonUnderTest, startDaemon } from '../support/daemon.js';

const FLOOD_FRAMES = 1_000_000;
const BATCH_FRAMES = 500;
/** Addresses behind each of the others, as behind a bridge. */
const OTHERS_ADDRESSES = 500;
/** Frames that may be on their way between the others, so that none is lost for want of room. */
const WINDOW = 2_000;
const BROADCAST = 'ffffffffffff';

let daemon: DaemonUnderTest;
let client: XenvifClient;
/** One connection for each, as for programs of their own. */
const clients: XenvifClient[] = [];

beforeAll(async () => {
  daemon = await startDaemon({ args: ['--demo-guests', '0'] });
  client = await XenvifClient.connect({ address: daemon.address });
});
afterAll(async () => {
  for (const each of [client, ...clients]) each?.close();
  await daemon?.stop();
});

async function station(portId: string): Promise<Nic> {
  const own = await XenvifClient.connect({ address: daemon.address });
  clients.push(own);
  return await own.attach('switches/flooded', { portId, anyMac: true });
}

function frameOf(destination: string, source: string): Buffer {
  const frame = Buffer.alloc(60);
  frame.write(`${destination}${source}88b5`, 'hex');
  return frame;
}

const hexOf = ({ mac }: Nic) => mac.replaceAll(':', '');

/** What the switch knows behind the ports of all but the flooder. */
async function entriesOfOthers(): Promise<string[]> {
  const entries: string[] = [];
  for await (const { mac, port } of client.switches.forwardingEntries('flooded')) {
    if (port !== 'flooder') entries.push(`${mac} ${port}`);
  }
  return entries.sort();
}

/** Sends the flood, to the flooder's own address: it is the table that is flooded, not the ports. */
async function flood(flooder: Nic, addresses: number): Promise<void> {
  const own = hexOf(flooder);
  const frames = Array.from({ length: BATCH_FRAMES }, () => frameOf(own, '060000000000'));
  for (let sent = 0; sent < FLOOD_FRAMES; sent += BATCH_FRAMES) {
    for (const [index, frame] of frames.entries()) {
      frame.writeUInt32BE((sent + index) % addresses, 8);
    }
    await flooder.writeBatch(frames);
  }
}

/** Numbered frames from `a` to `b` for as long as `during` lasts. Returns how many came a second. */
async function rateWhile(a: Nic, b: Nic, during: Promise<void>): Promise<number> {
  const stop = new AbortController();
  let heard = 0;
  let lost = 0;
  const addresses = hexOf(b) + hexOf(a);
  const listening = b.listen(
    (bytes) => {
      const frame = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
      if (frame.toString('hex', 0, 12) !== addresses) return;
      const number = frame.readUInt32BE(14);
      lost += number - heard;
      heard = number + 1;
    },
    { signal: stop.signal },
  );
  let isOver = false;
  const end = during.finally(() => {
    isOver = true;
  });
  const frames = Array.from({ length: 50 }, () => frameOf(hexOf(b), hexOf(a)));
  const startMs = performance.now();
  let sent = 0;
  while (!isOver) {
    for (const frame of frames) frame.writeUInt32BE(sent++, 14);
    await a.writeBatch(frames);
    while (sent - heard > WINDOW && !isOver) await turn();
  }
  await end;
  const rate = (heard * 1000) / (performance.now() - startMs);
  await expect.poll(() => heard, { timeout: 20_000 }).toBe(sent);
  expect(lost).toBe(0);
  stop.abort();
  await listening;
  return rate;
}

test('a million addresses from one port change nothing for the others', async () => {
  await client.switches.create('flooded');
  const [a, b, flooder] = [await station('a'), await station('b'), await station('flooder')];
  for (const [index, nic] of [a, b].entries()) {
    const bridged = Array.from({ length: OTHERS_ADDRESSES }, (_, number) =>
      frameOf(BROADCAST, `0a0${index}0000${number.toString(16).padStart(4, '0')}`),
    );
    await nic.writeBatch([frameOf(BROADCAST, hexOf(nic)), ...bridged]);
  }
  // Its own address is known, too: what is for it goes no further.
  await flooder.write(frameOf(BROADCAST, hexOf(flooder)));
  void a.listen(() => {});
  const known = 2 * (OTHERS_ADDRESSES + 1);
  await expect.poll(async () => (await entriesOfOthers()).length).toBe(known);
  const before = await entriesOfOthers();
  const beside = await rateWhile(a, b, flood(flooder, 1));
  const flooded = await rateWhile(a, b, flood(flooder, FLOOD_FRAMES));
  const port = (await client.switches.ports('flooded')).find(({ id }) => id === 'flooder');
  const looked = (port?.received.drops ?? []).reduce((sum, { packets }) => sum + packets, 0n);
  expect(looked).toBe(BigInt(2 * FLOOD_FRAMES));
  expect(await entriesOfOthers()).toEqual(before);
  for (const nic of [a, b]) expect(nic.lost.frames).toBe(0n);
  const { status } = await client.switches.get('flooded');
  expect(status.forwardingEntries).toBe(known + 1024);
  const ratio = (flooded / beside).toFixed(2);
  console.log(
    `others beside 1,000,000 frames: ${Math.round(beside)} frames/s from one address, ` +
      `${Math.round(flooded)} from as many addresses (${ratio})`,
  );
}, 180_000);
