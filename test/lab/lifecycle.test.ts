/**
 * What a vif goes through in its life, again and again, on real Xen: its guest is rebooted, saved
 * and restored, destroyed under load, its driver is unloaded; vifs come and go in a running guest,
 * and the daemon itself is replaced. Each time frames flow in the end, no domain is left as a
 * zombie, and the daemon holds neither a page nor a port nor a descriptor more than before.
 */
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { sleep } from './deferred.js';
import type { Guest } from './guest.js';
import { serveIperf } from './iperf.js';
import type { Lab } from './lab.js';
import { knowEachOther, Pinging } from './pinging.js';
import { createGuest, LEFT, logFolder, type Pair, RIGHT, servedMachine } from './shared-machine.js';
import { PREPARATION_MS, patienceMs, rounds } from './soak.js';
import type { Holdings, Xenvifd } from './xenvifd.js';

const logDir = logFolder('lifecycle');
/** The one that is rebooted, moved and destroyed, and the one that stays. */
const MOVER = LEFT;
const ANCHOR = RIGHT;
const REBOOTS = rounds(2, 20);
const SAVES = rounds(2, 20);
const ATTACHES = rounds(5, 50);
const RELOADS = rounds(1, 20);
const RESTARTS = rounds(1, 10);
/** Longer than anything here takes, even where emulation has little of the machine. */
const PATIENCE_MS = 120_000;
/** A domain's memory goes page by page, and each page is emulated work. */
const DOMAIN_GONE_MS = 15_000;
/** A running node's memory breathes: this is far less than a leak of frames' memory would be. */
const RESIDENT_GROWTH_MIB = 48;

let lab: Lab;
let daemon: Xenvifd;
let mover: Guest;
let anchor: Guest;
let pair: Pair;

/** Waits until a domain of the name has another id than it had. */
async function waitForNewDomid(guest: Guest, old: number): Promise<void> {
  for (let waited = 0; waited < PATIENCE_MS; waited += 500) {
    const now = await guest.domid().catch(() => old);
    if (now !== old) return;
    await sleep(500);
  }
  throw new Error(`${guest.name} has not come back.`);
}

/** Frames flow both ways between the two guests. */
async function expectTraffic(): Promise<void> {
  await knowEachOther({ guest: mover, ...MOVER }, { guest: anchor, ...ANCHOR });
  const pinged = await mover.check(`ping -c 3 -i 0.2 -W 20 ${ANCHOR.address}`);
  expect(pinged).toContain('3 packets received');
}

/** The domains that Xen has, and nothing that is dying among them. */
async function expectNoZombie(): Promise<void> {
  const list = await lab.check('xl list');
  const names = list
    .trim()
    .split('\n')
    .slice(1)
    .map((line) => line.split(/\s+/)[0]);
  expect(names.sort()).toEqual(['Domain-0', ANCHOR.name, MOVER.name].sort());
}

async function domainState(guest: Guest): Promise<string> {
  const domid = await guest.domid();
  return (await lab.check(`xenstore-read /local/domain/${domid}/device/vif/0/state`)).trim();
}

/**
 * Waits out what is still on its way, then compares. Descriptors may be fewer: a daemon keeps /dev/xen/gntalloc
 * open once it has granted a page, and the next one has not yet.
 */
async function expectHeldAsBefore(before: Holdings, what: string): Promise<void> {
  const { descriptors, mappings, ports, residentMiB } = before;
  const isAsBefore = (now: Holdings): boolean =>
    now.mappings === mappings && now.ports === ports && now.descriptors <= descriptors;
  let after = await daemon.holdings();
  for (let attempt = 0; attempt < 10 && !isAsBefore(after); attempt += 1) {
    await sleep(500);
    after = await daemon.holdings();
  }
  const growth = after.residentMiB - residentMiB;
  console.log(
    `${what}: ${after.mappings} mappings, ${after.ports} ports, ${after.descriptors} descriptors ` +
      `as before; memory ${residentMiB} -> ${after.residentMiB} MiB`,
  );
  expect(after).toMatchObject({ mappings, ports });
  expect(after.descriptors).toBeLessThanOrEqual(descriptors);
  expect(growth).toBeLessThan(RESIDENT_GROWTH_MIB);
}

function seconds(sinceMs: number): string {
  return `${((performance.now() - sinceMs) / 1000).toFixed(1)} s`;
}

beforeAll(async () => {
  ({ lab, daemon, pair } = await servedMachine());
  ({ left: mover, right: anchor } = pair);
  await expectTraffic();
}, PREPARATION_MS);
afterAll(() => daemon?.saveLog(join(logDir, 'xenvifd.log')));
afterEach(() => {
  expect(daemon.running).toBe(true);
});

