/**
 * Guests that break the protocol, on real Xen: a program in a guest without a driver plays the
 * frontend and does what no honest one does, while two honest guests ping each other beside it. Each
 * case ends as it must: the packet is answered with an error, the connect is refused, or the vif is
 * stopped for a reason that is told; then the frontend starts anew and is served again. The daemon
 * lives, and not one ping is lost.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { findCheckout, labFolder } from './assets.js';
import type { Guest } from './guest.js';
import type { Lab } from './lab.js';
import { Pinging } from './pinging.js';
import { RIGHT as FAR, logFolder, type Pair, servedMachine } from './shared-machine.js';
import { PREPARATION_MS } from './soak.js';
import type { Holdings, Xenvifd } from './xenvifd.js';

const logDir = logFolder('hostile');
const HUB = 'hub0';
const NO_REF = 4_000_000;
const OKAY = 0;
const ERROR = -1;
const NULL = 1;
const DROPPED = -2;
/** Multicast addresses that a guest may have frames for. */
const MULTICAST_ADDRESSES = 64;
const CONNECTED = 4;
const CLOSING = 5;
/** Slots of a ring of one page. */
const RING = 256;

interface Answer {
  readonly id: number;
  readonly status: number;
}

/** What the program in the guest saw. */
interface Report {
  readonly tx: readonly Answer[];
  readonly rx: readonly Answer[];
  readonly ctrl: readonly Answer[];
  readonly backend: number;
}

/** The vif is stopped, the reason is told, and nothing but a new start brings it back. */
interface KillCase {
  readonly title: string;
  readonly words: string;
  readonly reason: string;
}

/** The vif goes on; these are the statuses of the answers, in ring order. */
interface AnswerCase {
  readonly title: string;
  readonly words: string;
  readonly tx: readonly number[];
  /** What the frame is counted as. */
  readonly drop?: string;
}

const KILLS: readonly KillCase[] = [
  {
    title: 'case 1: req_prod past the ring',
    words: `txprod:${RING + 1} settle`,
    reason: 'RING_OVERFLOW',
  },
  {
    title: 'case 2: req_prod that goes backwards',
    words: 'tx:repeat=3 push settle txprod:-2 settle',
    reason: 'RING_OVERFLOW',
  },
  {
    title: 'case 5: a head that crosses its page',
    words: 'tx:size=200,offset=4000 push settle',
    reason: 'HEAD_CROSSES_PAGE',
  },
  {
    title: 'case 6: a fragment that crosses its page',
    words: 'tx:size=300,more tx:size=200,offset=4000 push settle',
    reason: 'FRAGMENT_CROSSES_PAGE',
  },
  {
    title: 'case 11: forty fragments',
    words: 'tx:size=1000,more tx:size=10,more,repeat=39 tx:size=10 push settle',
    reason: 'CHAIN_TOO_LONG',
  },
  {
    title: 'case 14: a chain that goes on past the last request',
    words: 'tx:size=100,more push settle',
    reason: 'CHAIN_TRUNCATED',
  },
  {
    title: 'case 15: an extra that is announced and not there',
    words: 'tx:size=100,extra push settle',
    reason: 'EXTRA_MISSING',
  },
  {
    title: 'case 16: an extra of type 0',
    words: 'tx:size=100,extra extra:type=0 push settle',
    reason: 'EXTRA_TYPE_INVALID',
  },
  {
    title: 'case 16: an extra of a type that there is not',
    words: 'tx:size=100,extra extra:type=200 push settle',
    reason: 'EXTRA_TYPE_INVALID',
  },
  {
    title: 'case 17: a ring full of extras that never end',
    words: `tx:size=100,extra extra:more,repeat=${RING - 1} push settle`,
    reason: 'EXTRA_MISSING',
  },
  {
    title: 'case 19: segmentation into pieces of 0 bytes',
    words: 'tx:size=100,extra extra:size=0 push settle',
    reason: 'GSO_INVALID',
  },
  {
    title: 'case 19: segmentation of a type that there is not',
    words: 'tx:size=100,extra extra:gso=9 push settle',
    reason: 'GSO_INVALID',
  },
  {
    title: 'case 31: more RX buffers than the ring has room for',
    words: `rxprod:${RING + 1} settle`,
    reason: 'RING_OVERFLOW',
  },
];

