/**
 * A daemon that is killed, stopped or replaced under traffic on real Xen, and guests that do not notice:
 * no state of XenBus is written, no carrier changes, no line is logged, TCP goes on.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { Arrivals } from './arrivals.js';
import { sleep } from './deferred.js';
import type { Dom0Process } from './dom0-port.js';
import type { Guest } from './guest.js';
import { serveIperf } from './iperf.js';
import type { Lab } from './lab.js';
import { Pinging } from './pinging.js';
import { logFolder, RIGHT, servedMachine } from './shared-machine.js';
import { PREPARATION_MS, patienceMs, rounds } from './soak.js';
import type { Holdings, Xenvifd } from './xenvifd.js';

const logDir = logFolder('orchestration-death');
const KILLS = rounds(3, 20);
const KILL_INTERVAL_MS = 5000;
const KILL_PING_S = 0.05;
const UPGRADES = rounds(2, 5);
const UPGRADE_PING_S = 0.5;
/** How long the daemon's time is stopped, once each. */
const PAUSES_S = rounds([5], [5, 90]);
/** Longer than anything between two pings that is not a gap. */
const GAP_S = 0.5;
/** How long a stream may wait for its next attempt when the daemon is back: as long as that was away. */
const STREAM_MS = 60_000;
/** Slots of a TX ring, and of how many rings a ping and its answer pass. */
const IN_FLIGHT_MAX = 256;

let lab: Lab;
let daemon: Xenvifd;
let left: Guest;
let right: Guest;

/** What no death of a daemon may change, and a TCP stream that runs all the while. */
class Bystander {
  readonly #watches: Dom0Process;
  readonly #quiet: readonly string[];
  readonly #holdings: Holdings;

  private constructor(watches: Dom0Process, quiet: readonly string[], holdings: Holdings) {
    this.#watches = watches;
    this.#quiet = quiet;
    this.#holdings = holdings;
  }

  static async start(): Promise<Bystander> {
    const holdings = await daemon.holdings();
    const domids = [await left.domid(), await right.domid()];
    const nodes = domids.flatMap((domid) => [
      `/local/domain/${domid}/device/vif/0/state`,
      `/local/domain/0/backend/vif/${domid}/0/state`,
    ]);
    const watches = lab.spawn(`exec xenstore-watch ${nodes.join(' ')}`);
    await left.check(
      `rm -f /tmp/stream.code; (iperf3 -c ${RIGHT.address} -b 200K -l 4K -t 3600 </dev/null >/tmp/stream 2>&1; echo $? >/tmp/stream.code) & sleep 2`,
    );
    return new Bystander(watches, await quiet(), holdings);
  }

