import { pino } from 'pino';
import { afterEach, describe, expect, test } from 'vitest';
import type { NetfrontOptions } from '../../../../src/device/netfront/options.js';
import { until } from '../../../support/machine.js';
import { EVERYTHING } from './raw-backend.js';
import { MAC, Stage } from './stage.js';

let stage: Stage;
afterEach(async () => {
  await stage.end();
});

/** The frontend's nodes that are not about who it is, sorted. */
async function keys(): Promise<string[]> {
  const names = await stage.store.directory(stage.backend.frontendPath);
  const identity = ['backend', 'backend-id', 'state', 'handle', 'mac', 'trusted', 'mtu'];
  return names.filter((name) => !identity.includes(name)).sort();
}

const FLAT_SPLIT = ['event-channel-rx', 'event-channel-tx', 'rx-ring-ref', 'tx-ring-ref'];
const FEATURES = [
  'feature-gso-tcpv4',
  'feature-gso-tcpv6',
  'feature-ipv6-csum-offload',
  'feature-rx-notify',
  'feature-sg',
  'request-rx-copy',
];

describe('what the frontend tells its backend', () => {
  test('one queue: flat keys, split channels, every feature', async () => {
    stage = await Stage.connected();
    expect(await keys()).toEqual([...FLAT_SPLIT, ...FEATURES].sort());
  });

  test('a backend without split channels gets one', async () => {
    stage = await Stage.connected({}, { 'feature-rx-copy': '1' });
    const flat = ['event-channel', 'rx-ring-ref', 'tx-ring-ref'];
    expect(await keys()).toEqual([...flat, ...FEATURES].sort());
    expect(stage.device.features).toEqual({
      queues: 1,
      splitEventChannels: false,
      scatterGather: false,
      gsoTcpv4: false,
      gsoTcpv6: false,
      checksumIpv4: true,
      checksumIpv6: false,
      multicastControl: false,
      controlRing: false,
    });
  });

  test('each feature can be left out', async () => {
    for (const [options, missing] of [
      [{ gsoTcpv4: false }, ['feature-gso-tcpv4']],
      [{ gsoTcpv6: false }, ['feature-gso-tcpv6']],
      [{ checksumIpv6: false }, ['feature-ipv6-csum-offload']],
      [{ scatterGather: false }, ['feature-sg', 'feature-gso-tcpv4', 'feature-gso-tcpv6']],
    ] satisfies [NetfrontOptions, string[]][]) {
      stage = await Stage.connected(options);
      const expected = [...FLAT_SPLIT, ...FEATURES].filter((key) => !missing.includes(key));
      expect(await keys()).toEqual(expected.sort());
      await stage.end();
    }
    stage = await Stage.connected({ checksumIpv4: false });
    expect(await stage.backend.frontend('feature-no-csum-offload')).toBe('1');
  });

  test('what it was told to ask for it asks for where the backend has it, and only there', async () => {
    const options = { multicastControl: true, controlRing: true };
    stage = await Stage.connected(options);
    expect(await keys()).toEqual([...FLAT_SPLIT, ...FEATURES].sort());
    await stage.end();
    const offer = {
      ...EVERYTHING,
      'feature-multicast-control': '1',
      'feature-ctrl-ring': '1',
    };
    stage = await Stage.connected(options, offer);
    const more = ['ctrl-ring-ref', 'event-channel-ctrl', 'request-multicast-control'];
    expect(await keys()).toEqual([...FLAT_SPLIT, ...FEATURES, ...more].sort());
  });

  test('as many queues as both want; old keys of another shape go', async () => {
    stage = await Stage.connected(
      { queuesMax: 3 },
      { ...EVERYTHING, 'multi-queue-max-queues': '2' },
    );
    const several = ['multi-queue-num-queues', 'queue-0', 'queue-1'];
    expect(await keys()).toEqual([...several, ...FEATURES].sort());
    expect(await stage.backend.frontend('multi-queue-num-queues')).toBe('2');
    const queue = await stage.store.directory(`${stage.backend.frontendPath}/queue-1`);
    expect(queue.sort()).toEqual(FLAT_SPLIT);

    await restart({ 'multi-queue-max-queues': '1', 'feature-split-event-channels': '0' });
    const flat = ['event-channel', 'rx-ring-ref', 'tx-ring-ref'];
    expect(await keys()).toEqual([...flat, ...FEATURES].sort());

    await restart({ 'multi-queue-max-queues': '9', 'feature-split-event-channels': '1' });
    expect(await keys()).toEqual([...several, 'queue-2', ...FEATURES].sort());
  });

  test('a number of queues that is none means one', async () => {
    for (const value of ['0', '-1', '2x', '', '0x2', '99999999999']) {
      stage = await Stage.connected(
        { queuesMax: 4 },
        { ...EVERYTHING, 'multi-queue-max-queues': value },
      );
      expect(stage.device.features?.queues).toBe(1);
      await stage.end();
    }
    stage = await Stage.connected();
  });

  async function restart(offer: Readonly<Record<string, string>>): Promise<void> {
    await stage.backend.state(5);
    stage.backend.unmap();
    await stage.backend.untilFrontend(6);
    await stage.backend.state(6);
    await stage.connect({ ...EVERYTHING, ...offer });
  }
});

describe('who the frontend is', () => {
  test('mac and mtu are the toolstack’s', async () => {
    stage = await Stage.connected();
    expect(stage.device.mac).toBe(MAC);
    expect(stage.device.mtu).toBe(1500);
    await stage.store.write(`${stage.backend.frontendPath}/mtu`, '9000');
    await stage.backend.state(5);
    stage.backend.unmap();
    await stage.backend.untilFrontend(6);
    await stage.connect();
    expect(stage.device.mtu).toBe(9000);
  });

  test('a bad mac is replaced by a local one, a bad mtu by 1500, and the log says so', async () => {
    const lines: string[] = [];
    const logger = pino({ level: 'warn' }, { write: (line: string) => void lines.push(line) });
    stage = await Stage.open({}, logger);
    for (const [mac, mtu] of [
      ['', '67'],
      ['01:00:5e:00:00:01', '65522'],
      ['00:16:3e:00:00', '-1'],
      ['00:16:3e:00:00:zz', '15oo'],
    ] as const) {
      await stage.device.disconnect();
      await stage.store.write(`${stage.backend.frontendPath}/mac`, mac);
      await stage.store.write(`${stage.backend.frontendPath}/mtu`, mtu);
      lines.length = 0;
      const { NetfrontDevice } = await import('../../../../src/device/netfront/device.js');
      stage.device = await NetfrontDevice.open(stage.xen, 0, logger);
      expect(stage.device.mac).toMatch(/^[0-9a-f][26ae](:[0-9a-f]{2}){5}$/);
      expect(stage.device.mtu).toBe(1500);
      expect(lines.join()).toContain('the mac is');
      expect(lines.join()).toContain('the mtu is');
    }
  });

  test('the carrier is up where the backend says nothing, and followed where it does', async () => {
    stage = await Stage.connected();
    expect(stage.device.carrier).toBe(true);
    await stage.backend.write({ carrier: '0' });
    await until('down', () => !stage.device.carrier);
    expect(stage.device.connected).toBe(true);
    await stage.backend.write({ carrier: '1' });
    await until('up', () => stage.device.carrier);
  });
});
