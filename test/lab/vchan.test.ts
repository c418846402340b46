/**
 * Our vchan against Debian's libxenvchan on real Xen, in dom0 with itself and between dom0 and a guest:
 * bytes both ways at once in every shape of ring, either side closing or dying, vchan-socket-proxy as the
 * peer, a thousand opens and closes, an unprivileged program that talks to one in the guest, and how fast
 * it is beside C.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { findCheckout, labFolder } from './assets.js';
import type { Guest } from './guest.js';
import type { Lab } from './lab.js';
import { logFolder, servedMachine } from './shared-machine.js';
import { PREPARATION_MS, patienceMs, rounds } from './soak.js';

const checkout = findCheckout();
const logDir = logFolder('vchan');
const XENCAT = `node ${checkout}/dist/xencat.js --xen native`;
const XENVIF = `node ${checkout}/clients/cli/bin/xenvif.js`;
const NOBODY = 'setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/tmp';
/** What goes each way in one exchange, in MiB. */
const MIB = rounds(2, 256);
const BYTES = MIB * 1024 * 1024;
const OPENS = rounds(50, 1000);
const RATE_SECONDS = rounds(3, 10);
/** 0 lies in the shared page. */
const RINGS = [0, 4096, 65_536] as const;
/** How soon a death is an end of stream, in milliseconds. */
const DEATH_MS = 2000;
const LIMIT_MS = patienceMs(2);

let lab: Lab;
let guest: Guest;
let guestDomid: number;
let peer: string;
let opens: string;
const notes: string[] = [];

function note(text: string): void {
  notes.push(text);
  process.stdout.write(`${text}\n`);
}

/** Builds the C program, which dom0 and the guest find at the same path as here. */
function buildPeer(): string {
  const folder = join(checkout, 'node_modules', '.cache', 'xenvif');
  mkdirSync(folder, { recursive: true });
  const program = join(folder, 'vchan-peer');
  const source = join(labFolder(), 'vchan', 'vchan-peer.c');
  const flags = ['-O2', '-Wall', '-Wextra', '-Werror'];
  execFileSync('gcc', [...flags, '-o', program, source, '-lxenvchan']);
  return program;
}

function sumOfNoise(seed: number, bytes: number): string {
  const noise = execFileSync(peer, ['noise', String(seed), String(bytes)], {
    maxBuffer: bytes + 1024,
  });
  return createHash('sha256').update(noise).digest('hex');
}

interface Side {
  /** The command that talks over the vchan. */
  readonly command: string;
  /** What it sends. */
  readonly seed: number;
}

/** A shell line that sends noise, sums up what comes, and prints the sum and the exit code. */
function line({ command, seed }: Side, bytes: number): string {
  return (
    `${peer} noise ${seed} ${bytes} | ${command} | sha256sum | cut -d ' ' -f 1; ` +
    // busybox has no PIPESTATUS; an empty or a wrong sum tells of what failed.
    'true'
  );
}

/** Runs two ends in dom0 at once. Each must get what the other sends. */
async function exchangeInDom0(left: Side, right: Side, bytes = BYTES): Promise<number> {
  const start = performance.now();
  const [a, b] = await Promise.all(
    [left, right].map((side) => lab.run(line(side, bytes), { timeoutMs: LIMIT_MS })),
  );
  const seconds = (performance.now() - start) / 1000;
  expect(a?.stdout.trim(), a?.stderr).toBe(sumOfNoise(right.seed, bytes));
  expect(b?.stdout.trim(), b?.stderr).toBe(sumOfNoise(left.seed, bytes));
  return seconds;
}

/** A guest without a network that has the C program and what that needs of the kernel. */
async function createTalker(name: string): Promise<Guest> {
  const modules = ['xen-evtchn', 'xen-gntdev', 'xen-gntalloc'];
  const cmdline = 'lab.netfront=no';
  const made = await lab.createGuest({ name, programs: [peer], modules, cmdline });
  for (const module of modules) await made.check(`insmod /modules/${module}.ko`);
  return made;
}

const shown = (ring: number): string =>
  ring === 0 ? 'rings in the page' : `rings of ${ring} bytes`;

beforeAll(async () => {
  peer = buildPeer();
  const script = join(import.meta.dirname, 'build-dom0-tests.mjs');
  const files = execFileSync(process.execPath, [script], { encoding: 'utf8' }).trim().split('\n');
  opens = files.find((file) => basename(file) === 'vchan-opens.mjs') ?? '';
  ({ lab } = await servedMachine());
  guest = await createTalker('talker');
  guestDomid = await guest.domid();
}, PREPARATION_MS);

afterAll(async () => {
  if (notes.length > 0) writeFileSync(join(logDir, 'figures.txt'), `${notes.join('\n')}\n`);
  await lab?.run('xl destroy talker');
});

