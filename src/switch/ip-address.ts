/** IP addresses as people write them: RFC 4291, section 2.2, for version 6. */
import { isIPv4, isIPv6 } from 'node:net';

/** The 4 or 16 bytes of an address; undefined when `text` is none. */
export function parseIpAddress(text: string): Uint8Array | undefined {
  return parseIpv4Address(text) ?? parseIpv6Address(text);
}

function parseIpv4Address(text: string): Uint8Array | undefined {
  return isIPv4(text) ? Uint8Array.from(text.split('.'), Number) : undefined;
}

function parseIpv6Address(text: string): Uint8Array | undefined {
  // A zone says where an address is meant; the wire knows none.
  if (!isIPv6(text) || text.includes('%')) return undefined;
  const [left = '', right] = text.split('::');
  const head = groups(left);
  const tail = right === undefined ? [] : groups(right);
  const zeros = new Array<number>(16 - head.length - tail.length).fill(0);
  return Uint8Array.from([...head, ...zeros, ...tail]);
}

/** The bytes of groups with colons between, the last of which may be an IPv4 address. */
function groups(text: string): number[] {
  if (text === '') return [];
  return text.split(':').flatMap((group) => {
    const ipv4 = parseIpv4Address(group);
    if (ipv4 !== undefined) return [...ipv4];
    const value = Number.parseInt(group, 16);
    return [value >>> 8, value & 0xff];
  });
}
