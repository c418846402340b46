/** vchan: byte channels to programs in other domains, wire-compatible with libxenvchan. */
export { connectVchan, type VchanClientOptions } from './client.js';
export type { VchanAddress } from './path.js';
export { VchanServer, type VchanServerOptions } from './server.js';
export { VchanStream } from './stream.js';
