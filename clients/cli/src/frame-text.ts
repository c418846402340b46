/** A frame in one line, as `tcpdump -e` would put it in brief. What is cut off is said to be. */

const ETHERTYPES: Readonly<Record<number, string>> = {
  2048: 'IPv4',
  2054: 'ARP',
  34525: 'IPv6',
  35020: 'LLDP',
};
const IP_PROTOCOLS: Readonly<Record<number, string>> = {
  1: 'ICMP',
  2: 'IGMP',
  6: 'TCP',
  17: 'UDP',
  47: 'GRE',
  58: 'ICMPv6',
  132: 'SCTP',
};
const ICMP_TYPES: Readonly<Record<number, string>> = {
  0: 'echo reply',
  3: 'unreachable',
  5: 'redirect',
  8: 'echo request',
  11: 'time exceeded',
};
const ICMPV6_TYPES: Readonly<Record<number, string>> = {
  128: 'echo request',
  129: 'echo reply',
  133: 'router solicitation',
  134: 'router advertisement',
  135: 'neighbour solicitation',
  136: 'neighbour advertisement',
};
const TCP_FLAGS = ['FIN', 'SYN', 'RST', 'PSH', 'ACK', 'URG'] as const;

/** The addresses and the payload of a frame. */
export interface FrameSummary {
  readonly source: string;
  readonly destination: string;
  /** `IPv4`, `ARP`, ... or the number in hex. */
  readonly etherType: string;
  /** What is in it, in a few words. */
  readonly text: string;
}

/** Says what is in `frame`, which may be cut by a snaplen. */
export function summarize(frame: Buffer): FrameSummary {
  if (frame.length < 14) {
    return { source: '', destination: '', etherType: '', text: '[cut off]' };
  }
  const destination = macText(frame, 0);
  const source = macText(frame, 6);
  let offset = 12;
  let type = frame.readUInt16BE(offset);
  let tags = '';
  // 802.1Q and 802.1ad tags stand before the type.
  while ((type === 0x8100 || type === 0x88a8) && frame.length >= offset + 6) {
    tags += `vlan ${frame.readUInt16BE(offset + 2) & 0xfff} `;
    offset += 4;
    type = frame.readUInt16BE(offset);
  }
  const etherType = type < 0x0600 ? '802.3' : (ETHERTYPES[type] ?? hex(type));
  const payload = frame.subarray(offset + 2);
  return {
    source,
    destination,
    etherType,
    text: `${tags}${etherType} ${body(type, payload)}`.trim(),
  };
}

function body(type: number, payload: Buffer): string {
  switch (type) {
    case 0x0800:
      return ipv4(payload);
    case 0x0806:
      return arp(payload);
    case 0x86dd:
      return ipv6(payload);
    default:
      return '';
  }
}

/** RFC 826, for IPv4 over Ethernet. */
function arp(packet: Buffer): string {
  if (packet.length < 28) return '[cut off]';
  const operation = packet.readUInt16BE(6);
  const sender = ipv4Text(packet, 14);
  const target = ipv4Text(packet, 24);
  if (operation === 1) return `who-has ${target} tell ${sender}`;
  if (operation === 2) return `${sender} is-at ${macText(packet, 8)}`;
  return `operation ${operation}`;
}

/** RFC 791. */
function ipv4(packet: Buffer): string {
  if (packet.length < 20) return '[cut off]';
  const headerBytes = ((packet[0] ?? 0) & 0xf) * 4;
  const fragment = packet.readUInt16BE(6) & 0x1fff;
  const protocol = packet[9] ?? 0;
  const addresses = [ipv4Text(packet, 12), ipv4Text(packet, 16)] as const;
  if (fragment > 0) {
    return `${addresses[0]} > ${addresses[1]} ${protocolName(protocol)} fragment at ${fragment * 8}`;
  }
  return transport(protocol, packet.subarray(Math.max(20, headerBytes)), addresses, '');
}

/** RFC 8200, without extension headers. */
function ipv6(packet: Buffer): string {
  if (packet.length < 40) return '[cut off]';
  const addresses = [ipv6Text(packet, 8), ipv6Text(packet, 24)] as const;
  return transport(packet[6] ?? 0, packet.subarray(40), addresses, 'v6');
}

function transport(
  protocol: number,
  segment: Buffer,
  [source, destination]: readonly [string, string],
  version: '' | 'v6',
): string {
  const name = protocolName(protocol);
  const between = `${source} > ${destination} ${name}`;
  if (name === 'TCP' || name === 'UDP') {
    if (segment.length < 4) return `${between} [cut off]`;
    const join = (address: string, port: number): string =>
      version === 'v6' ? `[${address}]:${port}` : `${address}:${port}`;
    const from = join(source, segment.readUInt16BE(0));
    const to = join(destination, segment.readUInt16BE(2));
    return `${from} > ${to} ${name}${name === 'TCP' ? tcpFlags(segment) : ''}`;
  }
  if (name !== 'ICMP' && name !== 'ICMPv6') return between;
  if (segment.length < 8) return `${between} [cut off]`;
  const type = segment[0] ?? 0;
  const words = (name === 'ICMP' ? ICMP_TYPES : ICMPV6_TYPES)[type] ?? `type ${type}`;
  if (!words.startsWith('echo')) return `${between} ${words}`;
  return `${between} ${words} id ${segment.readUInt16BE(4)} seq ${segment.readUInt16BE(6)}`;
}

function tcpFlags(segment: Buffer): string {
  if (segment.length < 14) return ' [cut off]';
  const flags = segment[13] ?? 0;
  const names = TCP_FLAGS.filter((_, bit) => (flags & (1 << bit)) !== 0);
  return ` ${names.join('+')} seq ${segment.readUInt32BE(4)}`;
}

function protocolName(protocol: number): string {
  return IP_PROTOCOLS[protocol] ?? `protocol ${protocol}`;
}

export function macText(bytes: Buffer, offset: number): string {
  const hexDigits = bytes.toString('hex', offset, offset + 6);
  return hexDigits.replace(/(..)(?!$)/g, '$1:');
}

function ipv4Text(bytes: Buffer, offset: number): string {
  return bytes.subarray(offset, offset + 4).join('.');
}

/** RFC 5952: the longest run of zero groups, if it has two or more, becomes `::`. */
function ipv6Text(bytes: Buffer, offset: number): string {
  const groups = Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(offset + index * 2));
  const text = groups.map((group) => group.toString(16)).join(':');
  const runs = text.match(/\b0(?::0)+\b/g) ?? [];
  const longest = runs.reduce((best, run) => (run.length > best.length ? run : best), '');
  if (longest === '') return text;
  return text.replace(new RegExp(`(?:^|:)${longest}(?:$|:)`), '::');
}

function hex(type: number): string {
  return `0x${type.toString(16).padStart(4, '0')}`;
}
