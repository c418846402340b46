/**
 * The same messages through generated code: frames off a ring as in net-path.ts, made into a
 * StreamFramesResponse of 64 KiB, encoded by ts-proto, sent by grpc-js, and decoded by ts-proto in
 * the client, which looks at every frame.
 * Usage: ts-proto-path server FRAME_BYTES|imix | ts-proto-path client ADDRESS SECONDS; prints { "rate" }.
 */
import {
  Client,
  credentials,
  Metadata,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
} from '@grpc/grpc-js';
import {
  FrameServiceService,
  type StreamFramesRequest,
  type StreamFramesResponse,
} from '../../dist/gen/xenvif/v1/frame_service.js';
import { meanSize, sizesOf } from './frame-sizes.js';

const MESSAGE_BYTES = 64 * 1024;
const AHEAD_MESSAGES = 16;
const WARM_UP_MS = 3000;
const [role, first = '', second = ''] = process.argv.slice(2);
const method = FrameServiceService.streamFrames;

if (role === 'server') serve(first);
else receive(first, Number(second));

function serve(frames: string): void {
  const sizes = sizesOf(frames);
  const pages = Buffer.alloc(260 * 4096, 0x5a);
  const count = Math.floor(MESSAGE_BYTES / meanSize(frames));
  const server = new Server();
  const streamFrames = (call: ServerDuplexStream<StreamFramesRequest, StreamFramesResponse>) => {
    let waiting = 0;
    let sequence = 1;
    const send = () => {
      while (waiting < AHEAD_MESSAGES && !call.destroyed) {
        const frames = Array.from({ length: count }, (_, index) => {
          const start = (index % 256) * 4096;
          const size = sizes[index % sizes.length] as number;
          return Buffer.from(pages.subarray(start, start + size));
        });
        const value = {
          frames,
          baseTimeNs: process.hrtime.bigint(),
          timeDeltaNs: frames.map(() => 0),
          originalLength: [],
          vifIndex: [],
          flags: frames.map(() => 1),
          firstSequence: BigInt(sequence),
        };
        sequence += count;
        waiting += 1;
        call.write({ message: { $case: 'frames', value } }, () => {
          waiting -= 1;
          if (waiting < AHEAD_MESSAGES / 2) setImmediate(send);
        });
      }
    };
    call.on('error', () => undefined);
    call.on('cancelled', () => call.destroy());
    send();
  };
  server.addService({ streamFrames: method }, { streamFrames });
  server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (_, port) => {
    console.log(`127.0.0.1:${port}`);
  });
}

function receive(address: string, seconds: number): void {
  const window = 8 * 1024 * 1024;
  const options = { 'grpc-node.flow_control_window': window };
  const client = new Client(address, credentials.createInsecure(), options);
  const { path, requestSerialize, responseDeserialize } = method;
  const call = client.makeBidiStreamRequest(
    path,
    requestSerialize,
    responseDeserialize,
    new Metadata(),
  );
  const start = performance.now();
  let from = 0;
  let frames = 0;
  let sum = 0;
  call.on('data', ({ message }: StreamFramesResponse) => {
    if (message?.$case !== 'frames') return;
    for (const frame of message.value.frames) sum += frame[0] as number;
    frames += message.value.frames.length;
    const now = performance.now();
    if (from === 0) {
      if (now - start > WARM_UP_MS) {
        from = now;
        frames = 0;
      }
    } else if (now - from > seconds * 1000) {
      console.log(JSON.stringify({ rate: frames / ((now - from) / 1000), sum: sum > 0 }));
      process.exit(0);
    }
  });
}