const ANSWERS: readonly AnswerCase[] = [
  {
    title: 'case 4: a frontend that writes rsp_prod changes nothing',
    words: 'txrsp:77 tx:repeat=3 push settle',
    tx: [OKAY, OKAY, OKAY],
  },
  {
    title: 'case 7: a frame shorter than its header is answered with an error',
    words: 'tx:size=13 tx:size=60 push settle',
    tx: [ERROR, OKAY],
    drop: 'TOO_SHORT',
  },
  {
    title: 'case 8: fragments of no bytes are fine, and their references not looked at',
    words: `tx:size=60,more tx:size=0,gref=${NO_REF},more tx:size=0,gref=${NO_REF} push settle`,
    tx: [OKAY, OKAY, OKAY],
  },
  {
    title: 'case 9: fragments that are longer than the whole are answered with an error',
    words: 'tx:size=100,more tx:size=80,more tx:size=80 tx:size=60 push settle',
    tx: [ERROR, ERROR, ERROR, OKAY],
    drop: 'FRAGMENTS_EXCEED_TOTAL',
  },
  {
    title: 'case 10: nineteen fragments are answered with an error',
    words: 'tx:size=1000,more tx:size=10,more,repeat=18 tx:size=10 push settle',
    tx: new Array<number>(20).fill(ERROR),
    drop: 'TOO_MANY_FRAGMENTS',
  },
  {
    title: 'case 12: eighteen fragments of a small frame are forwarded',
    words: 'tx:size=120,more tx:size=5,more,repeat=17 tx:size=5 push settle',
    tx: new Array<number>(19).fill(OKAY),
  },
  {
    title: 'case 20: one multicast address too many is answered with an error',
    words: `${addressWords(MULTICAST_ADDRESSES + 1)} tx push settle`,
    tx: [
      ...Array.from({ length: MULTICAST_ADDRESSES }, () => [OKAY, NULL]).flat(),
      ...[ERROR, NULL, OKAY],
    ],
    drop: 'MULTICAST_LIST_FULL',
  },
  {
    title: 'case 21: a blank checksum in a frame that has no place for one is dropped',
    words: 'tx:blank tx push settle',
    tx: [DROPPED, OKAY],
    drop: 'CHECKSUM_OFFSET_INVALID',
  },
  {
    title: 'case 22: a reference that is none is answered with an error',
    words: `tx:gref=${NO_REF} tx:size=60 push settle`,
    tx: [ERROR, OKAY],
    drop: 'BAD_GRANT',
  },
  {
    title: 'case 23: a fault in the middle of a chain takes the whole chain, once',
    words: `tx:size=160,more tx:size=50,gref=${NO_REF},more tx:size=50 tx:size=60 push settle`,
    tx: [ERROR, ERROR, ERROR, OKAY],
    drop: 'BAD_GRANT',
  },
  {
    title: 'case 24: one reference in every slot of the ring is legal',
    words: `tx:repeat=${RING} push settle`,
    tx: new Array<number>(RING).fill(OKAY),
  },
  {
    title: 'case 33: a storm of events costs nobody else anything',
    words: 'storm:20000 tx push settle storm:20000 tx push settle',
    tx: [OKAY, OKAY],
  },
  {
    title: 'case 38: states that are none are not heeded',
    words: "state:99 state: 'state:4 x' state:-1 tx push settle",
    tx: [OKAY],
  },
];

