/**
 * Our vchan against Debian's libxenvchan on real Xen, in dom0 with itself and between dom0 and a guest:
 * bytes both ways at once in every shape of ring, packets, either side closing or dying,
 * vchan-socket-proxy as the peer, xencat on both sides, open after open, a program without privileges
 * that talks to one in the guest, and how fast it is beside C.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { findCheckout } from './assets.js';
import { outputMatching, type RunResult } from './dom0-port.js';
import type { Lab } from './lab.js';
import { logFolder, servedMachine } from './shared-machine.js';
import { isSoak, PREPARATION_MS, patienceMs, rounds } from './soak.js';
import { packXencat } from './vchan/guest-xencat.js';
import { PEER, proxyProgram, sumOfNoise, VchanScene } from './vchan/scene.js';

const checkout = findCheckout();
const logDir = logFolder('vchan');
const XENCAT = `node ${checkout}/dist/xencat.js --xen native`;
const XENVIF = `node ${checkout}/clients/cli/bin/xenvif.js`;
const NOBODY = 'setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/tmp';
const MIB = 1024 * 1024;
/** The rings, 0 for those in the shared page, and how much goes each way in one exchange. */
const RINGS = [
  { ring: 0, bytes: rounds(1, 256) * MIB },
  { ring: 4096, bytes: rounds(2, 256) * MIB },
  { ring: 65_536, bytes: rounds(8, 256) * MIB },
] as const;
const OPENS = rounds(100, 1000);
/** Opens across the two domains; each is a process of the guest's. */
const FAR_OPENS = rounds(10, 1000);
const RATE_SECONDS = rounds(3, 10);
/**
 * How soon a death must be an end of stream, in milliseconds. The end of a process takes long where
 * several emulated machines share two processors: the soak has them for itself.
 */
const DEATH_MS = rounds(10_000, 2000);
const LIMIT_MS = isSoak ? 3_600_000 : patienceMs(1);

let lab: Lab;
let scene: VchanScene;
const notes: string[] = [];

function note(text: string): void {
  notes.push(text);
  process.stdout.write(`${text}\n`);
}

const shown = (ring: number): string =>
  ring === 0 ? 'rings in the page' : `rings of ${ring} bytes`;
const rate = (bytes: number, seconds: number): string =>
  `${seconds.toFixed(1)} s, ${(bytes / seconds / 1e6).toFixed(2)} MB/s`;

beforeAll(async () => {
  ({ lab } = await servedMachine());
  scene = await VchanScene.open(lab, LIMIT_MS);
}, PREPARATION_MS);

afterAll(async () => {
  if (notes.length > 0) writeFileSync(join(logDir, 'figures.txt'), `${notes.join('\n')}\n`);
  await scene?.close();
});

