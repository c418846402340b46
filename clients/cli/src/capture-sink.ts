/** Where captured frames go: a pcapng file, a pipe, or lines of text. */
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import type { Writable } from 'node:stream';
import {
  type FrameBatchView,
  type Lost,
  type OpenedFrames,
  parsePortName,
  type Vif,
} from '@xenvif/client';
import { CliError } from './failure.js';
import { summarize } from './frame-text.js';
import type { Output } from './output.js';
import {
  enhancedPackets,
  interfaceDescription,
  interfaceStatistics,
  sectionHeader,
} from './pcapng.js';
import { shortName } from './units.js';
import { VERSION } from './version.js';

/** What a capture is written to. */
export interface CaptureSink {
  /** The stream is open, of what `names` name in the order of `vifIndex`. */
  begin(names: readonly string[], opened: OpenedFrames): Promise<void>;
  /** Takes the first `count` frames of `batch`. */
  frames(batch: FrameBatchView, count: number): Promise<void>;
  /** Frames are missing before the next batch. */
  lost(lost: Lost): void;
  /** The connection was lost and is back. */
  reconnected(): void;
  end(): Promise<void>;
}

/** How the capture was asked for, as the file tells it. */
export interface CaptureSelection {
  readonly snaplen: number;
  readonly filter: string;
}

/** Opens `path` for a capture; `-` is the standard output. */
export async function openCaptureFile(path: string): Promise<Writable> {
  if (path === '-') return process.stdout;
  const file = createWriteStream(path);
  try {
    await once(file, 'open');
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new CliError('FILE_NOT_WRITABLE', `Cannot write ${path}: ${reason}.`);
  }
  return file;
}

/** Writes pcapng. Each batch goes out at once, so that a reader at a pipe sees it when it comes. */
export class PcapngSink implements CaptureSink {
  readonly #stream: Writable;
  readonly #selection: CaptureSelection;
  readonly #received: bigint[] = [];
  readonly #dropped: bigint[] = [];
  #startNs = 0n;
  #lostBefore = 0n;
  #comment = '';

  constructor(stream: Writable, selection: CaptureSelection) {
    this.#stream = stream;
    this.#selection = selection;
  }