const REFUSALS: readonly KillCase[] = [
  { title: 'case 39: no queues', words: 'multi-queue-num-queues=0', reason: 'QUEUES_INVALID' },
  {
    title: 'case 39: 2^32 queues',
    words: 'multi-queue-num-queues=4294967296',
    reason: 'QUEUES_INVALID',
  },
  {
    title: 'case 39: very many queues',
    words: 'multi-queue-num-queues=1000',
    reason: 'QUEUES_INVALID',
  },
  {
    title: 'case 40: a reference that is missing',
    words: 'tx-ring-ref=',
    reason: 'FRONTEND_KEY_MISSING',
  },
  {
    title: 'case 40: a port that is missing',
    words: 'event-channel-rx=',
    reason: 'FRONTEND_KEY_MISSING',
  },
  {
    title: 'case 40: a reference below zero',
    words: 'tx-ring-ref=-1',
    reason: 'FRONTEND_KEY_INVALID',
  },
  {
    title: 'case 40: a reference in hexadecimal',
    words: 'rx-ring-ref=0x10',
    reason: 'FRONTEND_KEY_INVALID',
  },
  {
    title: 'case 40: a reference past 2^32',
    words: 'rx-ring-ref=4294967296',
    reason: 'FRONTEND_KEY_INVALID',
  },
  {
    title: 'case 40: a reference of fifteen hundred digits',
    words: `tx-ring-ref=${'1'.repeat(1500)}`,
    reason: 'FRONTEND_KEY_INVALID',
  },
  { title: 'case 41: both rings in one page', words: 'tx-ring-ref=@rx', reason: 'RING_REFS_EQUAL' },
  {
    title: 'case 40: a ring that is not granted',
    words: `tx-ring-ref=${NO_REF}`,
    reason: 'GRANT_FAILED',
  },
  {
    title: 'case 42: a port that is closed',
    words: 'event-channel-tx=1000',
    reason: 'EVENT_CHANNEL_FAILED',
  },
  {
    title: 'case 42: a port that is bound to XenStore',
    words: 'event-channel-rx=1',
    reason: 'EVENT_CHANNEL_FAILED',
  },
  { title: 'no copying for RX', words: 'request-rx-copy=', reason: 'RX_COPY_REQUIRED' },
];

let lab: Lab;
let daemon: Xenvifd;
let near: Guest;
let far: Guest;
let hostile: Guest;
let pinging: Pinging;
let vif: string;
/** The backend's directory of that vif in XenStore. */
let directory: string;
let atFirst: Holdings;

/** Requests that add so many multicast addresses, each another. */
function addressWords(count: number): string {
  return Array.from({ length: count }, (_, at) => `tx:extra extra:type=2,address=${at}`).join(' ');
}

/** Cases as rows for test.each, whose titles are cut where they are taken out of an object. */
function titled<T extends { readonly title: string }>(cases: readonly T[]): [string, T][] {
  return cases.map((one) => [one.title, one]);
}

/** Builds the program for a guest that has no libraries. */
function buildProgram(): string {
  const folder = join(findCheckout(), 'node_modules', '.cache', 'xenvif');
  mkdirSync(folder, { recursive: true });
  const program = join(folder, 'hostile-guest');
  const source = join(labFolder(), 'hostile', 'hostile-guest.c');
  execFileSync('gcc', ['-static', '-O2', '-Wall', '-Wextra', '-Werror', '-o', program, source]);
  return program;
}

/** Runs the program with these words, from its connect to its close. */
async function play(words: string): Promise<Report> {
  const text = await hostile.check(`/hostile-guest ${words}`);
  const answers = (ring: string) =>
    (new RegExp(`^${ring}(.*)$`, 'm').exec(text)?.[1] ?? '')
      .trim()
      .split(' ')
      .filter((word) => word !== '')
      .map((word) => {
        const [id = Number.NaN, status = Number.NaN] = word.split(':').map(Number);
        return { id, status };
      });
  expect(text).toMatch(/^closed$/m);
  return {
    tx: answers('tx'),
    rx: answers('rx'),
    ctrl: answers('ctrl'),
    backend: Number(/^backend (\d+)$/m.exec(text)?.[1]),
  };
}

