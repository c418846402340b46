/**
 * A guest's processor: a thread that notes the time and makes a descriptor readable, every so many
 * microseconds. That is how an event comes from Xen, and it wakes who waits for it, as Xen does.
 */
import { writeSync } from 'node:fs';
import { isMainThread, Worker, workerData } from 'node:worker_threads';
import { libc } from '../../dist/xen/native/library.js';
import { onReadable, readAvailable } from '../../dist/xen/native/readable-descriptor.js';

interface Task {
  readonly descriptor: number;
  readonly intervalUs: number;
  /** When the last kick was: nanoseconds of CLOCK_MONOTONIC. */
  readonly sentNs: SharedArrayBuffer;
}

const EFD_NONBLOCK = 0o4000;

/** Calls `onKick` every `intervalUs`, or a little later, from the event loop, with when it was sent. */
export function startKicks(intervalUs: number, onKick: (sentNs: number) => void): void {
  const eventfd = libc.func('int eventfd(unsigned int initial, int flags)');
  const descriptor = Number(eventfd(0, EFD_NONBLOCK));
  const task: Task = { descriptor, intervalUs, sentNs: new SharedArrayBuffer(8) };
  const sentNs = new Float64Array(task.sentNs);
  const count = new Uint8Array(8);
  onReadable(descriptor, () => {
    readAvailable(descriptor, count);
    onKick(sentNs[0] as number);
  });
  new Worker(new URL(import.meta.url), { workerData: task });
}

function kick({ descriptor, intervalUs, sentNs }: Task): never {
  const sent = new Float64Array(sentNs);
  const nobody = new Int32Array(new SharedArrayBuffer(4));
  const one = new BigUint64Array([1n]);
  for (;;) {
    Atomics.wait(nobody, 0, 0, intervalUs / 1000);
    sent[0] = Number(process.hrtime.bigint());
    writeSync(descriptor, one);
  }
}

if (!isMainThread) kick(workerData);
