/** IPv4 addresses as numbers from 0 to 2^32 - 1, and as text; prefixes in CIDR notation (RFC 4632). */
import { invalid } from './errors.js';

export const ANY_ADDRESS = 0;
export const BROADCAST_ADDRESS = 0xffff_ffff;

export interface Cidr {
  readonly address: number;
  readonly prefixBits: number;
}

/** Four decimal numbers with dots; undefined when `text` is something else. */
export function parseAddress(text: string): number | undefined {
  const parts = text.split('.');
  if (parts.length !== 4) return undefined;
  let address = 0;
  for (const part of parts) {
    if (!/^(0|[1-9]\d{0,2})$/.test(part) || Number(part) > 255) return undefined;
    address = address * 256 + Number(part);
  }
  return address;
}

/** @throws StackError ADDRESS_INVALID. */
export function requireAddress(text: string): number {
  const address = parseAddress(text);
  if (address === undefined) throw invalid('ADDRESS_INVALID', `"${text}" is no IPv4 address.`);
  return address;
}

export function formatAddress(address: number): string {
  return `${address >>> 24}.${(address >>> 16) & 255}.${(address >>> 8) & 255}.${address & 255}`;
}

/** An address, a slash and 0 to 32. @throws StackError CIDR_INVALID. */
export function requireCidr(text: string): Cidr {
  const [addressText = '', bitsText = '', ...rest] = text.split('/');
  const address = parseAddress(addressText);
  const isBits = /^\d{1,2}$/.test(bitsText) && Number(bitsText) <= 32;
  if (address === undefined || !isBits || rest.length > 0) {
    throw invalid('CIDR_INVALID', `"${text}" is no address with a prefix, such as 10.0.0.2/24.`);
  }
  return { address, prefixBits: Number(bitsText) };
}

/** The netmask of so many bits. */
export function maskOf(prefixBits: number): number {
  return prefixBits === 0 ? 0 : (0xffff_ffff << (32 - prefixBits)) >>> 0;
}

/** The bits of a netmask. @throws StackError NETMASK_INVALID where ones follow zeros. */
export function prefixBitsOf(netmask: number): number {
  const bits = Math.clz32(~netmask >>> 0);
  if (maskOf(bits) !== netmask >>> 0) {
    throw invalid('NETMASK_INVALID', `${formatAddress(netmask)} is no netmask.`);
  }
  return bits;
}

/** Whether no single host can have the address: this network, loopback, groups, and reserved. */
export function isUnusableSource(address: number): boolean {
  const first = address >>> 24;
  return first === 0 || first === 127 || first >= 224;
}

export function isMulticast(address: number): boolean {
  return address >>> 28 === 14;
}