async function drops(direction: 'tx' | 'rx', cause: string): Promise<number> {
  const stats = await daemon.stats(vif);
  return stats[direction].drops.find((drop) => drop.cause === cause)?.packets ?? 0;
}

/** The vif stands still, and says why: to clients, and in XenStore to the toolstack. */
async function expectStopped(reason: string): Promise<void> {
  const stopped = await daemon.waitForVif(vif, ['failed']);
  expect(stopped.reason).toBe(reason);
  const error = await lab.check(`xenstore-read ${directory}/error`);
  expect(error.trim()).toBe(`${reason}: ${stopped.message}`);
}

beforeAll(async () => {
  const program = buildProgram();
  let pair: Pair;
  ({ lab, daemon, pair } = await servedMachine());
  ({ left: near, right: far } = pair);
  const honest = await Promise.all(
    [near, far].map(async (guest) => `vifs/${await guest.domid()}.0`),
  );
  // On a hub the hostile guest hears what the others say, and so has something to receive.
  await daemon.createSwitch(HUB, { hub: true });
  for (const name of honest) await daemon.moveVif(name, HUB);
  hostile = await lab.createGuest({
    ...{ name: 'hostile', mac: '00:16:3e:66:66:66', vif: `bridge=${HUB}`, memoryMiB: 128 },
    cmdline: 'lab.netfront=no',
    modules: ['xen-evtchn', 'xen-gntalloc'],
    files: { '/hostile-guest': program },
  });
  await hostile.check('insmod /modules/xen-evtchn.ko; insmod /modules/xen-gntalloc.ko');
  const domid = await hostile.domid();
  vif = `vifs/${domid}.0`;
  directory = `/local/domain/0/backend/vif/${domid}/0`;
  pinging = await Pinging.start(near, FAR.address);
  atFirst = await daemon.holdings();
}, PREPARATION_MS);
afterAll(async () => {
  if (daemon === undefined) return;
  daemon.saveLog(join(logDir, 'xenvifd.log'));
  // The hostile guest's too, where a test that failed has left it.
  for (const { name } of await daemon.vifs()) await daemon.moveVif(name, 'default');
  await daemon.deleteSwitch(HUB);
});

