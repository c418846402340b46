/** The channel to one daemon, with the settings that frames in bulk need. */
import { type ChannelCredentials, Client, type ClientOptions, credentials } from '@grpc/grpc-js';
import { cancelCall } from './cancel-call.js';

/** A channel and the address it leads to, which errors name. */
export interface Connection {
  readonly client: Client;
  readonly address: string;
  /** The calls under way. gRPC would let them run on when the channel is closed. */
  readonly calls: Set<{ cancel(): void }>;
  isClosed: boolean;
}

/**
 * HTTP/2 lets the peer send this many bytes ahead. The default of 64 KiB costs more than half of
 * the throughput of a stream of frames.
 */
const FLOW_CONTROL_WINDOW_BYTES = 8 * 1024 * 1024;
/** The contract keeps every message below this; a longer one is a fault, not a need. */
export const MESSAGE_BYTES_MAX = 1024 * 1024;

const CHANNEL_OPTIONS: ClientOptions = {
  'grpc-node.flow_control_window': FLOW_CONTROL_WINDOW_BYTES,
  'grpc.max_receive_message_length': MESSAGE_BYTES_MAX,
  'grpc.max_send_message_length': MESSAGE_BYTES_MAX,
  // A peer that vanished without a word is noticed within 40 s while a call is open.
  'grpc.keepalive_time_ms': 30_000,
  'grpc.keepalive_timeout_ms': 10_000,
  // A daemon that restarts is back within a second; the default backs off to two minutes.
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 2_000,
  // A connection of our own, so that closing the client closes it.
  'grpc.use_local_subchannel_pool': 1,
  'grpc.enable_channelz': 0,
};

/** Makes the channel. It connects at the first call. */
export function openConnection(
  address: string,
  channelCredentials: ChannelCredentials = credentials.createInsecure(),
  channelOptions: ClientOptions = {},
): Connection {
  const options = { ...CHANNEL_OPTIONS, ...channelOptions };
  return {
    client: new Client(address, channelCredentials, options),
    address,
    calls: new Set(),
    isClosed: false,
  };
}

/** Ends every call under way, with CANCELLED, and closes the channel. */
export function closeConnection(connection: Connection): void {
  connection.isClosed = true;
  for (const call of connection.calls) cancelCall(call);
  connection.client.close();
}