describe.each(['dom0', 'the guest'] as const)(
  'both ways at once, with libxenvchan in %s',
  (where) => {
    for (const { bytes, ring } of RINGS) {
      for (const ours of ['server', 'client'] as const) {
        test(`our ${ours}, ${shown(ring)}`, { timeout: LIMIT_MS }, async () => {
          const { asPeer, name } = await scene.ourEnd(ours, where, ring);
          // Each role is the one that leaves with some rings, and the one that is left with others.
          const leaves = (ours === 'server') !== (ring === 4096);
          const options = `chunk=0${leaves ? '' : ` expect=${bytes}`}`;
          const seed = ring + (ours === 'server' ? 1 : 2);
          const command = `${PEER} noise ${seed} ${bytes} | ${PEER} ${asPeer} ${options} | sha256sum`;
          const [mine, theirs] = await Promise.all([
            scene.ends.exchange(name, { seed, bytes, leaves }),
            scene.run(where, command),
          ]);
          expect(theirs.stderr).toContain(`closed after ${bytes} received and ${bytes} sent`);
          expect(theirs.stdout.slice(0, 64)).toBe(mine.sent);
          expect(mine.received).toBe(sumOfNoise(seed, bytes));
          const idle = /(\d+) times idle/.exec(theirs.stderr)?.[1];
          const took = `${rate(bytes, mine.seconds)}, C idle for 0.2 s ${idle} times`;
          note(`${bytes / MIB} MiB each way, our ${ours}, ${shown(ring)}, C in ${where}: ${took}`);
        });
      }
    }

    test('packets of libxenvchan_send and libxenvchan_recv', { timeout: LIMIT_MS }, async () => {
      const bytes = 1_000_000;
      const { asPeer, name } = await scene.ourEnd('server', where, 0);
      const command = `${PEER} noise 3 ${bytes} | ${PEER} ${asPeer} packets=1 expect=${bytes} | sha256sum`;
      const [mine, theirs] = await Promise.all([
        scene.ends.exchange(name, { seed: 4, bytes, leaves: false }),
        scene.run(where, command),
      ]);
      expect(theirs.stdout.slice(0, 64), theirs.stderr).toBe(mine.sent);
      expect(mine.received).toBe(sumOfNoise(3, bytes));
    });

    for (const ours of ['server', 'client'] as const) {
      test(`vchan-socket-proxy as the peer of our ${ours}`, { timeout: LIMIT_MS }, async () => {
        const bytes = 300_000;
        const { name } = await scene.ourEnd(ours, where, 4096);
        const mode = ours === 'server' ? 'client' : 'server';
        const file = `/tmp/proxy-${ours}`;
        // Its input has no end, for that would be its own, whatever is still on its way.
        const input = `mkfifo ${file}.in; (${PEER} noise 8 ${bytes}; sleep 600) >${file}.in 2>/dev/null &`;
        const program = `${proxyProgram()} --mode=${mode} 0 ${name} -`;
        const proxy = scene.run(where, `${input} ${program} <${file}.in >${file}.out; true`);
        const mine = await scene.ends.exchange(name, { seed: 9, bytes, leaves: true });
        const through = `until [ "$(stat -c %s ${file}.out)" -ge ${bytes} ]; do sleep 0.2; done`;
        // One that serves goes on to wait for the next.
        const kill = 'kill $(busybox pidof vchan-socket-proxy) 2>/dev/null';
        const theirs = await scene.run(where, `${through}; ${kill}; sha256sum <${file}.out`);
        await proxy;
        expect(theirs.stdout.slice(0, 64), theirs.stderr).toBe(mine.sent);
        expect(mine.received).toBe(sumOfNoise(8, bytes));
      });
    }
  },
);

describe('a death by SIGKILL is an end of stream', () => {
  for (const where of ['dom0', 'the guest'] as const) {
    for (const ours of ['server', 'client'] as const) {
      test(`libxenvchan’s in ${where}, our ${ours}`, { timeout: LIMIT_MS }, async () => {
        const { asPeer, name } = await scene.ourEnd(ours, where, 4096);
        const dead = scene.run(where, `${PEER} ${asPeer} </dev/null; true`);
        dead.catch(() => undefined);
        await scene.ends.opened(name);
        const seen = scene.ends.gone(name);
        const told = Date.now();
        const killed = await scene.run(
          where,
          'victim=$(busybox pidof vchan-peer); echo $EPOCHREALTIME; kill -9 $victim',
        );
        const end = await seen;
        // The guest has a clock of its own; there it is ours, with the way there and back.
        const ms = where === 'dom0' ? end - Number(killed.stdout) * 1000 : Date.now() - told;
        note(`SIGKILL to C in ${where}, our ${ours}: end of stream after ${Math.round(ms)} ms`);
        if (where === 'dom0') expect(ms).toBeLessThan(DEATH_MS);
        await dead;
      });
    }
  }

  for (const ours of ['server', 'client'] as const) {
    test(`our ${ours}’s`, { timeout: LIMIT_MS }, async () => {
      const path = scene.place('dom0', 'dom0');
      const [listen, role] = ours === 'server' ? ['-l', 'client'] : ['', 'server'];
      const one = lab.spawn(`exec ${XENCAT} --stay ${listen} 0 --path ${path} </dev/null`);
      const two = lab.spawn(`${PEER} ${role} 0 ${path} </dev/null`);
      await Promise.all([outputMatching(one, /Connected/), outputMatching(two, /connected/)]);
      const killed = await lab.check(`echo $EPOCHREALTIME; kill -9 ${await one.pid()}`);
      const { code, stderr } = await two.wait();
      expect(code).toBe(0);
      const ms = Number(/^end (\d+)$/m.exec(stderr)?.[1]) - Number(killed) * 1000;
      note(`SIGKILL to our ${ours}: libxenvchan's end of stream after ${Math.round(ms)} ms`);
      expect(ms).toBeLessThan(DEATH_MS);
      await lab.run(`xenstore-rm ${path}`);
    });
  }
});

