/** Ethernet II headers (IEEE 802.3): 0 destination, 6 source, 12 EtherType; 14 bytes. */

export const ETHERNET_HEADER_BYTES = 14;
export const ETHERTYPE_IPV4 = 0x0800;
export const ETHERTYPE_ARP = 0x0806;

export const BROADCAST_MAC = Uint8Array.of(255, 255, 255, 255, 255, 255);

const MAC_PATTERN = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i;

/** Parses six hex pairs with colons; undefined when `text` is something else. */
export function parseMac(text: string): Uint8Array | undefined {
  if (!MAC_PATTERN.test(text)) return undefined;
  return Uint8Array.from(text.split(':'), (pair) => Number.parseInt(pair, 16));
}

/** Six hex pairs in lower case with colons. */
export function formatMac(bytes: Uint8Array, offset = 0): string {
  const pairs = Array.from(bytes.subarray(offset, offset + 6), (byte) =>
    byte.toString(16).padStart(2, '0'),
  );
  return pairs.join(':');
}

export function readEthertype(frame: Uint8Array): number {
  return ((frame[12] as number) << 8) | (frame[13] as number);
}

export function writeEthernet(
  frame: Uint8Array,
  destination: Uint8Array,
  source: Uint8Array,
  ethertype: number,
): void {
  frame.set(destination, 0);
  frame.set(source, 6);
  frame[12] = ethertype >> 8;
  frame[13] = ethertype & 0xff;
}
