/**
 * `@xenvif/client/wire`: the stack's codecs of what is in packets, for programs that look into frames
 * themselves. They read and write at offsets in memory that is lent, and keep nothing.
 */
export * from './arp.js';
export * from './bytes.js';
export * from './checksum.js';
export * from './ethernet.js';
export * from './icmp.js';
export * from './ipv4.js';
export * from './tcp.js';
export * from './udp.js';