describe('hostile guests on real Xen', () => {
  test('the program is an honest frontend when it wants to be', async () => {
    const { tx, rx, backend } = await play('rx:repeat=8 tx:repeat=5 push settle');
    expect(tx.map(({ status }) => status)).toEqual([OKAY, OKAY, OKAY, OKAY, OKAY]);
    expect(tx.map(({ id }) => id)).toEqual([0, 1, 2, 3, 4]);
    // The hub gives it what the others say to each other.
    expect(rx).toHaveLength(8);
    expect(Math.min(...rx.map(({ status }) => status))).toBeGreaterThanOrEqual(14);
    expect(backend).toBe(CONNECTED);
  });

  test.each(titled(KILLS))('%s: the vif is stopped', async (_, { words, reason }) => {
    const { backend } = await play(words);
    expect(backend).toBe(CLOSING);
    await expectStopped(reason);
  });

  test.each(titled(ANSWERS))('%s', async (_, { words, tx: expected, drop }) => {
    const before = drop === undefined ? 0 : await drops('tx', drop);
    const { tx, backend } = await play(words);
    expect(tx.map(({ status }) => status)).toEqual(expected);
    expect(backend).toBe(CONNECTED);
    if (drop !== undefined) expect(await drops('tx', drop)).toBe(before + 1);
  });

  test('case 18: an extra is answered with NULL', async () => {
    const { tx } = await play('tx:extra extra:type=4 tx push settle');
    expect(tx.map(({ status }) => status)).toEqual([OKAY, NULL, OKAY]);
  });

  test('case 25: ids that come twice come back twice', async () => {
    const { tx } = await play('tx:id=65535,repeat=3 tx:id=7,repeat=2 push settle');
    expect(tx.map(({ id }) => id)).toEqual([65535, 65535, 65535, 7, 7]);
  });

  test('case 35: control requests that ask for too much are refused, each by its code', async () => {
    const [success, notSupported, invalid, overflow] = [0, 1, 2, 3];
    const [setFlags, setKey, setMappingSize, setMapping, setAlgorithm] = [2, 3, 5, 6, 7];
    const requests: readonly (readonly [string, number])[] = [
      [`type=${setAlgorithm},a=1`, success],
      [`type=${setAlgorithm},a=77`, invalid],
      [`type=${setFlags},a=4294967295`, invalid],
      [`type=${setKey},a=@tx,b=40`, success],
      [`type=${setKey},a=@tx,b=41`, overflow],
      [`type=${setKey},a=${NO_REF},b=40`, invalid],
      [`type=${setMappingSize},a=4294967295`, invalid],
      [`type=${setMappingSize},a=2`, success],
      [`type=${setMapping},a=@ctrl,b=1000`, overflow],
      [`type=${setMapping},a=@ctrl,b=2,c=4294967295`, invalid],
      ['type=99', notSupported],
    ];
    const keys = 'ctrl-ring-ref=@ctrl event-channel-ctrl=@port';
    const words = requests.map(([fields]) => `ctrl:${fields}`).join(' ');
    const { ctrl, tx, backend } = await play(`${keys} ${words} tx push settle`);
    expect(ctrl).toEqual(requests.map(([, status], id) => ({ id, status })));
    expect(tx.map(({ status }) => status)).toEqual([OKAY]);
    expect(backend).toBe(CONNECTED);
  });

  test('case 30: an RX buffer that is none is answered with an error', async () => {
    const before = await drops('rx', 'BAD_GRANT');
    const { rx, backend } = await play(`rx:gref=${NO_REF},repeat=4 push settle`);
    expect(rx.map(({ status }) => status)).toEqual([ERROR, ERROR, ERROR, ERROR]);
    expect(backend).toBe(CONNECTED);
    expect(await drops('rx', 'BAD_GRANT')).toBe(before + 4);
  });

  test.each(titled(REFUSALS))('%s: the connect is refused', async (_, { words, reason }) => {
    const { tx, backend } = await play(words);
    expect(tx).toEqual([]);
    expect(backend).toBe(CLOSING);
    await expectStopped(reason);
  });

  test('case 37: a frontend whose state flaps is served when it has calmed down', async () => {
    await play('flap:200');
    const { tx, backend } = await play('tx push settle');
    expect(tx.map(({ status }) => status)).toEqual([OKAY]);
    expect(backend).toBe(CONNECTED);
  });

  test('case 36: a guest that is destroyed after it was stopped leaves nothing', async () => {
    await play(`txprod:${RING + 1} settle`);
    await hostile.destroy();
    const names = (await daemon.vifs()).map(({ name }) => name);
    expect(names).not.toContain(vif);
    expect(await lab.check('xl list')).not.toContain('hostile');
  });

  test('the daemon lived through all of it, holds what it held, and no ping was lost', async () => {
    const { sent, answered } = await pinging.end();
    const { residentMiB, ...held } = await daemon.holdings();
    console.log(
      `${KILLS.length + ANSWERS.length + REFUSALS.length + 7} cases beside ${sent} pings, ` +
        `${answered} answered; memory ${atFirst.residentMiB} -> ${residentMiB} MiB`,
    );
    expect(answered).toBe(sent);
    expect(daemon.running).toBe(true);
    const { mappings, ports, descriptors } = atFirst;
    expect(held).toEqual({ mappings, ports, descriptors });
  });
});
