/** Which NICs are plugged into the hub: every vif that the netback serves. */
import type { NetbackDevice } from '../../src/device/netback/device.js';
import type { Netback } from '../../src/device/netback/index.js';
import { Hub } from './hub.js';

/** Every vif is a port of the one hub, from when it is found until it goes. */
export function joinToHub(netback: Netback): void {
  const hub = new Hub();
  const unplug = new Map<NetbackDevice, () => void>();
  netback.onVif((event, device) => {
    if (event === 'deleted') {
      unplug.get(device)?.();
      unplug.delete(device);
    } else if (!unplug.has(device)) {
      unplug.set(device, hub.plug(device));
    }
  });
}
