/** Everything that strangers could make grow has a limit here, with its unit and the reason for it. */

/** Neighbours known at a time. A /24 fits; what a scan adds pushes out what was not used for longest. */
export const NEIGHBOURS_MAX = 512;
/** How long one is known that nothing was sent to, in milliseconds: 10 minutes. */
export const NEIGHBOUR_AGE_MS = 600_000;
/** Packets, and bytes of them, that wait for one neighbour's address: a window's beginning. */
export const NEIGHBOUR_QUEUE_PACKETS = 32;
export const NEIGHBOUR_QUEUE_BYTES = 256 * 1024;
/** Neighbours that may be asked for at a time, with packets waiting: 16 MiB in all. */
export const NEIGHBOURS_PENDING_MAX = 64;

/** Packets that are being put together. Each has at most 64 KiB: 4 MiB in all. */
export const REASSEMBLIES_MAX = 64;
/** Of these, from one source: so that one host does not push out the fragments of all others. */
export const REASSEMBLIES_PER_SOURCE = 16;
/** RFC 791 suggests 15 s, RFC 1122 60 s; Linux waits 30 s. */
export const REASSEMBLY_TIMEOUT_MS = 30_000;

/** ICMP errors and challenge ACKs that are sent in a second: enough to tell, too few to flood with. */
export const ICMP_ERRORS_PER_SECOND = 100;
export const CHALLENGE_ACKS_PER_SECOND = 100;

/** Destinations whose path has a smaller MTU than the link; and how long that is believed (RFC 1191). */
export const PATH_MTUS_MAX = 256;
export const PATH_MTU_AGE_MS = 600_000;
/** A smaller one is not believed: who says so wants us to send many small packets. */
export const PATH_MTU_MIN = 552;

/** Packets to ourselves that wait for their turn. */
export const LOOPBACK_PACKETS_MAX = 256;

/** Datagrams, and bytes of them, that wait for one socket's listener are none: they are events. */
export const UDP_SOCKETS_MAX = 4096;

/** Connections of a stack in all states: 4096 idle ones cost some 4 MiB. */
export const CONNECTIONS_MAX = 4096;
/** Connections of a listener that have not shaken hands: beyond it the oldest gives way. */
export const BACKLOG_MAX = 256;
/** Connections that linger after their end (TIME-WAIT); beyond it the oldest is forgotten. */
export const TIME_WAITS_MAX = 1024;
