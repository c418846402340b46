/**
 * What a guest's TCP makes to dom0 and back on real Xen: through xenvifd's netback, its default switch
 * and a TAP, and then, the same guest and the same programs, through the kernel's own netback and a
 * bridge. Emulation makes all of it slow, but both alike: the rates and their ratio are printed, and
 * kept beside the logs. It fails where bytes do not arrive, not where they are slow: what else works on
 * the machine takes ten times as much of it as the paths differ.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Guest } from './guest.js';
import { serveIperf, type TcpFigures, tcp } from './iperf.js';
import type { Lab } from './lab.js';
import type { Peer } from './peer.js';
import { LEFT, logFolder, type Pair, servedMachine } from './shared-machine.js';
import { PREPARATION_MS, patienceMs, rounds } from './soak.js';
import type { Xenvifd } from './xenvifd.js';

const logDir = logFolder('throughput');
const TAP = 'bulk0';
const BRIDGE = 'xenbr0';
/** dom0's address, on the TAP and then on the bridge. */
const HOST = '10.0.0.254';
/** Of one measurement. Bytes and not seconds, in which a busy machine may carry next to nothing. */
const MEGABYTES = rounds(16, 64);
/**
 * What goes before it each way: TCP's start, and code that is not compiled yet. Emulation makes the
 * compiler slow too: after 1 MB the daemon has a third of the rate that it has after 16.
 */
const WARM_UP_MEGABYTES = 16;
const ROUNDS = 3;
const PATIENCE_MS = 120_000;

const DIRECTIONS = ['guest to host', 'host to guest'] as const;
type Rates = Record<(typeof DIRECTIONS)[number], TcpFigures[]>;

let lab: Lab;
let daemon: Xenvifd;
let guest: Guest;
let ours: Rates;
let kernels: Rates;

/** Some rounds of one measurement each way, between the guest and whatever has dom0's address. */
async function measure(): Promise<Rates> {
  const rates: Rates = { 'guest to host': [], 'host to guest': [] };
  for (const reverse of [false, true]) {
    await tcp(guest, HOST, { megabytes: WARM_UP_MEGABYTES, reverse });
  }
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const direction of DIRECTIONS) {
      const reverse = direction === 'host to guest';
      rates[direction].push(await tcp(guest, HOST, { megabytes: MEGABYTES, reverse }));
    }
  }
  return rates;
}

/** In Mbit/s. */
function median(figures: readonly TcpFigures[]): number {
  const sorted = figures.map((each) => each.bitsPerSecond / 1e6).sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? Number.NaN;
}

/** All bytes went through in each round, at some rate. */
function expectFlow(rates: Rates): void {
  for (const direction of DIRECTIONS) {
    for (const { bytes } of rates[direction]) {
      expect(bytes, direction).toBeGreaterThanOrEqual(MEGABYTES * 1e6);
    }
    expect(median(rates[direction]), direction).toBeGreaterThan(0);
  }
}

/** Waits until the guest's interface is there and the host answers through it. */
async function expectHost(): Promise<void> {
  await guest.check('until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done');
  await guest.check(
    `ip address replace ${LEFT.address}/24 dev eth0 && ip link set eth0 mtu 1500 up`,
  );
  const pinged = `ping -c 1 -W 2 ${HOST} >/dev/null`;
  await guest.check(`until ${pinged}; do sleep 0.2; done`, { timeoutMs: PATIENCE_MS });
}

beforeAll(async () => {
  let pair: Pair;
  ({ lab, daemon, pair } = await servedMachine());
  guest = pair.left;
  // The kernel's netback would take up the interface of whoever else is there.
  await pair.right.destroy();
  const dom0: Peer = { name: 'dom0', check: (command, options) => lab.check(command, options) };
  await serveIperf(dom0);
}, PREPARATION_MS);
afterAll(async () => {
  await lab?.check('busybox killall iperf3; true');
  await lab?.check('xl network-detach left 0; true', { timeoutMs: PATIENCE_MS });
  daemon?.saveLog(join(logDir, 'xenvifd.log'));
});

describe('bulk TCP between a guest and its host on real Xen', () => {
  test(
    'goes through xenvifd and a TAP of its switch',
    async () => {
      await daemon.createTap('default', { interface: TAP });
      await lab.check(`ip address add ${HOST}/24 dev ${TAP}`);
      await expectHost();
      const name = `vifs/${await guest.domid()}.0`;
      const before = await daemon.stats(name);
      ours = await measure();
      const { tx, rx } = await daemon.stats(name);
      // Both kernels leave segments whole where they can: more than an MTU a frame says so.
      const mean = (now: typeof tx, then: typeof tx): number =>
        Number(now.bytes - then.bytes) / Number(now.packets - then.packets);
      console.log(
        `bytes a frame: ${mean(tx, before.tx).toFixed(0)} from the guest, ` +
          `${mean(rx, before.rx).toFixed(0)} to it, acknowledgements among them`,
      );
      expectFlow(ours);
    },
    patienceMs(ROUNDS * MEGABYTES, 8_000),
  );

  test(
    'goes through the kernel’s netback and a bridge, and the two rates are compared',
    async () => {
      await daemon.deletePort(`default/${TAP}`);
      await lab.check(`xl network-detach ${LEFT.name} 0`, { timeoutMs: PATIENCE_MS });
      await daemon.stop();
      await lab.loadKernelNetback({ bridge: BRIDGE, address: `${HOST}/24` });
      await lab.check(
        `xl network-attach ${LEFT.name} mac=${LEFT.mac} script=${lab.dom0Share}/vif-connected.sh ` +
          `bridge=${BRIDGE}`,
        { timeoutMs: PATIENCE_MS },
      );
      await expectHost();
      kernels = await measure();
      const lines = DIRECTIONS.map((direction) => {
        const [mine, theirs] = [median(ours[direction]), median(kernels[direction])];
        return (
          `TCP, ${direction}: xenvifd and TAP ${mine.toFixed(1)} Mbit/s, kernel's netback and bridge ` +
          `${theirs.toFixed(1)} Mbit/s, ratio ${(mine / theirs).toFixed(2)}`
        );
      });
      console.log(lines.join('\n'));
      writeFileSync(join(logDir, 'ratios.txt'), `${lines.join('\n')}\n`);
      expectFlow(kernels);
    },
    patienceMs(ROUNDS * MEGABYTES, 8_000),
  );
});
