/** The host's end of dom0's serial port: commands started in dom0, many at once. */

import { EventEmitter, once } from 'node:events';
import type { Socket } from 'node:net';
import { deferred } from './deferred.js';
import {
  type Exit,
  emitFrame,
  emitFrames,
  type Frame,
  FrameReader,
  Kind,
  PAYLOAD_BYTES_MAX,
  type StartRequest,
} from './frames.js';
import { LabError } from './lab-error.js';

export interface RunResult {
  /** The exit code; 128 plus the signal's number where a signal ended it. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

interface Dom0ProcessEvents {
  stdout: [Buffer];
  stderr: [Buffer];
  exit: [number];
}

/** A command that runs, or ran, in dom0. */
export class Dom0Process extends EventEmitter<Dom0ProcessEvents> {
  readonly #send: (kind: number, payload: Uint8Array) => void;
  readonly #stdout: Buffer[] = [];
  readonly #stderr: Buffer[] = [];
  readonly #started = deferred<number>();
  readonly #exited = deferred<number>();
  #running = true;

  constructor(send: (kind: number, payload: Uint8Array) => void) {
    super();
    this.#send = send;
  }

  /** Its process id in dom0, which is its group's id too. */
  pid(): Promise<number> {
    return this.#started.promise;
  }

  /** Everything it has written to its standard output so far. */
  stdout(): string {
    return Buffer.concat(this.#stdout).toString();
  }

  stderr(): string {
    return Buffer.concat(this.#stderr).toString();
  }

  stdoutBytes(): Buffer {
    return Buffer.concat(this.#stdout);
  }

  get running(): boolean {
    return this.#running;
  }

  /** Sends a signal to it and to all that it started. */
  kill(signal: NodeJS.Signals = 'SIGTERM'): void {
    this.#send(Kind.signal, Buffer.from(signal));
  }

  write(input: Uint8Array | string): void {
    const bytes = typeof input === 'string' ? Buffer.from(input) : input;
    this.#send(Kind.input, bytes);
  }

  endInput(): void {
    this.#send(Kind.inputEnd, Buffer.alloc(0));
  }

  /** Resolves when it has ended; rejects with LabError when dom0 went away under it. */
  async wait(): Promise<RunResult> {
    const code = await this.#exited.promise;
    return { code, stdout: this.stdout(), stderr: this.stderr() };
  }

  /** For the port: takes one frame about this command. */
  take({ kind, payload }: Frame): void {
    if (kind === Kind.started) this.#started.resolve(Number(payload.toString()));
    else if (kind === Kind.output) {
      this.#stdout.push(payload);
      this.emit('stdout', payload);
    } else if (kind === Kind.errors) {
      this.#stderr.push(payload);
      this.emit('stderr', payload);
    } else if (kind === Kind.exited) {
      const { code } = JSON.parse(payload.toString()) as Exit;
      this.#running = false;
      this.#exited.resolve(code);
      this.emit('exit', code);
    }
  }

  /** For the port: dom0 is gone. */
  abandon(fault: LabError): void {
    this.#running = false;
    this.#started.reject(fault);
    this.#exited.reject(fault);
  }
}

export class Dom0Port {
  readonly #processes = new Map<number, Dom0Process>();
  readonly #reader = new FrameReader();
  readonly #ready = deferred<void>();
  #socket: Socket | undefined;
  #fault: LabError | undefined;
  #next = 1;

  /** Resolves when dom0's agent has said hello. */
  ready(): Promise<void> {
    return this.#ready.promise;
  }

  connect(socket: Socket): void {
    this.#socket = socket;
    socket.on('data', (bytes: Buffer) => {
      for (const frame of this.#reader.push(bytes)) this.#take(frame);
    });
    // QEMU's end closes when it ends, and that is what gets reported.
    socket.on('error', () => undefined);
  }

  start(request: StartRequest): Dom0Process {
    const id = this.#next++;
    const send = (kind: number, payload: Uint8Array): void => {
      if (!this.#processes.has(id)) return;
      if (payload.length === 0) this.#socket?.write(emitFrame(kind, id, payload));
      else for (const frame of emitFrames(kind, id, payload)) this.#socket?.write(frame);
    };
    const process = new Dom0Process(send);
    if (this.#fault !== undefined) {
      process.abandon(this.#fault);
      return process;
    }
    const payload = Buffer.from(JSON.stringify(request));
    if (payload.length > PAYLOAD_BYTES_MAX) throw new LabError('a command is longer than 64 KiB');
    this.#processes.set(id, process);
    send(Kind.start, payload);
    return process;
  }

  /** Rejects whatever waits, now and later: dom0 is gone. */
  abandon(fault: LabError): void {
    this.#fault ??= fault;
    this.#ready.reject(this.#fault);
    for (const process of this.#processes.values()) process.abandon(this.#fault);
    this.#processes.clear();
  }

  #take(frame: Frame): void {
    if (frame.kind === Kind.ready) this.#ready.resolve();
    const process = this.#processes.get(frame.process);
    if (frame.kind === Kind.exited) this.#processes.delete(frame.process);
    process?.take(frame);
  }
}

/** Resolves with the text a process has written once it matches; rejects when it ends before. */
export async function outputMatching(process: Dom0Process, pattern: RegExp): Promise<string> {
  for (;;) {
    const text = process.stdout() + process.stderr();
    if (pattern.test(text)) return text;
    if (!process.running) throw new LabError(`the command ended: ${text.trim().slice(-500)}`);
    const stop = new AbortController();
    try {
      const { signal } = stop;
      await Promise.race([
        once(process, 'stdout', { signal }),
        once(process, 'stderr', { signal }),
        once(process, 'exit', { signal }),
      ]);
    } finally {
      stop.abort();
    }
  }
}
