/**
 * xenvifd in a driver domain on real Xen: a guest with node in its initrd is the backend of two others.
 * xl in dom0 makes and removes the vifs and waits for what `xl devd` would do there.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DAEMON_COMMAND, daemonFiles } from './daemon-files.js';
import type { Guest } from './guest.js';
import { serveIperf, tcp } from './iperf.js';
import type { Lab } from './lab.js';
import { LEFT, logFolder, RIGHT, servedMachine } from './shared-machine.js';
import { PREPARATION_MS, patienceMs } from './soak.js';

const logDir = logFolder('orchestration-driver-domain');
const DRIVER = 'driver';
/** The initrd is there twice for a moment: 150 MiB as it was loaded, and as files. */
const DRIVER_MIB = 640;
const VIFS = {
  left: { address: '10.0.2.1', mac: '00:16:3e:00:02:01' },
  right: { address: '10.0.2.2', mac: '00:16:3e:00:02:02' },
} as const;
/** libxl's LIBXL_DESTROY_TIMEOUT: once for Closed and once for the directory to go. */
const LIBXL_WAIT_MS = 10_000;

let lab: Lab;
let driver: Guest;
let left: Guest;
let right: Guest;

async function startDaemon(): Promise<void> {
  await driver.check(
    [
      `setsid ${DAEMON_COMMAND} --xen native --log-format json </dev/null >>/tmp/xenvifd.log 2>&1 &`,
      'echo $! >/tmp/xenvifd.pid',
      `until tail -n 1 /tmp/xenvifd.log | grep -q '"msg":"ready"'; do`,
      'kill -0 $(cat /tmp/xenvifd.pid) || { cat /tmp/xenvifd.log; exit 1; }',
      'sleep 0.2',
      'done',
    ].join('\n'),
  );
}

async function attach(guest: Guest, { address, mac }: typeof VIFS.left | typeof VIFS.right) {
  await lab.check(`xl network-attach ${guest.name} mac=${mac} backend=${DRIVER} script=vif-xenvif`);
  await guest.check(
    [
      'until [ -e /sys/class/net/eth1 ]; do sleep 0.1; done',
      `ip address add ${address}/24 dev eth1`,
      'ip link set eth1 up',
    ].join('; '),
  );
}

async function backendOf(guest: Guest): Promise<string> {
  return `/local/domain/${await driver.domid()}/backend/vif/${await guest.domid()}/1`;
}

beforeAll(async () => {
  const machine = await servedMachine();
  ({ lab } = machine);
  ({ left, right } = machine.pair);
}, PREPARATION_MS);
afterAll(async () => {
  if (driver === undefined) return;
  const log = await driver.run('cat /tmp/xenvifd.log');
  writeFileSync(join(logDir, 'xenvifd.log'), log.stdout);
  await driver.destroy();
});

describe('xenvifd in a driver domain', () => {
  test(
    'starts where there is no vif yet',
    async () => {
      driver = await lab.createGuest({
        ...daemonFiles(),
        name: DRIVER,
        memoryMiB: DRIVER_MIB,
        config: ['driver_domain = 1'],
      });
      await driver.check('until [ -e /dev/xen/gntdev ]; do sleep 0.1; done');
      await driver.check('mount -t xenfs xenfs /proc/xen');
      await startDaemon();
    },
    patienceMs(3),
  );

  test(
    'serves vifs that xl makes, also after it was killed, and they carry frames',
    async () => {
      await attach(left, VIFS.left);
      await attach(right, VIFS.right);
      const backend = await backendOf(left);
      expect(await lab.check(`xenstore-read ${backend}/hotplug-status`)).toBe('connected\n');
      expect(await lab.check(`xl network-list ${LEFT.name}`)).toContain(VIFS.left.mac);
      const ping = `ping -c 3 -i 0.2 -W 90 ${VIFS.right.address}`;
      expect(await left.check(ping)).toContain('3 packets received');
      await serveIperf(right);
      const { megabitsPerSecond } = await tcp(left, VIFS.right.address, { megabytes: 2 });
      console.log(`through the driver domain: ${megabitsPerSecond} Mb/s of TCP`);
      await driver.check('kill -9 $(cat /tmp/xenvifd.pid)');
      await startDaemon();
      expect(await left.check(ping)).toContain('3 packets received');
    },
    patienceMs(3),
  );

  test(
    'takes the directories of vifs away that xl detaches, while libxl waits',
    async () => {
      for (const [guest, who] of [
        [left, LEFT],
        [right, RIGHT],
      ] as const) {
        const backend = await backendOf(guest);
        const start = performance.now();
        await lab.check(`xl network-detach ${who.name} 1`);
        const took = performance.now() - start;
        await guest.check('while [ -e /sys/class/net/eth1 ]; do sleep 0.1; done');
        console.log(`${who.name} detached in ${(took / 1000).toFixed(1)} s`);
        expect(took).toBeLessThan(2 * LIBXL_WAIT_MS);
        expect((await lab.run(`xenstore-exists ${backend}`)).code).not.toBe(0);
        expect(await lab.check(`xl network-list ${who.name}`)).not.toContain('00:16:3e:00:02');
      }
    },
    patienceMs(2),
  );
});
