/**
 * `npm run lab`: xenvifd on real Xen, and a prompt in its dom0, on any Debian 12 machine.
 *
 * Installs what is missing, boots, starts the daemon and one guest, and powers off when the shell
 * ends. Traffic stays inside: the emulated machine has no network card.
 */

import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { findCheckout, labFolder } from './assets.js';
import { sleep } from './deferred.js';
import type { Dom0Process } from './dom0-port.js';
import { Lab } from './lab.js';
import { LabError, oneLine } from './lab-error.js';
import { runShell } from './shell.js';

const HELP = `npm run lab             boots Xen in an emulator, with xenvifd and a guest; gives a root prompt
npm run lab -- --test   runs the tests that need real Xen
npm run lab -- --help   says this

Needs Debian 12, root (or sudo) for its packages, and 5 GB of memory; neither Xen nor KVM.
Logs are kept in test/lab/logs; XENVIF_LAB_CACHE says where the hypervisor and the kernel go.`;

const GUEST = { name: 'guest1', address: '10.0.0.2/24', mac: '00:16:3e:00:00:01' } as const;
const DAEMON_READY = /"msg":"ready"/;
const DAEMON_START_MS = 60_000;
const DAEMON_POLL_MS = 100;

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: { help: { type: 'boolean' }, test: { type: 'boolean' } },
  });
  if (values.help === true) {
    console.log(HELP);
    return 0;
  }
  if (values.test !== true && !process.stdin.isTTY) {
    throw new LabError('the lab ends in a prompt and needs a terminal; for tests: --test');
  }
  const packages = spawnSync(join(labFolder(), 'packages.sh'), { stdio: 'inherit' });
  if (packages.status !== 0) return 1;
  if (values.test === true) return runTests();
  return await runLab();
}

function runTests(): number {
  const options = { cwd: findCheckout(), stdio: 'inherit' } as const;
  return spawnSync('npx', ['vitest', 'run', '--project', 'lab'], options).status ?? 1;
}

async function runLab(): Promise<number> {
  const start = Date.now();
  const say = (message: string): void => {
    const seconds = ((Date.now() - start) / 1000).toFixed(1).padStart(5);
    console.log(`[${seconds} s] ${message}`);
  };
  const lab = await Lab.boot({ logDir: join(labFolder(), 'logs'), onProgress: say });
  try {
    say('starting xenvifd in dom0');
    const daemon = await startDaemon(lab);
    say(`starting ${GUEST.name}, whose eth0 is ${GUEST.address}`);
    const guest = await lab.createGuest(GUEST);
    // One may be at a console at a time, and from here on that is the person.
    guest.releaseConsole();
    say('ready. A root prompt in dom0; exit powers off. Try:');
    console.log('  npx xenvif ls          the vifs that xenvifd serves');
    console.log('  xl list                the domains that Xen runs');
    console.log(
      `  xl console ${GUEST.name}      ${GUEST.name}'s console: Enter, and Ctrl-] to leave it`,
    );
    await runShell(lab, findCheckout());
    daemon.kill('SIGTERM');
    say('powering off');
  } finally {
    await lab.shutdown();
  }
  return 0;
}

/** Starts this checkout's xenvifd in dom0, and resolves once it serves. */
async function startDaemon(lab: Lab): Promise<Dom0Process> {
  const program = join(findCheckout(), 'dist', 'main.js');
  if (!existsSync(program)) throw new LabError(`there is no ${program}: run npm run build first`);
  const log = join(lab.logDir, 'xenvifd.log');
  // The log of an earlier lab would say at once that the daemon is ready.
  rmSync(log, { force: true });
  const daemon = lab.spawn(
    `exec node --enable-source-maps '${program}' --xen native >/run/xenvif-logs/xenvifd.log 2>&1`,
  );
  const end = Date.now() + DAEMON_START_MS;
  for (;;) {
    const text = existsSync(log) ? readFileSync(log, 'utf8') : '';
    if (DAEMON_READY.test(text)) return daemon;
    if (!daemon.running) {
      throw new LabError(`xenvifd ended: ${text.trim().split('\n').at(-1) ?? ''}; see ${log}`);
    }
    if (Date.now() > end) throw new LabError(`xenvifd did not come to serve; see ${log}`);
    await sleep(DAEMON_POLL_MS);
  }
}

// Ending by exit runs the handler that takes the emulator and its files along.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => process.exit(1));
}
try {
  process.exitCode = await main();
} catch (fault) {
  console.error(`lab: ${oneLine(fault)}`);
  process.exitCode = 1;
}
