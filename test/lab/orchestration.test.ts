/**
 * What an orchestration tool does on real Xen: vifs that an unprivileged client makes in a running guest
 * are xl's as well, and the other way round; and a daemon that is killed under traffic is one that the
 * guests do not miss.
 */
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { findCheckout } from './assets.js';
import { sleep } from './deferred.js';
import type { Guest } from './guest.js';
import { serveIperf, tcp } from './iperf.js';
import type { Lab } from './lab.js';
import { Pinging } from './pinging.js';
import { LEFT, logFolder, RIGHT, servedMachine } from './shared-machine.js';
import { PREPARATION_MS, patienceMs, rounds } from './soak.js';
import type { Xenvifd } from './xenvifd.js';

const logDir = logFolder('orchestration');
/** The second network: the guest's new interface, and an address more for its peer. */
const SECOND = { address: '10.0.1.1', peer: '10.0.1.2', mac: '00:16:3e:00:01:01' } as const;
const KILLS = rounds(3, 20);
const KILL_INTERVAL_MS = 5000;
const RATE_MEGABITS = 8;
const PATIENCE_MS = 120_000;
const POLL_MS = 100;

let lab: Lab;
let daemon: Xenvifd;
let web: Guest;
let peer: Guest;

/** `xenvif` as nobody, who may no more than connect to loopback. */
function commandAsNobody(...args: string[]): string {
  const program = join(findCheckout(), 'clients', 'cli', 'bin', 'xenvif.js');
  const words = [program, '--address', '127.0.0.1:7637', ...args].join(' ');
  return `setpriv --reuid=65534 --regid=65534 --clear-groups node ${words}`;
}

async function xenvif(...args: string[]): Promise<unknown> {
  const text = await lab.check(commandAsNobody(...args, '--json'), { timeoutMs: PATIENCE_MS });
  return JSON.parse(text);
}

/** The second interface of the guest is up and has an address, and both know each other. */
async function bringUpSecond(): Promise<void> {
  await web.check(
    [
      'until [ -e /sys/class/net/eth1 ]; do sleep 0.1; done',
      `ip address add ${SECOND.address}/24 dev eth1`,
      'ip link set eth1 up',
      `arp -i eth1 -s ${SECOND.peer} ${RIGHT.mac}`,
    ].join('; '),
  );
  await peer.check(
    `ip address add ${SECOND.peer}/24 dev eth0 2>/dev/null; arp -s ${SECOND.address} ${SECOND.mac}`,
  );
}

