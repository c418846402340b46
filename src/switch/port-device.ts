/**
 * What can be plugged into a switch beside vifs and clients: a TAP interface of this machine's
 * kernel, and an interface of this domain's own. Each is loaded when it is first wanted, for most
 * daemons want neither.
 */
import type { Logger } from 'pino';
import type { Network } from '../device/network.js';
import type { TapDevice } from '../device/tap/index.js';
import { NotFoundError } from '../errors.js';
import type { Xen } from '../xen/xen.js';
import type { PortDevice } from './switch-records.js';

export interface PortNetwork {
  /** Its own name, for a port that is given none. */
  readonly name: string;
  /** The name that the API shows. */
  readonly device: string;
  /** The address of who sits there; empty where there may be many. */
  readonly mac: string;
  readonly network: Network;
  /** Whether there is somebody at the other end. */
  readonly isConnected: () => boolean;
  readonly close: () => Promise<void>;
}

/** @throws XenvifError TAP_UNAVAILABLE, TAP_DENIED, TAP_BUSY, ..., NETFRONT_NOT_FOUND. */
export async function openPortDevice(
  xen: Xen,
  device: PortDevice,
  logger: Logger,
): Promise<PortNetwork> {
  return device.kind === 'tap'
    ? await openTap(xen, device, logger)
    : await openNetfront(xen, device.handle, logger);
}

async function openTap(
  xen: Xen,
  device: Extract<PortDevice, { kind: 'tap' }>,
  logger: Logger,
): Promise<PortNetwork> {
  const taps = await import('../device/tap/index.js');
  const { interface: name, mtu, owner, persist } = device;
  const tap: TapDevice = taps.TapDevice.open({
    memory: xen.memory,
    ...(name === '' ? {} : { name }),
    ...(mtu === 0 ? {} : { mtu }),
    ...(owner === undefined ? {} : { owner }),
    persist,
    onLost: () => logger.warn({ interface: tap.name }, 'the interface of a port was removed'),
  });
  return {
    name: tap.name,
    device: tap.name,
    mac: tap.mac,
    network: tap,
    isConnected: () => tap.connected,
    close: () => tap.disconnect(),
  };
}

async function openNetfront(xen: Xen, handle: number, logger: Logger): Promise<PortNetwork> {
  const path = `/local/domain/${xen.domid}/device/vif/${handle}`;
  if ((await xen.store.readIfExists(`${path}/backend`)) === undefined) {
    const text = `This domain has no interface ${handle}; the toolstack has to give it one.`;
    throw new NotFoundError('NETFRONT_NOT_FOUND', text);
  }
  const { NetfrontDevice } = await import('../device/netfront/device.js');
  const network = await NetfrontDevice.open(xen, handle, logger);
  return {
    name: `netfront-${handle}`,
    device: `netfronts/${handle}`,
    mac: '',
    network,
    isConnected: () => network.connected,
    close: () => network.disconnect(),
  };
}
