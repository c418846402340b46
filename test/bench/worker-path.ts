/**
 * net-path.ts on two threads: a worker takes frames off the ring and puts them into messages, the main
 * thread sends those. Messages lie in memory that both see; numbers in shared memory say which.
 * Usage: worker-path FRAME_BYTES|imix, with net-path's client; or worker-path crossings, which prints what
 * it costs to go from one thread to the other: { post, wait, own64, shared64, own1514, shared1514 }, the
 * first two in microseconds there and back, the others in nanoseconds a copy.
 */
import { createServer } from 'node:net';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import koffi from 'koffi';
import { openArena } from '../../dist/xen/native/arena.js';
import { sizesOf } from './frame-sizes.js';
import { MESSAGES, messageAt, PLAIN_RING_BYTES, PlainRing } from './plain-ring.js';

type Task =
  | {
      readonly address: bigint;
      readonly sizes: readonly number[];
      readonly control: SharedArrayBuffer;
    }
  | 'post'
  | 'wait';

/** Indices into the shared numbers: messages made, messages sent, and from there on their lengths. */
const MADE = 0;
const SENT = 1;
const LENGTHS = 2;
const ROUND_TRIPS = 20_000;
const COPIES = 2_000_000;

if (!isMainThread) work(workerData);
else if (process.argv[2] === 'crossings') await measureCrossings();
else serve(sizesOf(process.argv[2] ?? '64'));

function serve(sizes: readonly number[]): void {
  const { memory } = openArena(PLAIN_RING_BYTES);
  const shared = new SharedArrayBuffer((LENGTHS + MESSAGES) * 4);
  const control = new Int32Array(shared);
  const server = createServer((socket) => {
    socket.setNoDelay(true);
    socket.on('error', () => process.exit(0));
    new Worker(new URL(import.meta.url), {
      workerData: { address: memory.baseAddress, sizes, control: shared },
    });
    const onSent = () => {
      Atomics.add(control, SENT, 1);
      Atomics.notify(control, SENT);
    };
    let next = 0;
    const send = () => {
      for (;;) {
        const made = Atomics.load(control, MADE);
        for (; next !== made; next = (next + 1) | 0) {
          const index = next % MESSAGES;
          const length = control[LENGTHS + index] as number;
          socket.write(Buffer.from(memory.bytes.buffer, messageAt(index), length), onSent);
        }
        const { async, value } = Atomics.waitAsync(control, MADE, made);
        if (!async) continue;
        void value.then(send);
        return;
      }
    };
    send();
  });
  server.listen(0, '127.0.0.1', () => {
    const address = server.address();
    console.log(typeof address === 'object' ? `127.0.0.1:${address?.port}` : '');
  });
}

function work(task: Task): void {
  if (task === 'post') {
    parentPort?.on('message', (value) => parentPort?.postMessage(value));
    return;
  }
  if (task === 'wait') {
    parentPort?.once('message', answer);
    return;
  }
  fill(task);
}

function fill({ address, control: shared, sizes }: Exclude<Task, string>): void {
  const memory: ArrayBuffer = koffi.view(address, PLAIN_RING_BYTES);
  const control = new Int32Array(shared);
  let made = 0;
  const ring = new PlainRing(memory, sizes, messageAt(0), (start, end) => {
    control[LENGTHS + (made % MESSAGES)] = end - start;
    made += 1;
    Atomics.store(control, MADE, made);
    Atomics.notify(control, MADE);
    for (;;) {
      const sent = Atomics.load(control, SENT);
      if (made - sent < MESSAGES - 1) return messageAt(made % MESSAGES);
      Atomics.wait(control, SENT, sent);
    }
  });
  for (;;) ring.turn();
}

/** Answers each number that is told by the next one. */
function answer(shared: SharedArrayBuffer): void {
  const control = new Int32Array(shared);
  for (let round = 0; ; round += 1) {
    while (Atomics.load(control, MADE) === round) Atomics.wait(control, MADE, round);
    Atomics.store(control, SENT, round + 1);
    Atomics.notify(control, SENT);
  }
}

async function measureCrossings(): Promise<void> {
  const figures = {
    post: await roundTripUs('post', (worker) => {
      return async () => {
        const answered = new Promise((resolve) => worker.once('message', resolve));
        worker.postMessage(1);
        await answered;
      };
    }),
    wait: await roundTripUs('wait', (worker) => {
      const shared = new SharedArrayBuffer(8);
      const control = new Int32Array(shared);
      worker.postMessage(shared);
      let round = 0;
      return async () => {
        Atomics.store(control, MADE, round + 1);
        Atomics.notify(control, MADE);
        while (Atomics.load(control, SENT) === round) {
          await Atomics.waitAsync(control, SENT, round).value;
        }
        round += 1;
      };
    }),
    own64: copyNs(new ArrayBuffer(PLAIN_RING_BYTES), 64),
    shared64: copyNs(new SharedArrayBuffer(PLAIN_RING_BYTES), 64),
    own1514: copyNs(new ArrayBuffer(PLAIN_RING_BYTES), 1514),
    shared1514: copyNs(new SharedArrayBuffer(PLAIN_RING_BYTES), 1514),
  };
  console.log(JSON.stringify(figures));
  process.exit(0);
}

async function roundTripUs(
  task: Task,
  prepare: (worker: Worker) => () => Promise<void>,
): Promise<number> {
  const worker = new Worker(new URL(import.meta.url), { workerData: task });
  const cross = prepare(worker);
  for (let round = 0; round < ROUND_TRIPS; round += 1) await cross();
  const times: number[] = [];
  for (let round = 0; round < ROUND_TRIPS; round += 1) {
    const start = performance.now();
    await cross();
    times.push(performance.now() - start);
  }
  await worker.terminate();
  return (times.sort((a, b) => a - b)[times.length >> 1] ?? Number.NaN) * 1000;
}

function copyNs(memory: ArrayBuffer | SharedArrayBuffer, size: number): number {
  const bytes = new Uint8Array(memory);
  const copy = (count: number) => {
    for (let index = 0; index < count; index += 1) {
      const source = (index & 255) * 4096;
      const target = messageAt(0) + (index & 31) * 2048;
      bytes.copyWithin(target, source, source + size);
    }
  };
  copy(COPIES / 10);
  const start = performance.now();
  copy(COPIES);
  return ((performance.now() - start) * 1e6) / COPIES;
}
