/** NICs on a hub in memory. */
export type { VnetifBackend, VnetifReader } from './backend.js';
export { BasicBackend, type BasicBackendOptions } from './basic-backend.js';
export { Vnetif, type VnetifDirection, type VnetifOptions } from './device.js';
