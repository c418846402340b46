/** What a device dropped, as tests want to compare it. */
import type { DeviceMetrics } from '../../src/device/metrics.js';

/** Numbers of frames by stage and cause: `{ 'tx-queue TOO_SHORT': 1 }`. */
export function dropsOf(device: { readonly metrics: DeviceMetrics }): Record<string, number> {
  const { tx, rx } = device.metrics;
  const drops = [...tx.drops, ...rx.drops].map(([key, { packets }]) => [key, packets]);
  return Object.fromEntries(drops);
}
