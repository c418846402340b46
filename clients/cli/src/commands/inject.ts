/**
 * `xenvif inject`: sends frames to a guest, as the NIC at the other end of its vif, or into a switch, as a
 * port of it.
 */
import { readFile } from 'node:fs/promises';
import { buffer } from 'node:stream/consumers';
import type { InjectionOutcome, Nic } from '@xenvif/client';
import type { Command } from 'commander';
import { readCapture } from '../capture-reader.js';
import { CliError, usageError } from '../failure.js';
import { inSession, type Session } from '../session.js';
import { durationMs, wholeNumber } from '../units.js';

interface InjectOptions {
  readonly file?: string;
  readonly hex?: string[];
  readonly repeat: number;
  readonly interval?: number;
}

/** Frames that are sent before their results are waited for: a guest's ring has 256 slots. */
const CHUNK_FRAMES = 128;

const EXAMPLES = `
The frames are sent in order; each chunk waits for what became of the one before. Frames that the guest
sends meanwhile are ignored, but go to nobody else: one client is attached to a vif at a time.
Into a switch they are sent from a port of their own, whatever their source addresses.
The exit code is 1 unless every frame was accepted.

Examples:
  xenvif inject 1.0 frames.pcapng
  xenvif inject switches/default frames.pcapng
  tcpdump -r trace.pcap -w - arp | xenvif inject 1.0 --file -
  xenvif inject 1.0 --hex ffffffffffff00163e0000010800 --repeat 10 --interval 100ms`;

export function registerInject(program: Command): void {
  program
    .command('inject <target> [file]')
    .description('send frames to a guest (a vif), or into a switch (switches/<id>)')
    .option('--file <file>', 'the frames of this pcap or pcapng file; - is the standard input')
    .option('--hex <hex...>', 'frames as hex digits; colons, dashes and blanks are ignored')
    .option('--repeat <times>', 'send all of them so many times', wholeNumber(1, 1e9), 1)
    .option('--interval <duration>', 'wait so long after each frame', intervalMs)
    .addHelpText('after', EXAMPLES)
    .action((target: string, file: string | undefined, options: InjectOptions, command: Command) =>
      inSession(command, (session) => {
        if (file === undefined) return inject(session, target, options);
        if (options.file !== undefined) throw usageError('Give the file once.');
        return inject(session, target, { ...options, file });
      }),
    );
}

/** Bare numbers are milliseconds here, where they are seconds elsewhere: frames are quick. */
function intervalMs(text: string): number {
  return durationMs(/^\d+(\.\d+)?$/.test(text) ? `${text}ms` : text);
}

async function inject(session: Session, target: string, options: InjectOptions): Promise<void> {
  const { client, out, interrupt } = session;
  const { frames, skipped } = await framesToSend(options);
  await using nic = await client.attach(target, {
    reportResults: true,
    anyMac: true,
    // What became of frames must be known: nothing is sent on another connection.
    reconnect: false,
    signal: interrupt,
  });
  void nic.listen(() => {});
  const outcomes = new Map<InjectionOutcome, number>();
  for (let round = 0; round < options.repeat; round += 1) {
    await sendAll(nic, frames, options.interval, interrupt, (outcome) => {
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
    });
  }
  const sent = [...outcomes.values()].reduce((sum, count) => sum + count, 0);
  const accepted = outcomes.get('accepted') ?? 0;
  if (out.json)
    out.document({
      [nic.port ? 'port' : 'vif']: nic.name,
      sent,
      skipped,
      ...Object.fromEntries(outcomes),
    });
  else out.line(summary(sent, skipped, outcomes));
  if (accepted < sent) {
    const message = `${sent - accepted} of ${sent} frames were not accepted.`;
    throw new CliError('FRAMES_NOT_ACCEPTED', message);
  }
}

async function sendAll(
  nic: Nic,
  frames: readonly Buffer[],
  pauseMs: number | undefined,
  interrupt: AbortSignal,
  count: (outcome: InjectionOutcome) => void,
): Promise<void> {
  const chunkFrames = pauseMs === undefined ? CHUNK_FRAMES : 1;
  for (let start = 0; start < frames.length; start += chunkFrames) {
    const outcomes = await nic.inject(frames.slice(start, start + chunkFrames));
    for (const outcome of outcomes) count(outcome);
    if (pauseMs !== undefined) await delay(pauseMs, interrupt);
  }
}

function delay(ms: number, interrupt: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    interrupt.addEventListener('abort', () => resolve(clearTimeout(timer)), { once: true });
  });
}

interface FramesToSend {
  readonly frames: readonly Buffer[];
  /** Frames of the file that a snaplen has cut: they cannot be sent as they were. */
  readonly skipped: number;
}

async function framesToSend({ file, hex = [] }: InjectOptions): Promise<FramesToSend> {
  if (file === undefined && hex.length === 0) {
    throw usageError('Nothing to send: give a file or --hex.');
  }
  const captured = file === undefined ? [] : readCapture(await readInput(file));
  const whole = captured.filter(({ data, originalLength }) => data.length >= originalLength);
  const frames = [...whole.map(({ data }) => data), ...hex.map(frameOfHex)];
  return { frames, skipped: captured.length - whole.length };
}

async function readInput(file: string): Promise<Buffer> {
  if (file === '-') return buffer(process.stdin);
  try {
    return await readFile(file);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new CliError('FILE_NOT_READABLE', `Cannot read ${file}: ${reason}.`);
  }
}

function frameOfHex(text: string): Buffer {
  const digits = text.replace(/^0x|[\s:-]/g, '');
  if (/^(?:[0-9a-fA-F]{2})+$/.test(digits)) return Buffer.from(digits, 'hex');
  throw usageError(`"${text}" is no frame in hex digits.`);
}

function summary(
  sent: number,
  skipped: number,
  outcomes: ReadonlyMap<InjectionOutcome, number>,
): string {
  const parts = [...outcomes].map(([outcome, count]) => `${count} ${outcome}`);
  const cut = skipped === 0 ? '' : `; ${skipped} skipped, cut by a snaplen`;
  return `${sent} frames sent: ${parts.join(', ') || 'none'}${cut}`;
}