  async begin(names: readonly string[], opened: OpenedFrames): Promise<void> {
    this.#startNs = nowNs();
    const blocks = [sectionHeader(`xenvif ${VERSION}`)];
    for (const [index, name] of names.entries()) {
      this.#received.push(0n);
      this.#dropped.push(0n);
      const description = descriptionOf(name, opened.vifs[index]);
      blocks.push(interfaceDescription({ name, description, ...this.#selection }));
    }
    await this.#write(Buffer.concat(blocks));
  }

  async frames(batch: FrameBatchView, count: number): Promise<void> {
    if (count === 0) return;
    const missing = { lost: this.#lostBefore, comment: this.#comment };
    // A loss does not say of which vif; it is put down to that of the next frame, like epb_dropcount.
    this.#count(this.#dropped, batch.vifIndex(0), this.#lostBefore);
    for (let index = 0; index < count; index += 1) {
      this.#count(this.#received, batch.vifIndex(index), 1n);
    }
    this.#lostBefore = 0n;
    this.#comment = '';
    await this.#write(enhancedPackets(batch, count, missing));
  }

  lost({ count }: Lost): void {
    this.#lostBefore += count;
  }

  reconnected(): void {
    this.#comment = 'The connection to xenvifd was lost before this frame.';
  }

  async end(): Promise<void> {
    this.#count(this.#dropped, 0, this.#lostBefore);
    const endNs = nowNs();
    const blocks = this.#received.map((delivered, index) => {
      const dropped = this.#dropped[index] ?? 0n;
      const received = delivered + dropped;
      return interfaceStatistics(index, { startNs: this.#startNs, endNs, received, dropped });
    });
    await this.#write(Buffer.concat(blocks));
    // The standard output is not ours to end.
    if (this.#stream === process.stdout) return;
    this.#stream.end();
    await once(this.#stream, 'close');
  }

  #count(counts: bigint[], index: number, more: bigint): void {
    const count = counts[index];
    if (count !== undefined) counts[index] = count + more;
  }

  #write(bytes: Buffer): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#stream.write(bytes, (error) => (error ? reject(error) : resolve()));
    });
  }
}

/** Prints a line for each frame, or a JSON document. */
export class TextSink implements CaptureSink {
  readonly #out: Output;
  #names: readonly string[] = [];

  constructor(out: Output) {
    this.#out = out;
  }

  begin(names: readonly string[]): Promise<void> {
    this.#names = names;
    return Promise.resolve();
  }

  frames(batch: FrameBatchView, count: number): Promise<void> {
    const lines: string[] = [];
    for (let index = 0; index < count; index += 1) {
      if (this.#out.json) this.#out.jsonLine(this.#jsonOf(batch, index));
      else lines.push(this.#textOf(batch, index));
    }
    if (lines.length > 0) this.#out.line(lines.join('\n'));
    return Promise.resolve();
  }

  lost(lost: Lost): void {
    if (this.#out.json) this.#out.jsonLine({ type: 'lost', ...lost });
    else this.#out.line(this.#out.styled(`... ${lost.count} lost (${lost.cause})`, 'bad'));
  }

  reconnected(): void {
    if (this.#out.json) this.#out.jsonLine({ type: 'reconnected' });
    else this.#out.line(this.#out.styled('... the connection was lost and is back', 'bad'));
  }

  end(): Promise<void> {
    return Promise.resolve();
  }

  #textOf(batch: FrameBatchView, index: number): string {
    const name = shortName(this.#names[batch.vifIndex(index)] ?? '');
    const { source, destination, text } = summarize(batch.frame(index));
    const time = clockText(batch.timestampNs(index));
    const length = batch.originalLength(index);
    return `${time} ${name} ${batch.direction(index)} ${source} > ${destination} ${text}, length ${length}`;
  }

  #jsonOf(batch: FrameBatchView, index: number): object {
    const { text, ...addresses } = summarize(batch.frame(index));
    const name = this.#names[batch.vifIndex(index)] ?? '';
    return {
      type: 'frame',
      // Nanoseconds since 1970 do not fit into a number.
      timestampNs: String(batch.timestampNs(index)),
      ...nameOf(name),
      direction: batch.direction(index),
      sequence: batch.sequence(index),
      ...addresses,
      summary: text,
      originalLength: batch.originalLength(index),
      checksum: batch.checksum(index),
      gso: batch.segmentation(index) ?? null,
      data: batch.frame(index).toString('base64'),
    };
  }
}

/** What a frame passed, by what it is. */
function nameOf(name: string): object {
  if (!name.startsWith('switches/')) return { vif: name };
  return name.includes('/ports/') ? { port: name } : { switch: name };
}

/** What is captured, for whoever opens the file later. */
function descriptionOf(name: string, vif: Vif | undefined): string {
  if (vif !== undefined) {
    return `Xen vif ${shortName(name)} of domain ${vif.domid}, ${vif.spec.mac}`;
  }
  const { switch: parent, portId } = name.includes('/ports/')
    ? parsePortName(name)
    : { switch: name, portId: '' };
  const whole = `xenvif switch ${shortName(parent)}`;
  return portId === '' ? whole : `port ${portId} of the ${whole}`;
}

/** The local time of day with microseconds, as tcpdump has it. */
function clockText(timestampNs: bigint): string {
  const time = new Date(Number(timestampNs / 1_000_000n));
  const two = (value: number): string => String(value).padStart(2, '0');
  const micros = String((timestampNs / 1_000n) % 1_000_000n).padStart(6, '0');
  return `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}.${micros}`;
}

function nowNs(): bigint {
  return BigInt(Date.now()) * 1_000_000n;
}
