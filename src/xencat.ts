#!/usr/bin/env node
/**
 * xencat: stdin and stdout, or a local socket, over a vchan. It needs Xen's devices, as the daemon does;
 * where there is no Xen it goes to a daemon that emulates one.
 */
import { existsSync, readFileSync } from 'node:fs';
import { InvalidArgumentError as BadOption, Command, CommanderError, Option } from 'commander';
import { UnavailableError, XenvifError } from './errors.js';
import { VERSION } from './version.js';
import {
  type ChannelOptions,
  type ChannelSource,
  openEmulatedSource,
  openNativeSource,
  parseDomid,
} from './xencat/channel-source.js';
import { converse } from './xencat/conversation.js';
import { proxyClient, proxyServer, type SocketPlace } from './xencat/socket-proxy.js';

const ExitCode = { done: 0, failed: 1, usage: 2, unavailable: 3, interrupted: 130 } as const;
const RING_BYTES_MAX = 1024 * 1024;

interface Flags {
  readonly listen?: boolean;
  readonly bufferSize: number;
  readonly path?: string;
  readonly stay?: boolean;
  readonly socket?: string;
  readonly fd?: number;
  readonly quiet?: boolean;
  readonly xen: 'auto' | 'native' | 'emulated';
  readonly address?: string;
  readonly as: number;
}

const HELP = `
What comes from the peer is written to stdout until the peer closes. When stdin ends, the channel is
closed as soon as the peer has read everything; where stdin had nothing at all, or with --stay, it stays
open until the peer closes it.

With --socket the data are a local socket's: with -l, xencat connects to PATH for each client that comes;
without, it listens on PATH and connects the vchan for each connection, one after another. --fd is an
open descriptor in place of PATH: with -l a connected socket, for one client, else a listening one.

Without Xen a running xenvifd with an emulated one is used, and --as says in which domain to be.

Examples, to transfer a file foo from domain 1 to domain 2:
  xencat -l 1 foo > copy-of-foo        in domain 2
  xencat 2 foo < foo                   in domain 1

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no Xen and no daemon, 130 interrupted.`;

async function main(): Promise<void> {
  const program = new Command('xencat')
    .description('Talks to a program in another domain over a vchan.')
    .version(VERSION)
    .argument('<domid>', "the peer's domain")
    .argument('[port]', 'the name of the channel: letters, digits, "_" and "-"')
    .option('-l, --listen', 'wait for the peer, in place of connecting to it')
    .option('--buffer-size <bytes>', 'with -l: the least size of each ring', ringBytes, 65_536)
    .option('--path <path>', 'the directory in XenStore, in place of a port')
    .option('--stay', 'stay until the peer closes, also when stdin has ended')
    .option('--socket <path>', 'a Unix socket in place of stdin and stdout')
    .option('--fd <number>', 'an open socket in place of stdin and stdout', descriptor)
    .option('-q, --quiet', 'say nothing of connections on stderr')
    .addOption(
      new Option('--xen <kind>', "which Xen: the machine's, a daemon's emulated one, or as found")
        .choices(['auto', 'native', 'emulated'])
        .default('auto'),
    )
    .option('--address <address>', 'the daemon that emulates Xen: unix:/path, /path or host:port')
    .option('--as <domid>', 'on an emulated Xen: be in this domain', domidOption, 0)
    .addHelpText('after', HELP)
    .exitOverride();
  try {
    program.parse();
    process.exitCode = await run(program.args, program.opts<Flags>());
  } catch (error) {
    process.exitCode = exitCodeOf(error);
  }
}

async function run(args: readonly string[], flags: Flags): Promise<number> {
  const [domid = '', port] = args;
  if ((port === undefined) === (flags.path === undefined)) throw usage('Give a port, or --path.');
  if (flags.socket !== undefined && flags.fd !== undefined) {
    throw usage('Give --socket or --fd, not both.');
  }
  const options: ChannelOptions = {
    listen: flags.listen === true,
    domid: parseDomid(domid),
    port,
    path: flags.path,
    bufferSize: flags.bufferSize,
  };
  const note = (text: string) => {
    if (flags.quiet !== true) process.stderr.write(`${text}\n`);
  };
  const interrupt = interruption();
  const isNative = flags.xen === 'native' || (flags.xen === 'auto' && runsOnXen());
  const source = isNative
    ? await openNativeSource(options)
    : await openEmulatedSource({ ...options, address: flags.address, as: flags.as });
  try {
    await talk(source, options, flags, interrupt, note);
  } catch (error) {
    if (!interrupt.aborted) throw error;
  } finally {
    await source.close();
  }
  return interrupt.aborted ? ExitCode.interrupted : ExitCode.done;
}

async function talk(
  source: ChannelSource,
  { listen }: ChannelOptions,
  flags: Flags,
  signal: AbortSignal,
  note: (text: string) => void,
): Promise<void> {
  const place: SocketPlace | undefined = flags.socket ?? flags.fd;
  if (place !== undefined) {
    const proxy = listen ? proxyServer : proxyClient;
    await proxy({ source, place, signal, note });
    return;
  }
  const channel = await source.open(signal);
  const leave = () => channel.destroy();
  signal.addEventListener('abort', leave);
  if (signal.aborted) leave();
  note('Connected.');
  const stay = flags.stay === true;
  await converse(channel, { input: process.stdin, output: process.stdout, stay });
  note('Disconnected.');
}

/** Fires at the first SIGINT or SIGTERM; the channel is then left in order. A second one is death. */
function interruption(): AbortSignal {
  const abort = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.on(name, () => {
      if (abort.signal.aborted) process.exit(ExitCode.interrupted);
      abort.abort(new Error('Interrupted.'));
    });
  }
  return abort.signal;
}

function exitCodeOf(error: unknown): number {
  // Commander has said its part already.
  if (error instanceof CommanderError) return error.exitCode === 0 ? ExitCode.done : ExitCode.usage;
  const code = error instanceof Error && 'code' in error ? String(error.code) : undefined;
  const text = error instanceof Error ? error.message : String(error);
  process.stderr.write(`xencat: ${text}${code === undefined ? '' : ` (${code})`}\n`);
  if (error instanceof UnavailableError || code === 'DAEMON_UNREACHABLE')
    return ExitCode.unavailable;
  return error instanceof XenvifError && USAGE_CODES.has(error.code)
    ? ExitCode.usage
    : ExitCode.failed;
}

const USAGE_CODES: ReadonlySet<string> = new Set([
  'DOMID_INVALID',
  'VCHAN_PORT_INVALID',
  'VCHAN_PATH_INVALID',
]);

function usage(text: string): CommanderError {
  process.stderr.write(`xencat: ${text}\n`);
  return new CommanderError(ExitCode.usage, 'xencat.usage', text);
}

function ringBytes(text: string): number {
  const bytes = Number(text);
  if (/^\d+$/.test(text) && bytes >= 1 && bytes <= RING_BYTES_MAX) return bytes;
  throw new BadOption(`It must be 1 to ${RING_BYTES_MAX} bytes.`);
}

function descriptor(text: string): number {
  if (/^\d{1,7}$/.test(text)) return Number(text);
  throw new BadOption('It must be the number of an open descriptor.');
}

function domidOption(text: string): number {
  if (/^\d{1,5}$/.test(text)) return Number(text);
  throw new BadOption('It must be the number of a domain.');
}

/** Whether this is a Xen domain: the kernel says so. */
function runsOnXen(): boolean {
  const type = '/sys/hypervisor/type';
  if (existsSync(type)) return readFileSync(type, 'utf8').trim() === 'xen';
  return existsSync('/proc/xen/capabilities');
}

await main();
