/**
 * The seam below the stack: Ethernet frames in and out of memory that is lent, without an object for
 * a frame. Whatever is a NIC is made a Link by an adapter: `NicLink` for the SDK's remote NIC,
 * and one in the daemon for its own.
 *
 * A frame is written by `reserve`, which says where in `bytes` it goes, and `commit`. What was
 * reserved and not committed is forgotten. Committed frames leave together with `flush`.
 */
export interface LinkReceiver {
  /**
   * A frame was received: `bytes[offset .. offset + length)`, lent for the call. `isVerified`: its TCP
   * or UDP checksum is right or was never needed. A verified TCP segment may be longer than the MTU.
   */
  receive(bytes: Uint8Array, offset: number, length: number, isVerified: boolean): void;
  /** All that came together has been received. */
  receiveEnd(): void;
  /** There is room for frames again after `reserve` had none. */
  roomAgain(): void;
  /** The NIC is gone, and nothing will be received or sent. */
  lost(error: Error | undefined): void;
}

export interface Link {
  readonly mac: Uint8Array;
  /** The largest Ethernet payload, in bytes. */
  readonly mtu: number;
  /** Where frames are written. */
  readonly bytes: Uint8Array;
  /** The longest IP packet with TCP that the link cuts into segments; 0: it cuts none. */
  readonly largePacketBytes: number;
  /** Whether TCP checksums may be left blank: the pseudo-header's sum in their place. */
  readonly blanksChecksums: boolean;
  /** Has frames received from now on. */
  start(receiver: LinkReceiver): void;
  /** Where in `bytes` a frame of `length` bytes goes, which starts two bytes off a multiple of four;
   * -1: there is no room before the next flush. */
  reserve(length: number): number;
  /** Sends what was written with the next flush. `segmentBytes`: cut it into segments of so many
   * bytes of TCP payload, where it is not 0. */
  commit(offset: number, length: number, isBlank: boolean, segmentBytes: number): void;
  /** Sends what was committed. What the NIC does not take is lost, as on a wire. */
  flush(): void;
  /** Gives the NIC up. */
  close(): Promise<void>;
}
