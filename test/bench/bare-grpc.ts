/**
 * The least that calls and watches take in grpc-js: messages of bytes that nobody looks into, as long as a
 * vif's. Each call is told to everybody who watches.
 * Usage: bare-grpc server             prints the address and serves until its parent ends it
 *        bare-grpc client ADDRESS WATCHERS CALLS
 *                                     prints { ms }: from the first call until the last watcher has all
 */
import {
  Client,
  credentials,
  type MethodDefinition,
  Server,
  ServerCredentials,
  type ServerWritableStream,
} from '@grpc/grpc-js';

const MESSAGE = Buffer.alloc(400, 1);
const CONNECTIONS = 4;
const CALLS_AT_ONCE = 8;

const same = (bytes: Buffer) => bytes;
const plain = {
  requestStream: false,
  requestSerialize: same,
  requestDeserialize: same,
  responseSerialize: same,
  responseDeserialize: same,
};
const methods = {
  change: { ...plain, path: '/bare.Service/Change', responseStream: false },
  watch: { ...plain, path: '/bare.Service/Watch', responseStream: true },
} satisfies Record<string, MethodDefinition<Buffer, Buffer>>;

function serve(): void {
  const watchers = new Set<ServerWritableStream<Buffer, Buffer>>();
  const server = new Server();
  server.addService(methods, {
    change: (_: unknown, done: (error: null, answer: Buffer) => void) => {
      for (const watcher of watchers) watcher.write(MESSAGE);
      done(null, MESSAGE);
    },
    watch: (call: ServerWritableStream<Buffer, Buffer>) => {
      watchers.add(call);
      call.write(MESSAGE);
    },
  });
  server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, port) => {
    if (error !== null) throw error;
    console.log(`127.0.0.1:${port}`);
  });
}

async function ask(address: string, watchers: number, calls: number): Promise<void> {
  const options = { 'grpc.use_local_subchannel_pool': 1 };
  const clients = Array.from(
    { length: CONNECTIONS },
    () => new Client(address, credentials.createInsecure(), options),
  );
  const [caller] = clients as [Client];
  const watches = Array.from({ length: watchers }, (_, index) => {
    const client = clients[index % CONNECTIONS] as Client;
    const call = client.makeServerStreamRequest(methods.watch.path, same, same, MESSAGE);
    let left = calls;
    let open: () => void;
    let done: () => void;
    const opened = new Promise<void>((resolve) => {
      open = resolve;
    });
    const ended = new Promise<void>((resolve) => {
      done = resolve;
    });
    call.once('data', () => {
      open();
      call.on('data', () => {
        left -= 1;
        if (left === 0) done();
      });
    });
    return { opened, ended };
  });
  await Promise.all(watches.map(({ opened }) => opened));
  let begun = 0;
  const work = async () => {
    for (; begun < calls; ) {
      begun += 1;
      await new Promise<void>((resolve, reject) => {
        caller.makeUnaryRequest(methods.change.path, same, same, MESSAGE, (error) =>
          error === null ? resolve() : reject(error),
        );
      });
    }
  };
  const startMs = performance.now();
  await Promise.all(Array.from({ length: CALLS_AT_ONCE }, work));
  await Promise.all(watches.map(({ ended }) => ended));
  console.log(JSON.stringify({ ms: performance.now() - startMs }));
  process.exit(0);
}

const [mode, address = '', watchers = '0', calls = '1'] = process.argv.slice(2);
if (mode === 'server') serve();
else await ask(address, Number(watchers), Number(calls));
