/** Ethernet frames written the short way, and addresses for the stations that send them. */

export const BROADCAST = 'ff:ff:ff:ff:ff:ff';

/** The MAC address of station `number`. */
export function mac(number: number): string {
  const digits = number.toString(16).padStart(8, '0');
  return `02:00:${digits.replace(/..(?!$)/g, '$&:')}`;
}

export interface FramePlan {
  /** VLAN tags, the outermost first, each its 16 bits of control information. */
  readonly tags?: readonly number[];
  readonly type?: number;
  readonly payload?: Uint8Array;
}

/** An Ethernet frame. */
export function frame(destination: string, source: string, plan: FramePlan = {}): Buffer {
  const { payload = Buffer.alloc(46, 0xa5), tags = [], type = 0x88b5 } = plan;
  const address = (text: string) => Buffer.from(text.replaceAll(':', ''), 'hex');
  const words = [...tags.flatMap((tag) => [0x8100, tag]), type];
  const header = Buffer.alloc(words.length * 2);
  for (const [index, word] of words.entries()) header.writeUInt16BE(word, index * 2);
  return Buffer.concat([address(destination), address(source), header, payload]);
}
