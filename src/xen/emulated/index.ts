/** Emulated Xen: a whole machine in this process, for tests and for trying xenvif without Xen. */
export { Domain } from './domain.js';
export { EmulatedXen } from './emulated-xen.js';
export type { FaultRates } from './faults.js';
export { type DomainOptions, Hypervisor, type HypervisorOptions } from './hypervisor.js';
export type { RawGuest } from './raw-guest.js';
