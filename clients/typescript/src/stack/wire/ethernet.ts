/** Ethernet II (IEEE 802.3): 0 destination, 6 source, 12 EtherType; 14 bytes. */

export const ETHERNET_HEADER_BYTES = 14;
/** What a frame is padded to, without its check sequence. */
export const ETHERNET_FRAME_BYTES_MIN = 60;
export const ETHERTYPE_IPV4 = 0x0800;
export const ETHERTYPE_ARP = 0x0806;
export const MAC_BYTES = 6;

export const BROADCAST_MAC: Uint8Array = Uint8Array.of(255, 255, 255, 255, 255, 255);

const MAC_PATTERN = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i;

/** Six hex pairs with colons; undefined when `text` is something else. */
export function parseMac(text: string): Uint8Array | undefined {
  if (!MAC_PATTERN.test(text)) return undefined;
  return Uint8Array.from(text.split(':'), (pair) => Number.parseInt(pair, 16));
}

export function formatMac(bytes: Uint8Array, offset = 0): string {
  const pairs = Array.from(bytes.subarray(offset, offset + MAC_BYTES), (byte) =>
    byte.toString(16).padStart(2, '0'),
  );
  return pairs.join(':');
}

export function readEthertype(bytes: Uint8Array, offset = 0): number {
  return ((bytes[offset + 12] as number) << 8) | (bytes[offset + 13] as number);
}

/** Writes a header at `offset`. */
export function writeEthernet(
  bytes: Uint8Array,
  offset: number,
  destination: Uint8Array,
  source: Uint8Array,
  ethertype: number,
): void {
  for (let index = 0; index < MAC_BYTES; index += 1) {
    bytes[offset + index] = destination[index] as number;
    bytes[offset + MAC_BYTES + index] = source[index] as number;
  }
  bytes[offset + 12] = ethertype >>> 8;
  bytes[offset + 13] = ethertype & 0xff;
}

/** Whether the address at `offset` is a group's: broadcast or multicast. */
export function isGroupMac(bytes: Uint8Array, offset: number): boolean {
  return ((bytes[offset] as number) & 1) !== 0;
}

export function sameMac(bytes: Uint8Array, offset: number, mac: Uint8Array): boolean {
  for (let index = 0; index < MAC_BYTES; index += 1) {
    if (bytes[offset + index] !== mac[index]) return false;
  }
  return true;
}
