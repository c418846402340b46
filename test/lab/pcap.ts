/** The frames of a capture: a file of tcpdump's or dumpcap's, read by tshark and written plainly. */

import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** Of the classic format: magic number, version, zone, accuracy, limit and link type. */
const FILE_HEADER_BYTES = 24;
/** Seconds, microseconds, bytes that are here, bytes that there were. */
const FRAME_HEADER_BYTES = 16;

/** Each frame as hexadecimal digits. A frame that was cut is an error. */
export function readFrames(file: string): string[] {
  const plain = `${file}.pcap`;
  execFileSync('tshark', ['-r', file, '-F', 'pcap', '-w', plain], { stdio: 'pipe' });
  const data = readFileSync(plain);
  const frames: string[] = [];
  for (let at = FILE_HEADER_BYTES; at < data.length; ) {
    const length = data.readUInt32LE(at + 8);
    if (length !== data.readUInt32LE(at + 12)) throw new Error(`${file} has a frame that was cut.`);
    at += FRAME_HEADER_BYTES;
    frames.push(data.toString('hex', at, at + length));
    at += length;
  }
  return frames;
}
