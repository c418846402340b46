/** Ports that are added, changed and removed while frames flow: the others lose nothing. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { XenvifClient } from '../../clients/typescript/src/index.js';
import { conversation } from '../support/conversation.js';
import { type DaemonUnderTest, startDaemon } from '../support/daemon.js';
import { requireNamespaces } from '../support/network-namespaces.js';

const ROUNDS = 15;
const prefix = `xp${process.pid.toString(36)}`;
let daemon: DaemonUnderTest;
let client: XenvifClient;

beforeAll(async () => {
  requireNamespaces();
  daemon = await startDaemon();
  client = await XenvifClient.connect({ address: daemon.address });
});
afterAll(async () => {
  client?.close();
  await daemon?.stop();
});

test('ports of every kind come and go, and nobody else loses a frame', async () => {
  await client.switches.create('busy');
  const [a, b] = [await client.attach('switches/busy'), await client.attach('switches/busy')];
  const [there, back] = [conversation(a, b), conversation(b, a)];
  for (let round = 0; round < ROUNDS; round += 1) {
    const tap = `${prefix}${round}`;
    await client.switches.createTap('busy', { interface: tap });
    await client.vifs.update('1.0', { switch: 'busy', portPolicy: { isolated: true } });
    const guest = await client.attach('switches/busy');
    const mirror = await client.attach('switches/busy', { mirror: {} });
    void mirror.listen(() => {});
    await client.switches.updatePort(`busy/${tap}`, { accessVlan: 1 + round });
    await client.vifs.update('1.0', { switch: null, portPolicy: null });
    await mirror.disconnect();
    await guest.disconnect();
    await client.switches.deletePort(`busy/${tap}`);
  }
  await sleep(100);
  const sent = [await there.stop(), await back.stop()];
  await expect.poll(() => [there.heard.length, back.heard.length]).toEqual(sent);
  for (const { heard } of [there, back]) {
    expect(heard).toEqual(Array.from({ length: heard.length }, (_, index) => index));
  }
  expect((await client.switches.ports('busy')).map(({ id }) => id)).toHaveLength(2);
  for (const nic of [a, b]) {
    expect(nic.lost.frames).toBe(0n);
    await nic.disconnect();
  }
});
