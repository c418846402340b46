/** `xenvif vchan`: stdin and stdout over a vchan of the daemon's, for programs without privileges. */
import type { Vchan } from '@xenvif/client';
import type { Command } from 'commander';
import { usageError } from '../failure.js';
import { inSession, type Session } from '../session.js';
import { wholeNumber } from '../units.js';

interface ChannelOptions {
  readonly listen?: boolean;
  readonly path?: string;
  readonly bufferSize?: number;
  readonly wait: boolean;
  readonly as?: number;
  readonly stay?: boolean;
}

const RING_BYTES_MAX = 1024 * 1024;
const DOMID_MAX = 0x7fef;

const EXAMPLES = `
What comes from the peer is written to stdout until it closes. When stdin ends, the channel is closed as
soon as the peer has read everything; where nothing came from stdin at all, or with --stay, it stays
open until the peer closes it.

Examples:
  xenvif vchan -l 5 logs > log.txt      wait for a program in domain 5
  xenvif vchan 5 console                connect to a server in domain 5
  xenvif vchan -l --as 2 1 foo > copy   on an emulated Xen, be in domain 2 ...
  xenvif vchan --as 1 2 foo < foo       ... and in domain 1`;

export function registerVchan(program: Command): void {
  program
    .command('vchan <domid> [port]')
    .description('send stdin to, and print what comes from, a program in another domain')
    .option('-l, --listen', 'wait for the peer, in place of connecting to it')
    .option('--path <path>', 'the directory in XenStore, in place of a port')
    .option(
      '--buffer-size <bytes>',
      'with -l: the size of each ring',
      wholeNumber(1, RING_BYTES_MAX),
    )
    .option('--no-wait', 'fail if nobody serves the channel')
    .option('--as <domid>', 'on an emulated Xen: be in this domain', wholeNumber(0, DOMID_MAX))
    .option('--stay', 'stay until the peer closes, also when stdin has ended')
    .addHelpText('after', EXAMPLES)
    .action((domid: string, port: string | undefined, options: ChannelOptions, command: Command) =>
      inSession(command, (session) => converse(session, domid, port, options)),
    );
}

async function converse(
  { client, interrupt, notes }: Session,
  domid: string,
  port: string | undefined,
  options: ChannelOptions,
): Promise<void> {
  if ((port === undefined) === (options.path === undefined)) {
    throw usageError('Give a port, or --path.');
  }
  const vchan = await client.vchan({
    listen: options.listen,
    domid: wholeNumber(0, DOMID_MAX)(domid),
    port,
    path: options.path,
    ringBytes: options.bufferSize,
    wait: options.wait,
    asDomid: options.as,
    signal: interrupt,
    onListening: (path) => notes.line(`Listening at ${path}.`),
  });
  notes.line('Connected.');
  const sent = sendInput(vchan, options.stay === true);
  sent.catch((error: Error) => vchan.destroy(error));
  await new Promise<void>((resolve) => {
    vchan.once('close', resolve);
    // What broke it is looked at when it has closed.
    vchan.on('error', () => undefined);
    vchan.pipe(process.stdout, { end: false });
  });
  process.stdin.destroy();
  if (vchan.errored) throw vchan.errored;
  await sent;
  notes.line('Disconnected.');
}

async function sendInput(vchan: Vchan, stay: boolean): Promise<void> {
  let sentBytes = 0;
  try {
    for await (const chunk of process.stdin as AsyncIterable<Buffer>) {
      sentBytes += chunk.length;
      const written = new Promise<void>((resolve) => {
        vchan.write(chunk, () => resolve());
      });
      if (vchan.writableNeedDrain) await written;
      if (vchan.destroyed) return;
    }
  } catch (error) {
    // The input was taken away because the channel is over.
    if (vchan.destroyed) return;
    throw error;
  }
  if (!stay && sentBytes > 0) await vchan.close();
}
