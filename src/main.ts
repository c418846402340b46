#!/usr/bin/env node
/**
 * xenvifd: parses what it was told, opens Xen, starts the daemon, and stops it on a signal. The
 * only file that chooses between real and emulated Xen, and the only one that ends the process.
 *
 * What a start does not need is not loaded: guests that wait for the next daemon wait for all of it.
 */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expectYoungGarbage } from '@xenvif/client/garbage';
import { Command, Option } from 'commander';
import { type Logger, pino } from 'pino';
import { type Config, type ConfigInput, loadConfig, runtimeDirectory } from './config.js';
import { Daemon } from './daemon.js';
import type { DemoGuests } from './demo/guests.js';
import { XenvifError } from './errors.js';
import { claimSocket } from './service/listen.js';
import { lockMachine } from './service/machine-lock.js';
import { VERSION } from './version.js';
import type { Xen } from './xen/xen.js';

/** Where a daemon on real Xen keeps what must outlive XenStore. */
const STATE_FILE = '/var/lib/xenvif/switches.json';
/** Where it keeps counters for the next one. */
const COUNTERS_FILE = '/var/lib/xenvif/counters.json';
const STOP_TIMEOUT_MS = 20_000;
const MIB = 1024 * 1024;

interface Flags extends ConfigInput {
  readonly config?: string;
  readonly welcome?: boolean;
}

/** Something to be undone at the end, last one first. */
type Undo = () => Promise<void> | void;

async function main(): Promise<void> {
  expectYoungGarbage();
  const { config: file, welcome, ...flags } = parseFlags();
  let config: Config;
  try {
    config = loadConfig(flags, file);
  } catch (error) {
    report(error);
    process.exit(1);
  }
  const logger = await makeLogger(config);
  const undo: Undo[] = [];
  const stop = onceStopped(undo, logger);
  process.on('SIGTERM', () => stop(0));
  process.on('SIGINT', () => stop(0));
  process.on('uncaughtException', (error) => {
    logger.fatal({ error }, 'an internal error; stopping');
    stop(70);
  });
  process.on('unhandledRejection', (error) => {
    logger.fatal({ error }, 'an internal error; stopping');
    stop(70);
  });
  try {
    await start(config, logger, undo, welcome === true);
  } catch (error) {
    report(error);
    stop(1);
  }
}

/** Says in one line why the daemon cannot start. */
function report(error: unknown): void {
  if (!(error instanceof XenvifError)) throw error;
  process.stderr.write(`xenvifd: ${error.message} (${error.code})\n`);
}

async function start(config: Config, logger: Logger, undo: Undo[], welcome: boolean) {
  const socket = pathOf(config.socket ?? join(runtimeDirectory(), 'xenvifd.sock'));
  const native = config.xen === 'native' || (config.xen === 'auto' && runsOnXen());
  let xen: Xen;
  let guests: DemoGuests | undefined;
  let store: string | undefined;
  let openDomain: ((domid: number) => Promise<Xen>) | undefined;
  if (native) {
    undo.push(await lockMachine());
    const { openNativeXen } = await import('./xen/native/index.js');
    xen = await openNativeXen({ localMemoryBytes: config.limits.localMemoryBytes, logger });
  } else {
    if (config.xen === 'auto') logger.warn('no Xen on this machine; emulating one');
    const { localMemoryBytes } = config.limits;
    const { Hypervisor } = await import('./xen/emulated/index.js');
    const demo = await import('./demo/guests.js');
    const hypervisor = new Hypervisor({ memoryBytes: localMemoryBytes + 256 * MIB, logger });
    undo.push(() => hypervisor.shutdown());
    store = pathOf(config.xenstoreSocket ?? besides(socket));
    if (store !== undefined) {
      await claimSocket(store);
      await hypervisor.store.listen(store);
    }
    xen = await hypervisor.dom0.open({ localMemoryBytes });
    guests = new demo.DemoGuests(hypervisor, logger);
    openDomain = (domid) => hypervisor.openDomain(domid);
  }
  undo.push(() => xen.close());
  const stateFile = pathOf(config.stateFile ?? (native ? STATE_FILE : 'off'));
  const countersFile = pathOf(config.countersFile ?? (native ? COUNTERS_FILE : 'off'));
  const daemon = await Daemon.start({
    xen,
    config,
    logger,
    socket,
    stateFile,
    countersFile,
    ...(openDomain && { openDomain }),
  });
  undo.push(() => daemon.stop());
  if (guests !== undefined) {
    const running = guests;
    undo.push(() => running.stop());
    await running.start(xen.store, config.demoGuests);
  }
  logger.info({ version: VERSION, xen: xen.kind, addresses: daemon.addresses }, 'ready');
  if (welcome) process.stdout.write(welcomeText(socket, store));
}

