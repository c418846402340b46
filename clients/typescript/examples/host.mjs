// A host of one address, as far as ARP and ping go: what the examples answer with.

/**
 * Makes a host that is at `ip` with the address `mac`. It answers a frame with another, or with nothing.
 * @param {string} ip four numbers with dots
 * @param {string} mac six hex pairs with colons
 * @returns {(frame: Uint8Array) => Uint8Array | undefined}
 */
export function makeHost(ip, mac) {
  const ourIp = Buffer.from(ip.split('.').map(Number));
  const ourMac = Buffer.from(mac.replaceAll(':', ''), 'hex');
  if (ourIp.length !== 4 || ourMac.length !== 6) {
    throw new Error('IP is four numbers with dots, MAC six hex pairs with colons.');
  }
  const us = { ip: ourIp, mac: ourMac };
  return (bytes) => {
    const frame = Buffer.from(bytes);
    return arpReply(us, frame) ?? pingReply(us, frame);
  };
}

/**
 * The answer to an ARP request for our address (RFC 826), if `frame` is one.
 * @param {{ ip: Buffer, mac: Buffer }} us
 * @param {Buffer} frame
 */
function arpReply(us, frame) {
  const isRequest = frame.length >= 42 && frame.readUInt32BE(12) === 0x0806_0001;
  if (!isRequest || frame.readUInt16BE(20) !== 1 || !frame.subarray(38, 42).equals(us.ip)) return;
  const [askerMac, askerIp] = [frame.subarray(22, 28), frame.subarray(28, 32)];
  console.log(`ARP: told ${askerIp.join('.')} where we are`);
  const ethernetIpv4Reply = Buffer.from('0001080006040002', 'hex');
  return Buffer.concat([
    ethernet(us, askerMac, 0x0806),
    ethernetIpv4Reply,
    ...[us.mac, us.ip, askerMac, askerIp],
  ]);
}

/**
 * The answer to an ICMP echo request to our address (RFC 792), if `frame` is one.
 * @param {{ ip: Buffer, mac: Buffer }} us
 * @param {Buffer} frame
 */
function pingReply(us, frame) {
  const isIpv4 = frame.length >= 34 && frame.readUInt16BE(12) === 0x0800;
  const isOurs = frame.subarray(0, 6).equals(us.mac) && frame.subarray(30, 34).equals(us.ip);
  if (!isIpv4 || !isOurs) return;
  const header = frame.subarray(14, 14 + (frame.readUInt8(14) & 0xf) * 4);
  // What is behind the packet's own length is padding of a short frame.
  const icmp = frame.subarray(14 + header.length, 14 + frame.readUInt16BE(16));
  const [icmpProtocol, echoRequest, echoReply] = [1, 8, 0];
  if (header[9] !== icmpProtocol || icmp.length < 8 || icmp[0] !== echoRequest) return;
  const askerIp = Buffer.from(header.subarray(12, 16));
  console.log(`ICMP: answered ${askerIp.join('.')}, sequence ${icmp.readUInt16BE(6)}`);
  // Swapping the addresses leaves the sum of the header as it is.
  us.ip.copy(header, 12);
  askerIp.copy(header, 16);
  icmp.writeUInt8(echoReply, 0);
  icmp.writeUInt16BE(0, 2);
  icmp.writeUInt16BE(internetChecksum(icmp), 2);
  return Buffer.concat([ethernet(us, frame.subarray(6, 12), 0x0800), header, icmp]);
}

/**
 * An Ethernet header from us.
 * @param {{ mac: Buffer }} us
 * @param {Buffer} destination
 * @param {number} type
 */
function ethernet(us, destination, type) {
  return Buffer.concat([destination, us.mac, Buffer.from([type >> 8, type & 0xff])]);
}

/**
 * The Internet checksum (RFC 1071).
 * @param {Buffer} bytes
 */
function internetChecksum(bytes) {
  let sum = 0;
  for (const [index, byte] of bytes.entries()) sum += index % 2 === 0 ? byte << 8 : byte;
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}