describe('both ways at once, with libxenvchan in dom0', () => {
  for (const ring of RINGS) {
    for (const ours of ['server', 'client'] as const) {
      test(`our ${ours}, ${shown(ring)}`, { timeout: patienceMs(4) }, async () => {
        const path = `/local/domain/0/data/vchan/0/${ours}${ring}`;
        const options = `ring=${ring} chunk=0 expect=${BYTES}`;
        const [own, other] =
          ours === 'server' ? [`-l --buffer-size ${ring || 1024}`, 'client'] : ['', 'server'];
        const seconds = await exchangeInDom0(
          { command: `${XENCAT} --stay ${own} 0 --path ${path}`, seed: 1 },
          { command: `${peer} ${other} 0 ${path} ${options}`, seed: 2 },
        );
        note(
          `${MIB} MiB each way, our ${ours}, ${shown(ring)}: ${seconds.toFixed(1)} s with all starts`,
        );
      });
    }
  }
});

describe('between dom0 and a guest', () => {
  for (const ours of ['server', 'client'] as const) {
    test(`our ${ours} in dom0, libxenvchan in the guest`, { timeout: patienceMs(4) }, async () => {
      const home = ours === 'server' ? 0 : guestDomid;
      const path = `/local/domain/${home}/data/vchan/${ours === 'server' ? guestDomid : 0}/far`;
      const [own, other] = ours === 'server' ? ['-l', 'client'] : ['', 'server'];
      const there = { command: `${peer} ${other} 0 ${path} ring=65536 expect=${BYTES}`, seed: 6 };
      const here = { command: `${XENCAT} --stay ${own} ${guestDomid} --path ${path}`, seed: 5 };
      const [a, b] = await Promise.all([
        lab.run(line(here, BYTES), { timeoutMs: LIMIT_MS }),
        guest.run(line(there, BYTES), { timeoutMs: LIMIT_MS }),
      ]);
      expect(a.stdout.trim(), a.stderr).toBe(sumOfNoise(there.seed, BYTES));
      expect(b.stdout.trim(), b.stderr).toBe(sumOfNoise(here.seed, BYTES));
    });
  }

  test('a program without privileges talks to one in the guest', {
    timeout: LIMIT_MS,
  }, async () => {
    const path = `/local/domain/0/data/vchan/${guestDomid}/talk`;
    const echo = guest.run(`${peer} client 0 ${path} echo=1`, { timeoutMs: LIMIT_MS });
    // It speaks, hears itself from the guest, and leaves when it has heard enough.
    const command =
      `(echo one; sleep 5; echo two; sleep 30) | ${NOBODY} ${XENVIF} --address 127.0.0.1:7637 ` +
      `vchan -l ${guestDomid} talk`;
    const { code, stderr, stdout } = await lab.run(command, { timeoutMs: LIMIT_MS });
    expect(code, stderr).toBe(0);
    expect(stdout).toBe('one\ntwo\n');
    expect((await echo).code).toBe(0);
  });

  test('the guest’s end of the world is an end of stream', { timeout: LIMIT_MS }, async () => {
    const doomed = await createTalker('doomed');
    const domid = await doomed.domid();
    const path = `/local/domain/0/data/vchan/${domid}/doomed`;
    const ours = lab.spawn(`exec ${XENCAT} --stay -l ${domid} --path ${path} </dev/null`);
    void doomed.run(`${peer} client 0 ${path} </dev/null`).catch(() => undefined);
    await said(() => ours.stderr(), 'Connected.');
    const start = performance.now();
    await lab.check('xl destroy doomed');
    expect((await ours.wait()).code).toBe(0);
    note(`xl destroy to the end of stream: ${Math.round(performance.now() - start)} ms`);
  });
});

describe('either side leaves', () => {
  for (const signal of ['TERM', 'KILL'] as const) {
    for (const ours of ['server', 'client'] as const) {
      for (const victim of ['ours', 'theirs'] as const) {
        const title = `SIG${signal} to ${victim === 'ours' ? `our ${ours}` : 'libxenvchan'}, we ${ours === 'server' ? 'serve' : 'connect'}`;
        test(title, { timeout: LIMIT_MS }, async () => {
          const path = `/local/domain/0/data/vchan/0/leave${signal}${ours}${victim}`;
          const [own, other] = ours === 'server' ? ['-l', 'client'] : ['', 'server'];
          const one = lab.spawn(`exec ${XENCAT} --stay ${own} 0 --path ${path} </dev/null`);
          const two = lab.spawn(`exec ${peer} ${other} 0 ${path} ring=4096 </dev/null`);
          await said(() => one.stderr(), 'Connected.');
          await said(() => two.stderr(), 'connected');
          const [dies, lives] = victim === 'ours' ? [one, two] : [two, one];
          const start = performance.now();
          await lab.check(`kill -${signal} ${await dies.pid()}`);
          expect((await lives.wait()).code).toBe(0);
          const ms = performance.now() - start;
          note(`${title}: end of stream after ${Math.round(ms)} ms`);
          expect(ms).toBeLessThan(DEATH_MS + 3000);
          await lab.run(`xenstore-rm ${path}`);
        });
      }
    }
  }
});

