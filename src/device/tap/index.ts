/** A network interface of this machine's kernel as a Network. */
export { TapDevice, type TapOptions } from './device.js';
