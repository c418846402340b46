/** Real Xen keeps the contracts that emulated Xen keeps; see dom0/xen-contract.node-test.ts. */
import { execFileSync } from 'node:child_process';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Lab } from './lab.js';

let lab: Lab;
let files: string[];

beforeAll(async () => {
  const script = join(import.meta.dirname, 'build-dom0-tests.mjs');
  files = execFileSync(process.execPath, [script], { encoding: 'utf8' }).trim().split('\n');
  lab = await Lab.boot({ logDir: join(import.meta.dirname, 'logs', 'xen-contract') });
});

afterAll(async () => {
  await lab?.shutdown();
});

test('real Xen and the real xenstored pass the contract suites', async () => {
  const file = files.find((path) => basename(path) === 'xen-contract.mjs');
  const result = await lab.run(`node --test --test-reporter=tap ${file}`, { timeoutMs: 240_000 });
  expect(result.code, result.stdout + result.stderr).toBe(0);
});