describe('other programs', () => {
  test('xencat to xencat copies a file, where Mirage looks', { timeout: LIMIT_MS }, async () => {
    await lab.check(`${peer} noise 7 3000000 > /tmp/foo`);
    const server = lab.run(`${XENCAT} -l 0 foo > /tmp/copy-of-foo`, { timeoutMs: LIMIT_MS });
    const client = await lab.run(`cat /tmp/foo | ${XENCAT} 0 foo`, { timeoutMs: LIMIT_MS });
    expect([client.code, (await server).code], client.stderr).toEqual([0, 0]);
    await lab.check('cmp /tmp/foo /tmp/copy-of-foo');
    expect((await lab.run('xenstore-exists /local/domain/0/data/vchan')).code).toBe(1);
  });

  for (const ours of ['server', 'client'] as const) {
    test(`vchan-socket-proxy as the peer of our ${ours}`, { timeout: LIMIT_MS }, async () => {
      const bytes = 300_000;
      const path = `/local/domain/0/data/vchan/0/proxy-${ours}`;
      const mode = ours === 'server' ? 'client' : 'server';
      const own = ours === 'server' ? '-l' : '';
      // Its stdin is open for both, and so never ends.
      const pipe = `/tmp/proxy-${ours}.in`;
      const proxy = lab.run(
        `mkfifo ${pipe}; vchan-socket-proxy --mode=${mode} 0 ${path} - <>${pipe} | sha256sum | cut -d ' ' -f 1`,
        { timeoutMs: LIMIT_MS },
      );
      const sender = await lab.run(`${peer} noise 8 ${bytes} | ${XENCAT} ${own} 0 --path ${path}`, {
        timeoutMs: LIMIT_MS,
      });
      expect(sender.code, sender.stderr).toBe(0);
      expect((await proxy).stdout.trim()).toBe(sumOfNoise(8, bytes));
    });
  }
});

test(`${OPENS} opens and closes leave nothing`, { timeout: patienceMs(4) }, async () => {
  const text = await lab.check(`node ${opens} ${OPENS} 65536`, { timeoutMs: patienceMs(3) });
  const { after, before, rounds: done, seconds } = JSON.parse(text);
  note(`${done} opens and closes: ${Number(seconds).toFixed(1)} s`);
  expect(after).toEqual(before);
});

test('how fast it is beside C', { timeout: patienceMs(6) }, async () => {
  const rates = new Map<string, number>();
  const path = '/local/domain/0/data/vchan/0/rate';
  const c = {
    sends: `${peer} server 0 ${path} ring=65536 send=${RATE_SECONDS}`,
    receives: `${peer} client 0 ${path} discard=1 </dev/null`,
  };
  const pairs = [
    ['C to C', c.sends, c.receives],
    ['C to ours', c.sends, `${XENCAT} --stay 0 --path ${path} </dev/null`],
    [
      'ours to C',
      `${peer} noise 9 2000000000 | ${XENCAT} -l --buffer-size 65536 0 --path ${path}`,
      `timeout ${RATE_SECONDS + 60} ${peer} client 0 ${path} discard=1 </dev/null`,
    ],
  ] as const;
  for (const [name, from, to] of pairs) {
    const sending = lab.run(`timeout ${RATE_SECONDS + 20} sh -c '${from}' 2>&1 >/dev/null`, {
      timeoutMs: LIMIT_MS,
    });
    const receiving = lab.run(`sh -c '${to}' 2>&1 >/dev/null`, { timeoutMs: LIMIT_MS });
    const said = `${(await sending).stdout} ${(await receiving).stdout}`;
    rates.set(name, Number(/rate ([\d.]+)/.exec(said)?.[1]));
    await lab.run(`xenstore-rm ${path}`);
  }
  const base = rates.get('C to C') ?? Number.NaN;
  for (const [name, rate] of rates) {
    note(`${name}: ${rate.toFixed(1)} MB/s, ${(rate / base).toFixed(2)} of C to C`);
    expect(rate).toBeGreaterThan(0);
  }
});

/** Waits until a process has said `text`. */
async function said(output: () => string, text: string): Promise<void> {
  for (let waited = 0; waited < LIMIT_MS; waited += 100) {
    if (output().includes(text)) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`"${text}" was not said: ${output()}`);
}
