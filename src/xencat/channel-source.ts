/**
 * Where xencat gets its channels from: the machine's own Xen, or a daemon with an emulated one, in
 * which it is then a program of some domain.
 */
import type { Duplex } from 'node:stream';
import { InvalidArgumentError } from '../errors.js';

/** One end of a vchan. */
export interface Channel extends Duplex {
  /** Delivers what was written, and leaves. */
  close(): Promise<void>;
}

export interface ChannelSource {
  /** Waits for the peer. Ended by `signal`. */
  open(signal: AbortSignal): Promise<Channel>;
  /** Gives everything back. */
  close(): Promise<void>;
}

export interface ChannelOptions {
  readonly listen: boolean;
  readonly domid: number;
  readonly port: string | undefined;
  readonly path: string | undefined;
  readonly bufferSize: number;
}

export async function openNativeSource(options: ChannelOptions): Promise<ChannelSource> {
  const { bufferSize, domid, listen, path, port } = options;
  const { openNativeXen } = await import('../xen/native/index.js');
  const { connectVchan, VchanServer } = await import('../device/vchan/index.js');
  const xen = await openNativeXen();
  const address = { domid, port, path };
  if (!listen) {
    return {
      open: (signal) => connectVchan(xen, { ...address, signal }),
      close: () => xen.close(),
    };
  }
  const rings = { readRingBytes: bufferSize, writeRingBytes: bufferSize };
  try {
    const server = await VchanServer.listen(xen, { ...address, ...rings });
    return {
      open: (signal) => server.accept(signal),
      close: async () => {
        await server.close();
        await xen.close();
      },
    };
  } catch (error) {
    await xen.close();
    throw error;
  }
}

export interface EmulatedOptions extends ChannelOptions {
  /** Where the daemon is. */
  readonly address: string | undefined;
  /** The domain to be in. */
  readonly as: number;
}

export async function openEmulatedSource(options: EmulatedOptions): Promise<ChannelSource> {
  const { address, as: asDomid, bufferSize, domid, listen, path, port } = options;
  const { XenvifClient } = await import('@xenvif/client');
  const client = new XenvifClient({ address });
  const rings = listen ? { ringBytes: bufferSize } : {};
  return {
    open: (signal) => client.vchan({ listen, domid, port, path, asDomid, signal, ...rings }),
    close: async () => client.close(),
  };
}

/** @throws InvalidArgumentError DOMID_INVALID */
export function parseDomid(text: string): number {
  if (/^\d{1,5}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('DOMID_INVALID', 'domid', `"${text}" is no number of a domain.`);
}
