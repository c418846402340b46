/**
 * `struct virtio_net_hdr` (linux/virtio_net.h), which stands before each frame that a TAP with
 * IFF_VNET_HDR reads or writes, in the byte order of the machine:
 *
 *   0 u8 flags     1 u8 gso_type    2 u16 hdr_len    4 u16 gso_size
 *   6 u16 csum_start (in the frame)     8 u16 csum_offset (from csum_start)
 */

export const VIRTIO_NET_HEADER_BYTES = 10;

/** The field at csum_start + csum_offset holds the pseudo-header's sum: the rest is to be added. */
export const NEEDS_CSUM = 1;
/** The checksum was verified. */
export const DATA_VALID = 2;

export const GSO_NONE = 0;
export const GSO_TCPV4 = 1;
export const GSO_TCPV6 = 4;
/** Added to the type: the TCP header has CWR, which is the first segment's only (RFC 3168). */
export const GSO_ECN = 0x80;

/** One header, at a fixed place, filled again and again. */
export class VirtioNetHeader {
  readonly #bytes: Uint8Array;
  readonly #words: Uint16Array;

  constructor(memory: ArrayBuffer, offset: number) {
    this.#bytes = new Uint8Array(memory, offset, VIRTIO_NET_HEADER_BYTES);
    this.#words = new Uint16Array(memory, offset, VIRTIO_NET_HEADER_BYTES / 2);
  }

  get flags(): number {
    return this.#bytes[0] as number;
  }

  get gsoType(): number {
    return this.#bytes[1] as number;
  }

  get headerBytes(): number {
    return this.#words[1] as number;
  }

  get gsoSize(): number {
    return this.#words[2] as number;
  }

  get checksumStart(): number {
    return this.#words[3] as number;
  }

  get checksumOffset(): number {
    return this.#words[4] as number;
  }

  /** A frame that nothing is to be done with but to take it as it is. */
  setPlain(flags: number): void {
    this.#words.fill(0);
    this.#bytes[0] = flags;
  }

  setBlankChecksum(checksumStart: number, checksumOffset: number): void {
    this.setPlain(NEEDS_CSUM);
    this.#words[3] = checksumStart;
    this.#words[4] = checksumOffset;
  }

  /** What is added to a blank checksum for a frame that is many segments in one. */
  setSegmentation(gsoType: number, headerBytes: number, gsoSize: number): void {
    this.#bytes[1] = gsoType;
    this.#words[1] = headerBytes;
    this.#words[2] = gsoSize;
  }
}
