/** `xenvif capture`: frames of vifs, or of a switch's port, into a pcapng file, a pipe, or onto the screen. */
import type { BatchObservation, ObserveOptions } from '@xenvif/client';
import { type Command, Option } from 'commander';
import { type CaptureSink, openCaptureFile, PcapngSink, TextSink } from '../capture-sink.js';
import { usageError } from '../failure.js';
import { inSession, type Session } from '../session.js';
import { byteCount, bytesText, durationMs, wholeNumber } from '../units.js';

interface CaptureOptions {
  readonly write?: string;
  readonly count?: number;
  readonly duration?: number;
  readonly snaplen?: number;
  readonly direction?: 'from-guest' | 'to-guest';
  readonly filter?: string;
  readonly queueBytes?: number;
  readonly overflow?: 'drop-oldest' | 'drop-newest' | 'end';
}

const EXAMPLES = `
A TARGET is a vif (several may be given), or one PORT of a switch, or all of a switch, written
switches/<id>: then each frame is captured once, as it comes in. At a port, "from-guest" is what comes into
the switch there, and "to-guest" what goes out of it; a mirror of the switch brings it, and goes with the
capture.

Without -w a line is printed for each frame. With -w the file is pcapng with nanosecond times; what
the guest sends is inbound in it, what it receives outbound. Lost frames are counted in the file and in
the summary on stderr. Ctrl-C ends the capture.

Examples:
  xenvif capture 1.0
  xenvif capture lan/tap0
  xenvif capture switches/lan -w lan.pcapng --filter 'arp or icmp'
  xenvif capture 1.0 2.0 -w both.pcapng --duration 10s
  xenvif capture 1.0 -w - | tshark -r -
  xenvif capture 1.0 2.0 --snaplen 128 --count 100
  xenvif capture 1.0 --json | jq .summary`;

export function registerCapture(program: Command): void {
  program
    .command('capture <target...>')
    .description('capture frames of vifs, of a port of a switch, or of a whole switch')
    .option('-w, --write <file>', 'write pcapng to this file; - is the standard output')
    .option('--count <frames>', 'end after so many frames', wholeNumber(1, 2 ** 32))
    .option('--duration <duration>', 'end after so long', durationMs)
    .option('--snaplen <bytes>', 'keep so much of each frame', wholeNumber(14, 65535))
    .addOption(directionOption())
    .option('--filter <expression>', 'only frames that match, as for tcpdump')
    .option('--queue-bytes <bytes>', 'what may wait in the daemon (default 4M)', byteCount)
    .addOption(overflowOption())
    .addHelpText('after', EXAMPLES)
    .action((targets: string[], options: CaptureOptions, command: Command) =>
      inSession(command, (session) => capture(session, targets, options)),
    );
}

function directionOption(): Option {
  return new Option(
    '--direction <direction>',
    'only what a guest sends or a port brings in, or the other way',
  ).choices(['from-guest', 'to-guest']);
}

function overflowOption(): Option {
  return new Option('--overflow <policy>', 'what goes when we are too slow').choices([
    'drop-oldest',
    'drop-newest',
    'end',
  ]);
}

async function capture(
  session: Session,
  targets: string[],
  options: CaptureOptions,
): Promise<void> {
  const { client, interrupt } = session;
  checkTarget(session, options.write);
  await using observation = client.observeBatches(targets, observeOptions(options));
  interrupt.addEventListener('abort', () => observation.stop(), { once: true });
  // Opened before the file is, so that a misspelt name does not leave an empty one.
  const opened = await observation.opened;
  const sink = await openSink(session, options);
  const tally = new Tally(session, observation, options.write !== undefined);
  await sink.begin(observation.vifs, opened);
  const timer = options.duration && setTimeout(() => observation.stop(), options.duration);
  try {
    await pump(observation, sink, tally, options.count ?? Number.POSITIVE_INFINITY);
    await sink.end();
  } catch (error) {
    // Whoever read the pipe has seen enough.
    if (isBrokenPipe(error)) return;
    // What was captured before, for example, the vif went away shall still be a whole file.
    await sink.end().catch(() => {});
    throw error;
  } finally {
    if (timer) clearTimeout(timer);
    tally.end();
  }
}

function checkTarget({ out }: Session, write: string | undefined): void {
  if (write === '-' && out.isTerminal) {
    throw usageError('pcapng is binary: write it to a file or a pipe, not to a terminal.');
  }
  if (write !== undefined && out.json) {
    throw usageError('-w writes pcapng: it does not go together with --json.');
  }
}

function observeOptions(options: CaptureOptions): ObserveOptions {
  const { count, snaplen, direction, filter, queueBytes, overflow } = options;
  return { maxFrames: count, snaplen, direction, filter, queueBytes, overflow };
}

async function openSink({ out }: Session, options: CaptureOptions): Promise<CaptureSink> {
  if (options.write === undefined) return new TextSink(out);
  const { snaplen = 0, filter = '' } = options;
  return new PcapngSink(await openCaptureFile(options.write), { snaplen, filter });
}

async function pump(
  observation: BatchObservation,
  sink: CaptureSink,
  tally: Tally,
  framesMax: number,
): Promise<void> {
  for await (const event of observation.events()) {
    switch (event.type) {
      case 'batch': {
        const { batch } = event;
        const count = Math.min(batch.count, framesMax - tally.frames);
        tally.add(batch, count);
        await sink.frames(batch, count);
        if (tally.frames >= framesMax) return;
        break;
      }
      case 'lost':
        sink.lost(event.lost);
        break;
      case 'disconnected':
        tally.note(event.error.message);
        break;
      case 'reconnected':
        sink.reconnected();
        tally.note('The connection is back; what passed meanwhile is missing.');
        break;
      case 'status':
        tally.note(`${event.vif}: ${event.phase} (${event.reason})`);
    }
  }
}

function isBrokenPipe(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'EPIPE';
}

/** Counts what was captured: live on stderr while a file is written, and in one line at the end. */
class Tally {
  frames = 0;
  #bytes = 0;
  readonly #session: Session;
  readonly #observation: BatchObservation;
  readonly #timer: NodeJS.Timeout | undefined;

  constructor(session: Session, observation: BatchObservation, toFile: boolean) {
    this.#session = session;
    this.#observation = observation;
    if (!toFile || !session.notes.isTerminal) return;
    this.#timer = setInterval(() => session.notes.raw(`\r\u001b[K${this.#text()}`), 250);
  }

  add(batch: { originalLength(index: number): number }, count: number): void {
    this.frames += count;
    for (let index = 0; index < count; index += 1) this.#bytes += batch.originalLength(index);
  }

  note(text: string): void {
    this.#clear();
    this.#session.notes.line(`xenvif: ${text}`);
  }

  end(): void {
    clearInterval(this.#timer);
    this.#clear();
    this.#session.notes.line(this.#text());
  }

  #clear(): void {
    if (this.#timer !== undefined) this.#session.notes.raw('\r\u001b[K');
  }

  #text(): string {
    const { frames: lost, reconnects } = this.#observation.lost;
    const bytes = this.#session.notes.isTerminal ? bytesText(this.#bytes) : `${this.#bytes} bytes`;
    const gaps = reconnects === 0 ? '' : `, ${reconnects} reconnects`;
    return `${this.frames} frames, ${bytes}, ${lost} lost${gaps}`;
  }
}
