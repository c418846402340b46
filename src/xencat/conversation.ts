/** Two streams joined: what comes from one goes into the other, until one of them ends. */
import type { Readable, Writable } from 'node:stream';
import type { Channel } from './channel-source.js';

export interface Ends {
  readonly input: Readable;
  readonly output: Writable;
  /** Stays when the input has ended, until the peer closes. */
  readonly stay: boolean;
}

/**
 * Talks until the peer closes, or until the input has ended and the peer has read all of it. An input
 * that ends without a byte, /dev/null say, ends nothing: its owner has come to listen.
 * @throws what broke the channel, and DisconnectedError when the peer left before it had read all.
 */
export async function converse(channel: Channel, ends: Ends): Promise<void> {
  const sent = send(channel, ends);
  sent.catch((error: Error) => channel.destroy(error));
  await receive(channel, ends.output);
  ends.input.destroy();
  if (channel.errored) throw channel.errored;
  await sent;
}

async function receive(channel: Channel, output: Writable): Promise<void> {
  const over = new Promise<void>((resolve) => {
    channel.once('close', resolve);
    // What broke it is looked at when it has closed.
    channel.on('error', () => undefined);
  });
  // Whoever reads our output has gone: there is nobody to talk for.
  const leave = () => channel.destroy();
  output.once('error', leave);
  output.once('close', leave);
  channel.pipe(output, { end: false });
  await over;
  output.off('close', leave);
}

async function send(channel: Channel, { input, stay }: Ends): Promise<void> {
  let sentBytes = 0;
  try {
    for await (const chunk of input as AsyncIterable<Buffer>) {
      sentBytes += chunk.length;
      const written = new Promise<void>((resolve) => {
        channel.write(chunk, () => resolve());
      });
      if (channel.writableNeedDrain) await written;
      if (channel.destroyed) return;
    }
  } catch (error) {
    // The input was taken away because the channel is over.
    if (channel.destroyed) return;
    throw error;
  }
  if (stay || sentBytes === 0) return;
  await channel.close();
}
