/** A thousand vifs on ten switches, declared in one file, on an emulated Xen whose guests connect. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { loadConfig } from '../../src/config.js';
import { Daemon } from '../../src/daemon.js';
import { Hypervisor } from '../../src/xen/emulated/index.js';
import type { Xen } from '../../src/xen/xen.js';
import { CommandUnderTest } from '../support/command.js';
import { Crowd } from '../support/crowd.js';
import { silent, until } from '../support/machine.js';

const GUESTS = 50;
const VIFS_PER_GUEST = 20;
const SWITCHES = 10;
const VIFS = GUESTS * VIFS_PER_GUEST;
const MIB = 1024 * 1024;

const directory = mkdtempSync(join(tmpdir(), 'xenvif-scale-'));
const file = join(directory, 'state.json');
const crowd = new Crowd();
const command = new CommandUnderTest(() => `unix:${join(directory, 'xenvifd.sock')}`);
let hypervisor: Hypervisor;
let xen: Xen;
let daemon: Daemon;

beforeAll(async () => {
  hypervisor = new Hypervisor();
  xen = await hypervisor.dom0.open({ localMemoryBytes: 64 * MIB });
  const socket = join(directory, 'xenvifd.sock');
  const config = loadConfig({ xen: 'emulated', socket, tcp: 'off' });
  daemon = await Daemon.start({ xen, config, logger: silent, socket });
  for (let guest = 0; guest < GUESTS; guest += 1) {
    await crowd.add(hypervisor, `guest-${guest}`, VIFS_PER_GUEST);
  }
  writeFileSync(file, JSON.stringify(state()));
}, 120_000);

afterAll(async () => {
  await crowd.end();
  await daemon.stop();
  await xen.close();
  hypervisor.assertNoLeaks();
  await hypervisor.shutdown();
  rmSync(directory, { recursive: true });
}, 120_000);

function state() {
  const switches = Array.from({ length: SWITCHES }, (_, index) => ({ name: `lan${index}` }));
  const vifs = Array.from({ length: VIFS }, (_, index) => ({
    domain: `guest-${Math.floor(index / VIFS_PER_GUEST)}`,
    handle: index % VIFS_PER_GUEST,
    switch: `lan${index % SWITCHES}`,
    policy: { lockMac: true, accessVlan: 1 + (index % 100) },
    labels: { number: String(index) },
  }));
  return { xenvif: 1, name: 'scale', switches, vifs };
}

/** Runs `xenvif apply`; returns what it printed and how long it took. */
async function apply(...options: string[]) {
  const startMs = performance.now();
  const result = await command.run('apply', '-f', file, ...options);
  const seconds = (performance.now() - startMs) / 1000;
  expect(result).toMatchObject({ code: 0 });
  const summary = result.stdout.split('\n').find((line) => line.includes('to create'));
  const memory = Math.round(process.memoryUsage().rss / MIB);
  process.stdout.write(
    `apply ${options.join(' ')}: ${seconds.toFixed(1)} s, ${memory} MiB here. ${summary}\n`,
  );
  return result;
}

it('are made, with their progress told, connect, stay as they are, and are removed', async () => {
  const first = await apply();
  expect(first.stdout).toContain(`${VIFS + SWITCHES} to create, 0 to change, 0 to remove`);
  expect(first.stderr).toMatch(/^\d+ of 1010, \d+ s$/m);
  expect(first.stdout).toContain(`Done: ${VIFS + SWITCHES} of ${VIFS + SWITCHES}.`);
  await until('all connect', () => {
    const devices = daemon.netback.list();
    return devices.filter(({ status }) => status.phase === 'connected').length === VIFS;
  });
  expect(daemon.switches.list().map(({ ports }) => ports.size)).toEqual([
    0,
    ...Array(SWITCHES).fill(VIFS / SWITCHES),
  ]);
  const second = await apply();
  expect(second.stdout).toBe(
    `0 to create, 0 to change, 0 to remove, ${VIFS + SWITCHES} as they should be.\n`,
  );
  writeFileSync(file, JSON.stringify({ xenvif: 1, name: 'scale' }));
  const pruned = await apply('--prune');
  expect(pruned.stdout).toContain(`Done: ${VIFS + SWITCHES} of ${VIFS + SWITCHES}.`);
  expect(daemon.netback.list()).toEqual([]);
}, 600_000);