/** Runs the undo steps once, whoever asks; a second signal ends the process at once. */
function onceStopped(undo: Undo[], logger: Logger): (code: number) => void {
  let stopping = false;
  return (code) => {
    if (stopping) process.exit(code === 0 ? 130 : code);
    stopping = true;
    const timer = setTimeout(() => {
      logger.error('stopping took too long');
      process.exit(1);
    }, STOP_TIMEOUT_MS);
    timer.unref();
    const run = async () => {
      for (const step of undo.reverse()) await step();
    };
    run().then(
      () => process.exit(code),
      (error: unknown) => {
        logger.error({ error }, 'could not stop cleanly');
        process.exit(1);
      },
    );
  };
}

function parseFlags(): Flags {
  const program = new Command('xenvifd')
    .description('Serves Xen virtual network interfaces over gRPC to programs without privileges.')
    .version(VERSION)
    .option('-c, --config <file>', 'read the configuration from a YAML file; flags go before it')
    .addOption(
      new Option('--xen <kind>', "which Xen: the machine's, an emulated one, or as found")
        .choices(['auto', 'native', 'emulated'])
        .default(undefined, 'auto'),
    )
    .option(
      '--socket <path>',
      `Unix socket, or "off" (default: ${runtimeDirectory()}/xenvifd.sock)`,
    )
    .option('--socket-mode <mode>', 'mode of the Unix socket (default: 0660)')
    .option('--tcp <address>', 'loopback address, or "off" (default: 127.0.0.1:7637)')
    .option('--xenstore-socket <path>', 'socket of the emulated XenStore, or "off"')
    .option('--state-file <path>', 'where switches are kept over a reboot, or "off"')
    .option('--counters-file <path>', 'where counters are kept over a restart, or "off"')
    .option('--demo-guests <count>', 'emulated guests to start with (default: 2)', Number)
    .option('--log-level <level>', 'trace, debug, info, warn, error or silent (default: info)')
    .option('--log-format <format>', 'auto, json or pretty (default: auto)')
    .option('--close-devices', 'on SIGTERM, close devices instead of leaving them connected')
    .option('--welcome', 'print what to try once the daemon is ready')
    .addHelpText(
      'after',
      `
Examples:
  xenvifd --xen emulated             try it on any machine, with two guests that ping each other
  xenvifd --config /etc/xenvif.yaml  run it in dom0 or a driver domain

Signals: SIGTERM and SIGINT stop the daemon. Connected guests stay connected, and the next daemon
takes them over, unless --close-devices is given.`,
    )
    .parse();
  return program.opts<Flags>();
}

async function makeLogger(config: Config): Promise<Logger> {
  const pretty =
    config.logFormat === 'pretty' || (config.logFormat === 'auto' && process.stderr.isTTY);
  const serializers = { error: pino.stdSerializers.err };
  const options = { level: config.logLevel, base: null, serializers };
  if (!pretty) return pino(options, pino.destination({ fd: 2, sync: true }));
  const colorize = process.stderr.isTTY && process.env['NO_COLOR'] === undefined;
  const { PinoPretty } = await import('pino-pretty');
  const stream = PinoPretty({ destination: 2, sync: true, colorize, translateTime: 'HH:MM:ss.l' });
  return pino(options, stream);
}

/** A path, or `off` for none. */
function pathOf(path: string | undefined): string | undefined {
  return path === 'off' ? undefined : path;
}

/** The emulated XenStore's socket lies beside the daemon's. */
function besides(socket: string | undefined): string {
  return join(socket === undefined ? runtimeDirectory() : dirname(socket), 'xenstored.sock');
}

/** Whether this is a Xen domain: the kernel says so. */
function runsOnXen(): boolean {
  const type = '/sys/hypervisor/type';
  if (existsSync(type)) return readFileSync(type, 'utf8').trim() === 'xen';
  return existsSync('/proc/xen/capabilities');
}

function welcomeText(socket: string | undefined, store: string | undefined): string {
  const address = socket === undefined ? '' : `unix:${socket}`;
  const tools = store === undefined ? [] : [`  XENSTORED_PATH=${store} xenstore-ls -f`];
  return [
    '',
    `xenvifd is ready${address === '' ? '' : ` on ${address}`}. Two emulated guests ping each other. Try, in another terminal:`,
    '',
    '  npx xenvif ls                                  the vifs',
    '  npx xenvif stats --watch                       their counters, moving',
    '  npx xenvif capture 1.0                         frames as they pass',
    '  npx xenvif capture 1.0 -w - | tshark -r -      the same through tshark',
    '  npx xenvif create 1 && npx xenvif ls           a second interface for guest 1',
    ...tools,
    '',
    'Ctrl-C stops it.',
    '',
  ].join('\n');
}

await main();
