/**
 * Our vchan against Debian's libxenvchan on real Xen, in dom0 with itself: bytes both ways at once in
 * every shape of ring, with us as the server and as the client.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { findCheckout, labFolder } from './assets.js';
import type { Lab } from './lab.js';
import { logFolder, servedMachine } from './shared-machine.js';
import { PREPARATION_MS, patienceMs, rounds } from './soak.js';

const checkout = findCheckout();
const logDir = logFolder('vchan');
const XENCAT = `node ${checkout}/dist/xencat.js --xen native`;
/** What goes each way in one exchange, in MiB. */
const MIB = rounds(2, 256);
const BYTES = MIB * 1024 * 1024;
/** 0 lies in the shared page. */
const RINGS = [0, 4096, 65_536] as const;
const LIMIT_MS = patienceMs(2);

let lab: Lab;
let peer: string;
const notes: string[] = [];

function note(text: string): void {
  notes.push(text);
  process.stdout.write(`${text}\n`);
}

/** Builds the C program, which dom0 finds at the same path as here. */
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

const shown = (ring: number): string =>
  ring === 0 ? 'rings in the page' : `rings of ${ring} bytes`;

beforeAll(async () => {
  peer = buildPeer();
  ({ lab } = await servedMachine());
}, PREPARATION_MS);

afterAll(async () => {
  if (notes.length > 0) writeFileSync(join(logDir, 'figures.txt'), `${notes.join('\n')}\n`);
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
