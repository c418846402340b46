/**
 * An uplink from end to end: a driver domain whose daemon has guests on one side and, on the other, an
 * interface of its own that another domain's backend serves. The guests reach the network behind it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { loadConfig } from '../../src/config.js';
import { Daemon } from '../../src/daemon.js';
import { Netback } from '../../src/device/netback/index.js';
import { plugVif } from '../../src/device/netback/toolstack.js';
import type { NetfrontDevice } from '../../src/device/netfront/device.js';
import { Netfront } from '../../src/device/netfront/index.js';
import type { Domain } from '../../src/xen/emulated/index.js';
import type { Xen } from '../../src/xen/xen.js';
import { CommandUnderTest } from '../support/command.js';
import { Machine, silent, until } from '../support/machine.js';

const UPLINK_MAC = '00:16:3e:00:00:aa';
/** A station of the network that domain 0 serves. */
const STATION = '02:00:00:00:00:01';
const BROADCAST = 'ff:ff:ff:ff:ff:ff';

/** Domain 0 is the network outside; the daemon is in a domain of its own, as are the guests. */
let machine: Machine;
let driver: Domain;
let driverXen: Xen;
let daemon: Daemon;
let guests: { xen: Xen; netfront: Netfront; device: NetfrontDevice }[];
const command = new CommandUnderTest(() => daemon.addresses[0] as string);

async function plug(backendDomid: number, domid: number, mac: string): Promise<void> {
  const uid = `${backendDomid}-${domid}`;
  const vif = { backendDomid, domid, handle: 0, mac, mtu: 1500, labels: {}, uid };
  await plugVif(machine.xen.store, vif);
}

async function addGuest(mac: string) {
  const domain = await machine.hypervisor.createDomain();
  const xen = await domain.open({ localMemoryBytes: 4 * 1024 * 1024 });
  const netfront = new Netfront(xen, silent, () => undefined);
  await netfront.start();
  await plug(driver.domid, domain.domid, mac);
  await until('the guest connects', () => netfront.get(0)?.connected === true);
  const device = netfront.get(0) as NetfrontDevice;
  guests.push({ xen, netfront, device });
  return device;
}

async function startDaemon(): Promise<void> {
  driverXen = await driver.open();
  const config = loadConfig({ tcp: '127.0.0.1:0' });
  daemon = await Daemon.start({ xen: driverXen, config, logger: silent, socket: undefined });
}

async function stopDaemon(): Promise<void> {
  await daemon.stop();
  await driverXen.close();
}

beforeEach(async () => {
  guests = [];
  machine = await Machine.start();
  driver = await machine.hypervisor.createDomain();
  await startDaemon();
});
afterEach(async () => {
  for (const { netfront, xen } of guests) {
    await netfront.stop();
    await xen.close();
  }
  await stopDaemon();
  await machine.end();
});

function frameOf(text: string, source: string, destination: string): Uint8Array {
  const bytes = [destination, source].flatMap((mac) =>
    mac.split(':').map((pair) => Number.parseInt(pair, 16)),
  );
  return Uint8Array.from([...bytes, 0x88, 0xb5, ...Buffer.from(text)]);
}

/** What a NIC hears of ours, as text. */
function hear(nic: { listen(onFrame: (frame: Uint8Array) => void): Promise<void> }): string[] {
  const heard: string[] = [];
  void nic.listen((frame) => {
    if (frame[12] === 0x88 && frame[13] === 0xb5) {
      heard.push(Buffer.from(frame.subarray(14)).toString());
    }
  });
  return heard;
}

/** The network outside, as domain 0 has it. */
async function outside() {
  await until('the uplink is connected', () => {
    return machine.netback.get(driver.domid, 0)?.status.phase === 'connected';
  });
  const vif = machine.netback.get(driver.domid, 0);
  if (vif === undefined) throw new Error('There is no vif.');
  return vif;
}

