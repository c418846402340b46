/**
 * Two stacks talk over a wire that loses, doubles, delays, reorders and damages frames; the seed says
 * which, and how both sides write and read. Whatever happens, the bytes of both sides must arrive as
 * they were written, and both must come to an end. `XENVIF_STACK_SIMS` says how many seeds, from
 * `XENVIF_STACK_SEED` on.
 */
import type { TcpSocket } from '@xenvif/client/stack';
import { expect, test } from 'vitest';
import { type SeededRandom, seededRandom } from '../support/random.js';
import { StackWire, type WireFaults } from './stack-wire.js';

const SIMULATIONS = Number(process.env['XENVIF_STACK_SIMS'] ?? 300);
const FIRST_SEED = Number(process.env['XENVIF_STACK_SEED'] ?? 1);
const PORT = 5000;
const BYTES_MAX = 60_000;
/** Time of the simulation in which all must be over: six backoffs in a row may well happen. */
const VIRTUAL_MS = 3_600_000;

interface Side {
  readonly sent: Buffer;
  readonly received: Buffer[];
  isEnded: boolean;
  isClosed: boolean;
  error: Error | undefined;
}

function chooseFaults(random: SeededRandom): WireFaults {
  const severity = random.below(4);
  return {
    loss: [0, 10, 50, 100][severity] as number,
    duplicate: random.below(2) * 50,
    corrupt: random.below(3) === 0 ? 20 : 0,
    delayMs: [0.05, 1, 20, 100][random.below(4)] as number,
    jitterMs: [0, 0, 1, 5, 40][random.below(5)] as number,
  };
}

function chooseSettings(random: SeededRandom) {
  return {
    sack: random.below(4) > 0,
    timestamps: random.below(4) > 0,
    windowScaling: random.below(4) > 0,
    sendBufferBytes: 1 << (12 + random.below(9)),
    receiveBufferBytes: 1 << (12 + random.below(9)),
  };
}

/** Writes in pieces of all sizes and reads with pauses, as the seed says. */
function drive(socket: TcpSocket, wire: StackWire, random: SeededRandom): Side {
  const sent = Buffer.alloc(random.below(4) === 0 ? random.below(200) : random.below(BYTES_MAX));
  for (let index = 0; index < sent.length; index += 1) sent[index] = random.u32();
  const side: Side = {
    ...{ sent, received: [], isEnded: false, isClosed: false, error: undefined },
  };
  socket.on('data', (data: Buffer) => {
    side.received.push(data);
    if (random.below(20) > 0) return;
    socket.pause();
    wire.clock.wake(random.below(300), () => socket.resume());
  });
  socket.on('end', () => {
    side.isEnded = true;
  });
  socket.on('close', () => {
    side.isClosed = true;
  });
  socket.on('error', (error) => {
    side.error = error;
  });
  let written = 0;
  const writeOn = () => {
    while (written < sent.length) {
      const count = Math.min(sent.length - written, 1 + random.below(9000));
      const piece = sent.subarray(written, written + count);
      written += count;
      if (!socket.write(piece)) {
        socket.once('drain', writeOn);
        return;
      }
      if (random.below(10) === 0) {
        wire.clock.wake(random.below(200), writeOn);
        return;
      }
    }
    socket.end();
  };
  writeOn();
  return side;
}

async function simulate(seed: number): Promise<void> {
  const random = seededRandom(seed);
  const mtu = [576, 1500, 9000][random.below(3)] as number;
  const settings = [chooseSettings(random), chooseSettings(random)] as const;
  const wire = new StackWire(random, chooseFaults(random), settings, mtu);
  let server: Side | undefined;
  const noDelay = random.below(2) === 0;
  wire.right
    .createServer({ allowHalfOpen: true, noDelay }, (socket) => {
      server = drive(socket, wire, random);
    })
    .listen(PORT);
  const socket = wire.left.connect({ host: '10.0.0.2', port: PORT, allowHalfOpen: true });
  const client = drive(socket, wire, random);
  const isOver = () => client.error !== undefined || (client.isClosed && server?.isClosed === true);
  const isDone = await wire.run(isOver, VIRTUAL_MS);
  const told = (side: Side | undefined) =>
    `${side?.error} ${side?.isEnded} ${side?.isClosed} ${side?.sent.length} ${side?.received.length}`;
  const story = `client ${told(client)}, server ${told(server)}, state ${socket.tcpState}`;
  if (!isDone || client.error !== undefined || server?.error !== undefined) {
    throw new Error(`seed ${seed} did not come to its end: ${story}`);
  }
  const isSame = (from: Side, to: Side) => Buffer.concat(to.received).equals(from.sent);
  if (!isSame(client, server as Side) || !isSame(server as Side, client)) {
    throw new Error(`seed ${seed}: other bytes arrived than were sent`);
  }
  // What lingers after the end goes by itself.
  await wire.run(
    () => wire.left.tcpConnections.total + wire.right.tcpConnections.total === 0,
    300_000,
  );
  const left = wire.left.tcpConnections.total + wire.right.tcpConnections.total;
  await wire.end();
  if (left > 0) throw new Error(`seed ${seed}: ${left} connections are left`);
}

test(`${SIMULATIONS} conversations over bad wires end with the same bytes on both sides`, async () => {
  const failures: string[] = [];
  for (let seed = FIRST_SEED; seed < FIRST_SEED + SIMULATIONS; seed += 1) {
    try {
      await simulate(seed);
    } catch (error) {
      failures.push(String(error));
    }
  }
  expect(failures).toEqual([]);
});
