/**
 * The host's hand in dom0: runs commands as frames from a virtio serial port ask for them.
 *
 * Runs in dom0, as the last thing its init starts. When the port closes the agent ends, and with it
 * dom0, so a lab whose host has died does not live on.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { openSync, read, readdirSync, readFileSync, write } from 'node:fs';
import { constants } from 'node:os';
import { emitFrame, emitFrames, FrameReader, Kind, type StartRequest } from './frames.js';

const PORT_NAME = 'xenvif.lab';
const PORTS = '/sys/class/virtio-ports';
/** Above this many bytes on their way to the host, commands are made to wait with their output. */
const PENDING_BYTES_MAX = 1_048_576;
/** A command that ended has no more to say when its pipes, still open, were quiet for so long. */
const LAST_OUTPUT_MS = 250;

const port = openPort();
const children = new Map<number, ChildProcess>();
const pending: Buffer[] = [];
let pendingBytes = 0;
let writing = false;

function openPort(): number {
  const name = readdirSync(PORTS).find(
    (entry) => readFileSync(`${PORTS}/${entry}/name`, 'utf8').trim() === PORT_NAME,
  );
  if (name === undefined) throw new Error(`there is no virtio port ${PORT_NAME}`);
  return openSync(`/dev/${name}`, 'r+');
}

function send(frame: Buffer): void {
  pending.push(frame);
  pendingBytes += frame.length;
  writeNext();
}

/** One write at a time keeps the frames in order: the port takes as much as it has room for. */
function writeNext(): void {
  const frame = pending[0];
  if (writing || frame === undefined) return;
  writing = true;
  write(port, frame, 0, frame.length, null, (error, bytes) => {
    if (error !== null) process.exit(1);
    writing = false;
    pendingBytes -= bytes;
    if (bytes === frame.length) pending.shift();
    else pending[0] = frame.subarray(bytes);
    if (pendingBytes < PENDING_BYTES_MAX) resumeAll();
    writeNext();
  });
}

function resumeAll(): void {
  for (const child of children.values()) {
    child.stdout?.resume();
    child.stderr?.resume();
  }
}

function start(id: number, request: StartRequest): void {
  // A group of its own lets a signal reach a command together with all that it started.
  // Node.js gives it sockets, by which bash would take itself for a network login's and read ~/.bashrc.
  const child = spawn('/bin/bash', ['--norc', '-c', request.command], {
    detached: true,
    env: { ...process.env, ...request.env },
    stdio: 'pipe',
  });
  children.set(id, child);
  send(emitFrame(Kind.started, id, String(child.pid ?? 0)));
  let heard = false;
  for (const [stream, kind] of [
    [child.stdout, Kind.output],
    [child.stderr, Kind.errors],
  ] as const) {
    stream.on('data', (bytes: Buffer) => {
      heard = true;
      if (!children.has(id)) return;
      for (const frame of emitFrames(kind, id, bytes)) send(frame);
      if (pendingBytes >= PENDING_BYTES_MAX) stream.pause();
    });
  }
  // A command need not read its input, and may end before all of it came.
  child.stdin.on('error', () => undefined);
  const end = (code: number): void => {
    if (!children.delete(id)) return;
    send(emitFrame(Kind.exited, id, JSON.stringify({ code })));
  };
  child.on('error', () => end(127));
  child.on('exit', (code, signal) => {
    const status = signal === null ? (code ?? 0) : 128 + constants.signals[signal];
    child.on('close', () => end(status));
    // What the command left in the background may hold its pipes open for ever.
    const quiet = setInterval(() => {
      const busy = heard || child.stdout.isPaused() || child.stderr.isPaused();
      heard = false;
      if (busy && children.has(id)) return;
      clearInterval(quiet);
      end(status);
    }, LAST_OUTPUT_MS);
  });
}

function signalGroup(child: ChildProcess | undefined, signal: string): void {
  if (child?.pid === undefined) return;
  try {
    process.kill(-child.pid, signal as NodeJS.Signals);
  } catch {
    // It ended by itself in the meantime; its exit is on the way.
  }
}

const reader = new FrameReader();
const buffer = Buffer.alloc(65_536);

function readNext(): void {
  read(port, buffer, 0, buffer.length, null, (error, bytes) => {
    if (error !== null || bytes === 0) process.exit(0);
    for (const { kind, process: id, payload } of reader.push(
      Buffer.from(buffer.subarray(0, bytes)),
    )) {
      const child = children.get(id);
      if (kind === Kind.start) start(id, JSON.parse(payload.toString()) as StartRequest);
      else if (kind === Kind.input) child?.stdin?.write(payload);
      else if (kind === Kind.inputEnd) child?.stdin?.end();
      else if (kind === Kind.signal) signalGroup(child, payload.toString());
    }
    readNext();
  });
}

send(emitFrame(Kind.ready, 0, ''));
readNext();