async function untilGone(): Promise<void> {
  await web.check('while [ -e /sys/class/net/eth1 ]; do sleep 0.1; done');
  expect(await lab.check(`xl network-list ${LEFT.name}`)).not.toContain(SECOND.mac);
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

beforeAll(async () => {
  const machine = await servedMachine();
  ({ lab, daemon } = machine);
  web = machine.pair.left;
  peer = machine.pair.right;
  await serveIperf(peer);
}, PREPARATION_MS);
afterAll(() => daemon?.saveLog(join(logDir, 'xenvifd.log')));
afterEach(() => {
  expect(daemon.running).toBe(true);
});

describe('vifs as a toolstack makes them', () => {
  test(
    'one that an unprivileged client makes carries frames, at its rate, is known to xl, and goes with xl',
    async () => {
      const domid = await web.domid();
      const watching = lab.spawn(commandAsNobody('watch', '--domid', String(domid), '--json'));
      const made = await xenvif('create', String(domid), '--mac', SECOND.mac, '--label', 'a=b');
      expect(made).toMatchObject({ name: `vifs/${domid}.1`, status: { phase: 'connected' } });
      expect(await lab.check(`xl network-list ${LEFT.name}`)).toContain(SECOND.mac);
      await bringUpSecond();
      const pinged = await web.check(`ping -c 3 -i 0.2 -W 20 ${SECOND.peer}`);
      expect(pinged).toContain('3 packets received');
      const free = await tcp(web, SECOND.peer, { megabytes: 4 });
      await xenvif('set', `${domid}.1`, '--rate', '1MB/s');
      const limited = await tcp(web, SECOND.peer, { megabytes: 10 });
      await xenvif('set', `${domid}.1`, '--no-rate');
      const freed = await tcp(web, SECOND.peer, { megabytes: 4 });
      console.log(
        `TCP: ${free.megabitsPerSecond} Mb/s, limited to 1 MB/s ${limited.megabitsPerSecond}, lifted ${freed.megabitsPerSecond}`,
      );
      // Whole megabits: within 10 %.
      expect(Math.abs(limited.megabitsPerSecond - RATE_MEGABITS)).toBeLessThanOrEqual(1);
      expect(freed.megabitsPerSecond).toBeGreaterThan(RATE_MEGABITS * 1.5);
      await lab.check(`xl network-detach ${LEFT.name} 1`);
      await untilGone();
      const deleted = `"type":"deleted","vif":{"name":"vifs/${domid}.1"`;
      for (let waited = 0; !watching.stdout().includes(deleted); waited += POLL_MS) {
        if (waited > PATIENCE_MS) throw new Error('The watcher was not told of the removal.');
        await sleep(POLL_MS);
      }
      watching.kill('SIGINT');
    },
    patienceMs(3),
  );

  test(
    'one that xl makes is served with its bridge and its rate, and goes with the client',
    async () => {
      const domid = await web.domid();
      await lab.check(
        `xl network-attach ${LEFT.name} mac=${SECOND.mac} bridge=second rate=2MB/s script=${lab.dom0Share}/vif-connected.sh`,
      );
      await daemon.waitForVif(`vifs/${domid}.1`, ['connected']);
      expect(await xenvif('get', `${domid}.1`)).toMatchObject({
        spec: {
          mac: SECOND.mac,
          switch: 'switches/second',
          rate: { bytesPerInterval: 100_000, intervalMs: 50 },
        },
      });
      await xenvif('set', `${domid}.1`, '--switch', 'default');
      await bringUpSecond();
      const pinged = await web.check(`ping -c 3 -i 0.2 -W 20 ${SECOND.peer}`);
      expect(pinged).toContain('3 packets received');
      await xenvif('rm', `${domid}.1`);
      await untilGone();
    },
    patienceMs(2),
  );
});

describe('a daemon that dies unseen', () => {
  test(
    `killed ${KILLS} times under a ping and a TCP stream, the guests stay connected`,
    async () => {
      const before = await daemon.holdings();
      const name = `vifs/${await web.domid()}.0`;
      const state = async () => {
        const domid = await web.domid();
        return (await lab.check(`xenstore-read /local/domain/${domid}/device/vif/0/state`)).trim();
      };
      const carrier = 'cat /sys/class/net/eth0/carrier_changes';
      const carrierBefore = await web.check(carrier);
      const kernelBefore = await web.check('dmesg | wc -l');
      const pinging = await Pinging.start(web, RIGHT.address, 0.05);
      const seconds = 30 + KILLS * 60;
      await web.check(
        `(iperf3 -c ${RIGHT.address} -b 2M -t ${seconds} </dev/null >/tmp/stream 2>&1; echo $? >/tmp/stream.code) & sleep 2`,
      );
      const gaps: number[] = [];
      for (let round = 0; round < KILLS; round += 1) {
        await sleep(KILL_INTERVAL_MS);
        const killed = performance.now();
        await lab.check("pkill -KILL -f 'main.js --xen native'");
        await daemon.restart();
        // Counters begin at zero: what is counted was forwarded by the new one.
        for (;;) {
          const stats = await daemon.stats(name).catch(() => undefined);
          if ((stats?.tx.packets ?? 0) > 0) break;
          if (performance.now() - killed > PATIENCE_MS) throw new Error('No frame after a kill.');
          await sleep(POLL_MS);
        }
        gaps.push((performance.now() - killed) / 1000);
        expect(await state()).toBe('4');
      }
      const { sent, answered } = await pinging.end();
      console.log(
        `${KILLS} kills: gap p50 ${median(gaps).toFixed(1)} s, max ${Math.max(...gaps).toFixed(1)} s; ` +
          `${sent} pings, ${answered} answers`,
      );
      expect(await web.check('[ -e /tmp/stream.code ] && cat /tmp/stream || echo running')).toBe(
        'running\n',
      );
      await web.check('busybox killall iperf3');
      expect(await web.check(carrier)).toBe(carrierBefore);
      expect(await web.check('dmesg | wc -l')).toBe(kernelBefore);
      const { residentMiB: _, ...held } = before;
      await daemon.vifs();
      expect(await daemon.holdings()).toMatchObject(held);
    },
    patienceMs(KILLS),
  );
});