describe('xencat in both domains', () => {
  const bytes = 3_000_000;
  let xencatThere: string;

  beforeAll(async () => {
    const { archive, archiveBytes, command } = await packXencat();
    await lab.refreshFiles();
    xencatThere = command;
    const path = scene.place('dom0', 'the guest');
    const takes = `${PEER} client 0 ${path} expect=${archiveBytes} </dev/null | tar -C / -xf -`;
    const start = performance.now();
    const [sent, taken] = await Promise.all([
      scene.run('dom0', `${PEER} server ${scene.guestDomid} ${path} ring=1048576 < ${archive}`),
      scene.run('the guest', takes),
    ]);
    expect([sent.code, taken.code], sent.stderr + taken.stderr).toEqual([0, 0]);
    const seconds = (performance.now() - start) / 1000;
    note(`node into the guest by libxenvchan: ${rate(archiveBytes, seconds)}`);
  }, LIMIT_MS);

  test('cat foo | xencat in the guest is copy-of-foo in dom0', { timeout: LIMIT_MS }, async () => {
    await scene.guest.check(`${PEER} noise 7 ${bytes} > /tmp/foo`);
    const received = scene.run('dom0', `${XENCAT} -l ${scene.guestDomid} foo > /tmp/copy-of-foo`);
    const sent = await scene.run('the guest', `cat /tmp/foo | ${xencatThere} 0 foo`);
    const { code, stderr } = await received;
    expect([sent.code, code], sent.stderr + stderr).toEqual([0, 0]);
    const sum = await lab.check('sha256sum < /tmp/copy-of-foo');
    expect(sum.slice(0, 64)).toBe(sumOfNoise(7, bytes));
    const home = `/local/domain/0/data/vchan/${scene.guestDomid}`;
    expect((await lab.run(`xenstore-exists ${home}/foo`)).code).toBe(1);
  });

  test('and in dom0 it is one in the guest', { timeout: LIMIT_MS }, async () => {
    const received = scene.run('the guest', `${xencatThere} -l 0 foo | sha256sum`);
    const command = `${PEER} noise 8 ${bytes} | ${XENCAT} ${scene.guestDomid} foo`;
    const sent = await scene.run('dom0', command);
    expect(sent.code, sent.stderr).toBe(0);
    expect((await received).stdout.slice(0, 64)).toBe(sumOfNoise(8, bytes));
  });
});

test('a program without privileges talks to one in the guest', { timeout: LIMIT_MS }, async () => {
  const program = lab.spawn(
    `exec ${NOBODY} ${XENVIF} --address 127.0.0.1:7637 vchan -l ${scene.guestDomid} talk`,
  );
  await outputMatching(program, /Listening/);
  const path = `/local/domain/0/data/vchan/${scene.guestDomid}/talk`;
  const echo = scene.guest.run(`${PEER} client 0 ${path} echo=1`, { timeoutMs: LIMIT_MS });
  for (const word of ['one', 'two', 'three']) {
    program.write(`${word}\n`);
    // It hears itself from the guest before it goes on.
    await outputMatching(program, new RegExp(`^${word}$`, 'm'));
  }
  program.endInput();
  expect(await program.wait()).toMatchObject({ code: 0, stdout: 'one\ntwo\nthree\n' });
  expect((await echo).code).toBe(0);
});

