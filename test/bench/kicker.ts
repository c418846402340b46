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
  readonly processor: number;
  /** When the last kicks were, by turns: nanoseconds of CLOCK_MONOTONIC. */
  readonly sentNs: SharedArrayBuffer;
}

const EFD_NONBLOCK = 0o4000;
/** Kicks that can wait to be heard. */
const KICKS = 256;

/**
 * Calls `onKick` every `intervalUs`, or a little later, from the event loop, with when it was sent. The
 * thread is on `processor` and on no other.
 */
export function startKicks(
  intervalUs: number,
  processor: number,
  onKick: (sentNs: number) => void,
): void {
  const eventfd = libc.func('int eventfd(unsigned int initial, int flags)');
  const descriptor = Number(eventfd(0, EFD_NONBLOCK));
  const task: Task = {
    descriptor,
    intervalUs,
    processor,
    sentNs: new SharedArrayBuffer(KICKS * 8),
  };
  const sentNs = new Float64Array(task.sentNs);
  const events = new BigUint64Array(1);
  const eventBytes = new Uint8Array(events.buffer);
  let heard = 0;
  onReadable(descriptor, () => {
    if (readAvailable(descriptor, eventBytes) === 0) return;
    for (let count = Number(events[0]); count > 0; count -= 1) {
      onKick(sentNs[heard % KICKS] as number);
      heard += 1;
    }
  });
  new Worker(new URL(import.meta.url), { workerData: task });
}

function kick({ descriptor, intervalUs, processor, sentNs }: Task): never {
  const setAffinity = libc.func(
    'int sched_setaffinity(int thread, size_t bytes, void *processors)',
  );
  const processors = new BigUint64Array([1n << BigInt(processor)]);
  // Thread 0 is the one that calls.
  if (setAffinity(0, processors.byteLength, processors) !== 0)
    throw new Error('No such processor.');
  const sent = new Float64Array(sentNs);
  const nobody = new Int32Array(new SharedArrayBuffer(4));
  const one = new BigUint64Array([1n]);
  for (let number = 0; ; number += 1) {
    Atomics.wait(nobody, 0, 0, intervalUs / 1000);
    sent[number % KICKS] = Number(process.hrtime.bigint());
    writeSync(descriptor, one);
  }
}

if (!isMainThread) kick(workerData);
