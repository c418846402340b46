/**
 * `@xenvif/client/stack`: an IPv4 host in user space over any NIC. It needs no privileges, no gRPC and
 * no kernel: a `Link` brings frames and takes them.
 */
export { type Clock, monotonicClock } from './clock.js';
export type { DhcpLease, DhcpOptions } from './dhcp-client.js';
export { AbortError, StackError } from './errors.js';
export { FrameArena } from './frame-arena.js';
export {
  type AllocatedFrame,
  Ipv4,
  type Ipv4Callback,
  type Ipv4Handlers,
  type Ipv4Options,
} from './ipv4.js';
export type { Link, LinkReceiver } from './link.js';
export { type FrameNic, type NicBatch, NicLink, type NicLinkOptions } from './nic-link.js';
export type { PingOptions, PingResult, TracerouteOptions, TracerouteProbe } from './ping.js';
export type { RandomSource } from './random.js';
export type { Route } from './routes.js';
export { Stack, type StackCounts, type StackOptions, type StackRoute } from './stack.js';
export type { TcpSettings } from './tcp/control-block.js';
export { TcpServer, type TcpServerOptions } from './tcp-server.js';
export {
  type TcpAddress,
  type TcpConnectOptions,
  TcpSocket,
  type TcpSocketOptions,
} from './tcp-socket.js';
export type { UdpAddress, UdpRemote, UdpSocket, UdpSocketOptions } from './udp-socket.js';