test(`${OPENS} opens and closes in dom0, ${FAR_OPENS} from the guest, leave nothing`, {
  timeout: LIMIT_MS,
}, async () => {
  // What is opened once and kept is there after the first.
  await scene.ends.opens(1, 65_536);
  const before = await scene.ends.holdings();
  const { seconds } = await scene.ends.opens(OPENS, 65_536);
  const path = scene.place('dom0', 'the guest');
  await scene.ends.startEchoes(path, FAR_OPENS, {
    domid: scene.guestDomid,
    path,
    ringBytes: 65_536,
  });
  const once = `echo -n x | ${PEER} client 0 ${path} expect=1 2>/dev/null`;
  const there = await scene.guest.run(`for i in $(seq ${FAR_OPENS}); do ${once}; done`, {
    timeoutMs: LIMIT_MS,
  });
  expect(there.stdout).toBe('x'.repeat(FAR_OPENS));
  expect(await scene.ends.echoed(path)).toBe(FAR_OPENS);
  expect(await scene.ends.holdings()).toEqual(before);
  note(`${OPENS} opens and closes: ${seconds.toFixed(1)} s; ${JSON.stringify(before)}`);
});

describe.each(['dom0', 'the guest'] as const)('how fast it is beside C in %s', (where) => {
  test('as a ratio to C and C', { timeout: LIMIT_MS }, async () => {
    const sends = `send=${RATE_SECONDS} </dev/null 2>&1 >/dev/null`;
    const takes = 'discard=1 </dev/null 2>&1 >/dev/null';
    const rateOf = ({ stdout }: RunResult) => Number(/rate ([\d.]+)/.exec(stdout)?.[1]);
    const path = scene.place(where, where);
    const [both] = await Promise.all([
      scene.run(where, `${PEER} server 0 ${path} ring=65536 ${sends}`),
      scene.run('dom0', `${PEER} client ${scene.domidOf(where)} ${path} ${takes}`),
    ]);
    const c = rateOf(both);
    const from = await scene.ourEnd('client', where, 65_536);
    const [taken] = await Promise.all([
      scene.ends.takeRate(from.name),
      scene.run(where, `${PEER} ${from.asPeer} ${sends}`),
    ]);
    const to = await scene.ourEnd('server', where, 65_536);
    const [sent] = await Promise.all([
      scene.ends.sendRate(to.name, RATE_SECONDS),
      scene.run(where, `${PEER} ${to.asPeer} ${takes}`),
    ]);
    const ratio = (ours: number) => `${ours.toFixed(1)} MB/s, ${(ours / c).toFixed(2)} of that`;
    note(`C to C, dom0 and ${where}: ${c.toFixed(1)} MB/s`);
    note(`C to ours: ${ratio(taken)}`);
    note(`ours to C: ${ratio(sent)}`);
    expect(Math.min(c, taken, sent)).toBeGreaterThan(0);
  });
});

test('the end of the guest’s world is an end of stream', { timeout: LIMIT_MS }, async () => {
  const { asPeer, name } = await scene.ourEnd('server', 'the guest', 4096);
  scene.guest.run(`${PEER} ${asPeer} </dev/null`).catch(() => undefined);
  await scene.ends.opened(name);
  const seen = scene.ends.gone(name);
  const destroyed = await lab.check(`xl destroy ${scene.guest.name}; date +%s%3N`);
  const ms = (await seen) - Number(destroyed);
  note(`xl destroy was through ${-ms} ms after the end of stream`);
  expect(ms).toBeLessThan(DEATH_MS);
});