describe('an uplink', () => {
  test('is how guests reach what another domain serves, each by its own address', async () => {
    await plug(0, driver.domid, UPLINK_MAC);
    const made = await command.run('uplink', 'create', 'default', '0', '--json');
    expect(made).toMatchObject({ code: 0, stderr: '' });
    expect(JSON.parse(made.stdout)).toMatchObject({
      name: 'switches/default/ports/netfront-0',
      kind: 'netfront',
      device: 'netfronts/0',
      mtu: 1500,
      connected: true,
    });
    const first = await addGuest('00:16:3e:00:00:01');
    const second = await addGuest('00:16:3e:00:00:02');
    const vif = await outside();
    const [out, atFirst, atSecond] = [hear(vif), hear(first), hear(second)];
    await first.write(frameOf('who is there', first.mac, BROADCAST));
    await until('all hear it', () => out.length === 1 && atSecond.length === 1);
    await vif.write(frameOf('it is me', STATION, first.mac));
    await until('the guest hears it', () => atFirst.length === 1);
    await first.write(frameOf('hello', first.mac, STATION));
    await second.write(frameOf('me too', second.mac, STATION));
    await until('both are heard', () => out.length === 3);
    await sleep(50);
    // What the switch knows the way of goes no other.
    expect([[...out].sort(), atFirst, atSecond]).toEqual([
      ['hello', 'me too', 'who is there'],
      ['it is me'],
      ['who is there'],
    ]);
    const table = await command.run('switch', 'table');
    expect(table.stdout).toMatch(new RegExp(`^${STATION} +- +netfront-0 `, 'm'));
    const again = await command.run('uplink', 'create', 'default', '0', '--port-id', 'second');
    expect(again).toMatchObject({ code: 1, stderr: expect.stringContaining('NETFRONT_BUSY') });
  });

  test('has a policy, is pulled out, and can be had again', async () => {
    await plug(0, driver.domid, UPLINK_MAC);
    const policy = ['--trunk', '10,20', '--port-id', 'wan'];
    expect((await command.run('uplink', 'create', 'default', '0', ...policy)).code).toBe(0);
    await outside();
    const port = async () => (await command.run('port', 'show', 'default/wan')).stdout;
    expect(await port()).toMatch(/^policy +trunk 10,20$/m);
    await command.run('port', 'set', 'default/wan', '--no-policy');
    expect(await port()).toMatch(/^policy +-$/m);
    expect((await command.run('port', 'rm', 'default/wan')).code).toBe(0);
    expect((await command.run('port', 'show', 'default/wan')).code).toBe(1);
    expect((await command.run('uplink', 'create', 'default', '0')).code).toBe(0);
    const guest = await addGuest('00:16:3e:00:00:01');
    const out = hear(await outside());
    await guest.write(frameOf('again', guest.mac, BROADCAST));
    await until('it is heard', () => out.length === 1);
  });

  test('that has no backend says so', async () => {
    await plug(0, driver.domid, UPLINK_MAC);
    await machine.netback.stop({ closeDevices: true, closeTimeoutMs: 5000 });
    const made = await command.run('uplink', 'create', 'default', '0');
    expect(made.stdout).toMatch(/^state +away: frames for it are dropped$/m);
    const ports = await command.run('port', 'ls');
    expect(ports.stdout).toMatch(/^netfront-0 +netfront, away +netfronts\/0 /m);
    machine.netback = new Netback(machine.xen, silent);
    await machine.netback.start();
    await outside();
    const state = async () => (await command.run('port', 'show', 'default/netfront-0')).stdout;
    await expect.poll(state).toMatch(/^state +connected$/m);
  });

  test('is there again for the next daemon, and after its backend was started anew', async () => {
    await plug(0, driver.domid, UPLINK_MAC);
    expect((await command.run('uplink', 'create', 'default', '0')).code).toBe(0);
    await stopDaemon();
    await startDaemon();
    const guest = await addGuest('00:16:3e:00:00:01');
    const before = hear(await outside());
    await guest.write(frameOf('by the next daemon', guest.mac, BROADCAST));
    await until('it is heard', () => before.length === 1);
    await machine.restartBackend();
    const after = hear(await outside());
    await guest.write(frameOf('to the next backend', guest.mac, BROADCAST));
    await until('it is heard', () => after.length === 1);
  });
});
