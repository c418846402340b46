/**
 * Suites that run in dom0, for their kernel and hypervisor are real there: the contracts of the seam
 * to Xen, and VLANs beside those of Linux. Each is bundled here and run by dom0's node.
 */
import { execFileSync } from 'node:child_process';
import { basename, join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import type { Lab } from './lab.js';
import { bareMachine } from './shared-machine.js';
import { PREPARATION_MS } from './soak.js';

const SUITE_MS = 240_000;

let lab: Lab;
let files: string[];

/** Runs a suite to its end; resolves with what it printed. */
async function runSuite(name: string): Promise<string> {
  const file = files.find((path) => basename(path) === `${name}.mjs`);
  const command = `node --test-reporter=tap --test ${file}`;
  const { code, stdout, stderr } = await lab.run(command, { timeoutMs: SUITE_MS });
  expect(code, stdout + stderr).toBe(0);
  return stdout;
}

beforeAll(async () => {
  const script = join(import.meta.dirname, 'build-dom0-tests.mjs');
  files = execFileSync(process.execPath, [script], { encoding: 'utf8' }).trim().split('\n');
  lab = await bareMachine();
  await lab.refreshFiles();
}, PREPARATION_MS);

test(
  'real Xen and the real xenstored pass the contract suites',
  async () => {
    await runSuite('xen-contract');
  },
  SUITE_MS + 10_000,
);

test(
  'VLANs of the switch are as those of Linux’s bridge, and its VLAN interfaces talk through it',
  async () => {
    await lab.loadModules(['bridge', '8021q', 'sch_ingress', 'cls_u32', 'act_mirred']);
    const report = await runSuite('bridge-vlans');
    expect(report).toMatch(/^# pass 6$/m);
    console.log(report.match(/trace \d: .*/g)?.join('\n'));
  },
  SUITE_MS + 10_000,
);
