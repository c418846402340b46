/**
 * One machine for all files of tests that do not break it: booting dom0, starting the daemon and
 * two guests takes longer than most of the tests do. The files run one after another in one
 * process; each asks for the machine as it needs it, and finds it put right, whatever the one before
 * has left. A machine that cannot be put right is replaced. Alone, each file works just the same.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { labFolder } from './assets.js';
import type { Guest } from './guest.js';
import { Lab } from './lab.js';
import { knowEachOther, PING } from './pinging.js';
import { rounds } from './soak.js';
import { Xenvifd } from './xenvifd.js';

export const LEFT = { name: 'left', address: '10.0.0.1', mac: '00:16:3e:00:00:01' } as const;
export const RIGHT = { name: 'right', address: '10.0.0.2', mac: '00:16:3e:00:00:02' } as const;

/**
 * Linux's netfront keeps the RX buffers of every interface that it has had, 1 MiB a queue, whatever
 * the backend: it ties a page pool to XDP when a queue connects (xdp_rxq_info_reg_mem_model) and
 * never unties it (xdp_rxq_info_unreg), so that the pool, which has its buffers back, is not freed.
 * Free memory of a guest of two queues, Linux 6.1, an interface attached and detached again: 2118 KiB
 * less a round behind our backend (12 rounds), 2054 KiB behind the kernel's own (5 rounds); no grant
 * was left behind. So 50 attaches need 100 MiB, and 20 restores and 20 reloads 80 MiB.
 */
const GUEST_MIB = rounds(192, 384);
const PROBE_MS = 20_000;
const UNLOAD_NETBACK =
  '[ ! -e /sys/module/xen_netback ] || { ip link del xenbr0; busybox rmmod xen_netback; }';

/** The two guests. A test that destroys one puts its successor here. */
export interface Pair {
  left: Guest;
  right: Guest;
}

export interface ServedMachine {
  readonly lab: Lab;
  readonly daemon: Xenvifd;
  readonly pair: Pair;
}

interface Machine {
  readonly lab: Lab;
  daemon?: Xenvifd;
  pair?: Pair | undefined;
}

let machine: Machine | undefined;

/** The folder for what a file of tests keeps; the machine's own logs are in `logs/shared`. */
export function logFolder(name: string): string {
  const folder = join(labFolder(), 'logs', name);
  mkdirSync(folder, { recursive: true });
  return folder;
}

/** dom0 with the daemon, and two guests on its default switch that know each other's address. */
export async function servedMachine(): Promise<ServedMachine> {
  const here = await intactMachine([LEFT.name, RIGHT.name]);
  const { lab } = here;
  if (here.daemon === undefined) here.daemon = await Xenvifd.start(lab);
  else if (!here.daemon.running) await here.daemon.restart();
  here.pair ??= await createPair(lab);
  const { daemon, pair } = here;
  await knowEachOther({ guest: pair.left, ...LEFT }, { guest: pair.right, ...RIGHT });
  return { lab, daemon, pair };
}

/** dom0 without the daemon, and without guests: the kernel's netback may be loaded. */
export async function bareMachine(): Promise<Lab> {
  const here = await intactMachine([]);
  if (here.daemon?.running === true) await here.daemon.stop();
  return here.lab;
}

/** A guest with two processors and all the tools that a test may want. */
export function createGuest(lab: Lab, who: typeof LEFT | typeof RIGHT): Promise<Guest> {
  return lab.createGuest({
    ...{ name: who.name, mac: who.mac, address: `${who.address}/24` },
    ...{ memoryMiB: GUEST_MIB, vcpus: 2, vif: 'mtu=9000' },
    programs: ['/usr/bin/iperf3', '/usr/sbin/ethtool', '/usr/bin/tcpdump', PING],
    modules: ['8021q'],
  });
}

async function createPair(lab: Lab): Promise<Pair> {
  const [left, right] = await Promise.all([createGuest(lab, LEFT), createGuest(lab, RIGHT)]);
  // The driver takes the toolstack's MTU as the interface's; the usual one is where tests start.
  for (const guest of [left, right]) {
    await guest.connected();
    await guest.check('ip link set eth0 mtu 1500');
  }
  return { left, right };
}

/** A machine that runs, with no domain but dom0 and those named, and no backend of the kernel's. */
async function intactMachine(keep: readonly string[]): Promise<Machine> {
  if (machine?.lab.running === true) {
    try {
      await putRight(machine, keep);
      return machine;
    } catch (fault) {
      console.log(`the shared machine is replaced: ${String(fault)}`);
      await machine.lab.shutdown();
    }
  }
  machine = { lab: await Lab.boot({ logDir: logFolder('shared') }) };
  return machine;
}

async function putRight(here: Machine, keep: readonly string[]): Promise<void> {
  const { lab, pair } = here;
  const isKept = pair !== undefined && keep.includes(LEFT.name) && (await isAlive(pair));
  if (!isKept) here.pair = undefined;
  const list = await lab.check('xl list');
  const names = list.trim().split('\n').slice(1);
  for (const name of names.map((line) => line.split(/\s+/)[0] ?? '')) {
    if (name === 'Domain-0' || (isKept && keep.includes(name))) continue;
    await lab.check(`xl destroy ${name}`);
  }
  await lab.check(UNLOAD_NETBACK);
}

async function isAlive({ left, right }: Pair): Promise<boolean> {
  const options = { timeoutMs: PROBE_MS };
  const answers = [left.run('true', options), right.run('true', options)];
  return (await Promise.allSettled(answers)).every(({ status }) => status === 'fulfilled');
}
