/**
 * A client in a process of its own that sends frames to a guest as fast as it can.
 * Usage: ring-sender ADDRESS SECONDS FRAME_BYTES; sends for so long and ends.
 */
import { type Nic, XenvifClient } from '@xenvif/client';

const [address = '', secondsText = '1', frameBytesText = '64'] = process.argv.slice(2);
const frameBytes = Number(frameBytesText);
/** Frames that are placed between two looks at how much waits. */
const BURST_FRAMES = 256;

const client = new XenvifClient({ address });
const nic = await client.attach('vifs/1.0');
const frame = Buffer.alloc(frameBytes, 0x5a);
const end = performance.now() + Number(secondsText) * 1000;
while (performance.now() < end) {
  placeBurst(nic, frame);
  await nic.drained();
}
client.close();

/** What a program does that makes frames: it writes them where they are to be. */
function placeBurst(to: Nic, source: Buffer): void {
  for (let index = 0; index < BURST_FRAMES; index += 1) {
    const offset = to.place(source.length);
    to.placedBytes.set(source, offset);
  }
}