describe('the life of vifs on real Xen', () => {
  test(
    'a guest that reboots is connected again',
    async () => {
      const before = await daemon.holdings();
      const start = performance.now();
      for (let round = 0; round < REBOOTS; round += 1) {
        const domid = await mover.domid();
        await lab.check(`xl reboot ${MOVER.name}`);
        await waitForNewDomid(mover, domid);
        await mover.ready();
        await expectTraffic();
      }
      await expectNoZombie();
      await expectHeldAsBefore(before, `${REBOOTS} reboots in ${seconds(start)}`);
    },
    patienceMs(REBOOTS),
  );

  test(
    'a guest that is saved and restored goes on where it was',
    async () => {
      const before = await daemon.holdings();
      const start = performance.now();
      await mover.check('echo kept >/tmp/memory');
      for (let round = 0; round < SAVES; round += 1) {
        await lab.check(`xl save ${MOVER.name} /tmp/mover.save`, { timeoutMs: PATIENCE_MS });
        await lab.check('xl restore /tmp/mover.save && rm /tmp/mover.save', {
          timeoutMs: PATIENCE_MS,
        });
        await mover.ready();
        await expectTraffic();
      }
      expect(await mover.check('cat /tmp/memory')).toBe('kept\n');
      await expectNoZombie();
      await expectHeldAsBefore(before, `${SAVES} saves and restores in ${seconds(start)}`);
    },
    patienceMs(SAVES),
  );

  test(
    'vifs that are attached to a running guest carry frames, and leave nothing when detached',
    async () => {
      const before = await daemon.holdings();
      const start = performance.now();
      const domid = await anchor.domid();
      for (let round = 0; round < ATTACHES; round += 1) {
        await lab.check(
          `xl network-attach ${ANCHOR.name} mac=00:16:3e:00:01:01 script=${lab.dom0Share}/vif-connected.sh`,
        );
        await daemon.waitForVif(`vifs/${domid}.1`, ['connected']);
        const received = await anchor.check(
          [
            'until [ -e /sys/class/net/eth1 ]; do sleep 0.1; done',
            'ip link set eth1 up',
            // The hub gives eth1 what the other guest's broadcasts, and those of eth0, say.
            'arping -q -c 1 -w 5 -I eth0 10.0.0.77',
            'for try in 1 2 3 4 5 6 7 8 9; do grep -q "eth1: *0 " /proc/net/dev || break; sleep 0.2; done',
            'cat /sys/class/net/eth1/statistics/rx_packets',
          ].join('; '),
        );
        expect(Number(received)).toBeGreaterThan(0);
        await lab.check(`xl network-detach ${ANCHOR.name} 1`);
        await anchor.check('while [ -e /sys/class/net/eth1 ]; do sleep 0.1; done');
      }
      expect(await lab.check(`xl network-list ${ANCHOR.name}`)).not.toContain('00:16:3e:00:01:01');
      const names = (await daemon.vifs()).map(({ name }) => name);
      expect(names).not.toContain(`vifs/${domid}.1`);
      await expectTraffic();
      await expectHeldAsBefore(before, `${ATTACHES} attaches and detaches in ${seconds(start)}`);
    },
    patienceMs(ATTACHES),
  );

  test(
    'a driver that is unloaded and loaded again connects anew',
    async () => {
      const before = await daemon.holdings();
      const start = performance.now();
      const name = `vifs/${await mover.domid()}.0`;
      for (let round = 0; round < RELOADS; round += 1) {
        await mover.check('echo vif-0 >/sys/bus/xen/drivers/vif/unbind; rmmod xen_netfront');
        const gone = await daemon.waitForVif(name, ['disconnected']);
        expect(gone).toMatchObject({ backendState: 'closed', frontendState: 'closed' });
        await mover.check(
          [
            'insmod /modules/xen-netfront.ko',
            'until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done',
            `ip address add ${MOVER.address}/24 dev eth0`,
            'ip link set eth0 up',
          ].join('; '),
        );
        await expectTraffic();
      }
      await expectHeldAsBefore(before, `${RELOADS} reloads of the driver in ${seconds(start)}`);
    },
    patienceMs(RELOADS),
  );

  test(
    'the daemon is replaced under a ping, and no ping is lost',
    async () => {
      const before = await daemon.holdings();
      const carrier = 'cat /sys/class/net/eth0/carrier_changes';
      const carrierBefore = await mover.check(carrier);
      // Slow enough for the ring to hold what comes while nobody listens.
      const pinging = await Pinging.start(mover, ANCHOR.address, 0.5);
      const gaps: string[] = [];
      for (let round = 0; round < RESTARTS; round += 1) {
        await sleep(1000);
        await daemon.stop();
        const stopped = performance.now();
        await daemon.restart();
        gaps.push(seconds(stopped));
      }
      await sleep(1000);
      const { sent, answered } = await pinging.end();
      console.log(`${sent} pings, ${answered} answers over gaps of ${gaps.join(', ')}`);
      expect(answered).toBe(sent);
      expect(sent).toBeGreaterThan(10);
      expect(await mover.check(carrier)).toBe(carrierBefore);
      expect(await domainState(mover)).toBe('4');
      expect(daemon.log()).toContain('"adopted":true');
      await daemon.waitForVif(`vifs/${await mover.domid()}.0`, ['connected']);
      await expectHeldAsBefore(before, `${RESTARTS} restarts of the daemon`);
    },
    patienceMs(RESTARTS),
  );

  test('a guest that is destroyed under load is gone at once, and its pages are free', async () => {
    const before = await daemon.holdings();
    await serveIperf(anchor);
    await mover.check(
      `(iperf3 -c ${ANCHOR.address} -t 60 </dev/null >/tmp/iperf 2>&1 &) ; sleep 3`,
    );
    const name = `vifs/${await mover.domid()}.0`;
    const loaded = await daemon.stats(name);
    expect(loaded.tx.packets).toBeGreaterThan(100);
    const start = performance.now();
    await lab.check(`xl destroy ${MOVER.name}`);
    await mover.gone(DOMAIN_GONE_MS);
    console.log(`destroyed under load: nothing left after ${seconds(start)}`);
    expect((await daemon.vifs()).map((vif) => vif.name)).not.toContain(name);
    mover = await createGuest(lab, MOVER);
    pair.left = mover;
    await expectTraffic();
    await expectNoZombie();
    await expectHeldAsBefore(before, 'a guest destroyed and made again');
  });
});