  /** Ends the stream, and looks whether anything is not as it was. */
  async finish(): Promise<void> {
    expect(await left.check('cat /tmp/stream.code 2>/dev/null || echo runs')).toBe('runs\n');
    const sent = 'grep ^Tcp: /proc/net/snmp | tail -n 1 | cut -d" " -f12';
    const before = Number(await left.check(sent));
    // TCP that had no answer for a while tries again after twice as long, and the stream goes on then.
    await expect
      .poll(async () => Number(await left.check(sent)), { interval: 1000, timeout: STREAM_MS })
      .toBeGreaterThan(before);
    expect(await quiet()).toEqual(this.#quiet);
    await left.check('busybox killall iperf3');
    this.#watches.kill();
    // Each node's state as it was at first, and nothing since.
    expect(this.#watches.stdout().trim().split('\n')).toHaveLength(4);
    const { residentMiB: _, ...held } = this.#holdings;
    await expect.poll(() => daemon.holdings(), { timeout: 30_000 }).toMatchObject(held);
  }
}

/**
 * Of both guests: changes of carrier, connections that were reset, and what the kernel has logged of
 * the interface. Of processors that had to wait, which a busy machine makes it log, it may say more; and
 * of buffers that come back empty, where a daemon died while it filled them (answer-recovery.ts).
 */
async function quiet(): Promise<string[]> {
  const resets = 'grep ^Tcp: /proc/net/snmp | tail -n 1 | cut -d" " -f9';
  const log =
    "dmesg | grep -iE 'eth0|vif|xenbus|netfront|carrier|link' | grep -v 'rx->offset' || true";
  const command = `cat /sys/class/net/eth0/carrier_changes; ${resets}; ${log}`;
  return await Promise.all([left.check(command), right.check(command)]);
}

async function portsOfDom0(): Promise<number> {
  return Number(await lab.check('/usr/lib/xen-4.*/bin/lsevtchn 0 | grep -c Interdomain'));
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

/** A busy machine makes gaps of its own. */
function longest(gaps: readonly number[], count: number): number[] {
  return [...gaps].sort((a, b) => b - a).slice(0, count);
}

function shown(seconds: readonly number[]): string {
  return `p50 ${median(seconds).toFixed(2)} s, max ${Math.max(...seconds).toFixed(2)} s`;
}

beforeAll(async () => {
  const machine = await servedMachine();
  ({ lab, daemon } = machine);
  ({ left, right } = machine.pair);
  await serveIperf(right);
}, PREPARATION_MS);
afterAll(async () => {
  daemon?.saveLog(join(logDir, 'xenvifd.log'));
  for (const guest of [left, right]) {
    const { stdout } = (await guest?.run('dmesg')) ?? {};
    if (stdout !== undefined) writeFileSync(join(logDir, `dmesg-${guest.name}.log`), stdout);
  }
});
afterEach(async () => {
  // Whatever a test that failed has left in the guests would be in the next one's account.
  await Promise.all([
    left.run('busybox killall iperf3 ping tcpdump'),
    right.run('busybox killall tcpdump'),
  ]);
  expect(daemon.running).toBe(true);
});

describe('guests do not notice', () => {
  test(
    `that the daemon is killed ${KILLS} times, ${KILL_INTERVAL_MS / 1000} s apart`,
    async () => {
      const ports = await portsOfDom0();
      const name = `vifs/${await left.domid()}.0`;
      const bystander = await Bystander.start();
      const [requests, replies] = await Promise.all([
        Arrivals.listen(right, 'request'),
        Arrivals.listen(left, 'reply'),
      ]);
      const pinging = await Pinging.start(left, RIGHT.address, KILL_PING_S);
      let counted = 0;
      for (let round = 0; round < KILLS; round += 1) {
        await sleep(KILL_INTERVAL_MS);
        const { tx } = await daemon.stats(name);
        // Counters go on from where they were a second before the kill.
        expect(tx.packets).toBeGreaterThan(counted);
        counted = tx.packets;
        await daemon.kill();
        await daemon.restart();
      }
      await sleep(1000);
      const { sent, answered } = await pinging.end();
      const there = await requests.account(GAP_S);
      const back = await replies.account(GAP_S);
      console.log(
        `${KILLS} kills: gap ${shown(longest(there.gaps, KILLS))}; ${sent} pings, ${there.total} arrived, ` +
          `${there.duplicates} of them twice, ${back.duplicates} answers twice, ${answered} answers counted`,
      );
      expect(there.gaps.length).toBeGreaterThanOrEqual(KILLS);
      expect(there.duplicates).toBeLessThanOrEqual(KILLS * IN_FLIGHT_MAX);
      expect(back.duplicates - there.duplicates).toBeLessThanOrEqual(KILLS * IN_FLIGHT_MAX);
      await bystander.finish();
      expect(await portsOfDom0()).toBe(ports);
    },
    patienceMs(KILLS),
  );

  test(
    `that it is replaced ${UPGRADES} times, and no ping is lost`,
    async () => {
      const bystander = await Bystander.start();
      const requests = await Arrivals.listen(right, 'request');
      const pinging = await Pinging.start(left, RIGHT.address, UPGRADE_PING_S);
      for (let round = 0; round < UPGRADES; round += 1) {
        await sleep(1000);
        await daemon.stop();
        await daemon.restart();
      }
      await sleep(1000);
      const { sent, answered } = await pinging.end();
      const { duplicates, gaps, total } = await requests.account(GAP_S);
      console.log(
        `${UPGRADES} upgrades: gap ${shown(longest(gaps, UPGRADES))}; ${sent} pings, ${total} arrived, ${duplicates} of them twice, ${answered} answers`,
      );
      expect(answered).toBe(sent);
      expect(total).toBeGreaterThanOrEqual(sent);
      expect(duplicates).toBeLessThanOrEqual(UPGRADES * IN_FLIGHT_MAX);
      await bystander.finish();
    },
    patienceMs(UPGRADES),
  );

  test(
    `that its time stands still for ${PAUSES_S.join(' and ')} s, and no ping is lost`,
    async () => {
      const bystander = await Bystander.start();
      const pinging = await Pinging.start(left, RIGHT.address);
      for (const seconds of PAUSES_S) {
        await sleep(1000);
        daemon.pause();
        await sleep(seconds * 1000);
        daemon.resume();
      }
      await sleep(1000);
      const { sent, answered } = await pinging.end();
      console.log(`time stood still: ${sent} pings, ${answered} answers`);
      expect(answered).toBe(sent);
      await bystander.finish();
    },
    patienceMs(PAUSES_S.length),
  );
});
