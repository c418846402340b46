#!/usr/bin/env node
// Be a host on a guest's network: attach to its vif, answer ARP for one address and every ping to it.
//
//   node answer-pings.mjs VIF IP [--mac MAC]      for example: node answer-pings.mjs 1.0 10.0.0.9
//
// Then ping IP in the guest. Ctrl-C ends it.
import { parseArgs } from 'node:util';
import { XenvifClient } from '@xenvif/client';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { mac: { type: 'string', default: '02:00:00:00:00:09' } },
});
const [vif, address] = positionals;
if (vif === undefined || address === undefined) {
  console.error('usage: node answer-pings.mjs VIF IP [--mac MAC]');
  process.exit(2);
}
const ourIp = Buffer.from(address.split('.').map(Number));
const ourMac = Buffer.from(values.mac.replaceAll(':', ''), 'hex');
if (ourIp.length !== 4 || ourMac.length !== 6) {
  console.error('IP is four numbers with dots, MAC six hex pairs with colons.');
  process.exit(2);
}

const client = new XenvifClient();
try {
  const nic = await client.attach(vif);
  process.once('SIGINT', () => nic.disconnect());
  console.log(`${address} is at ${values.mac} on ${nic.name}; the guest is ${nic.mac}`);
  for await (const { data } of nic) {
    const frame = Buffer.from(data);
    const reply = arpReply(frame) ?? pingReply(frame);
    if (reply !== undefined) await nic.write(reply);
  }
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
} finally {
  client.close();
}

/**
 * The answer to an ARP request for our address (RFC 826), if `frame` is one.
 * @param {Buffer} frame
 */
function arpReply(frame) {
  const isRequest = frame.length >= 42 && frame.readUInt32BE(12) === 0x0806_0001;
  if (!isRequest || frame.readUInt16BE(20) !== 1 || !frame.subarray(38, 42).equals(ourIp)) return;
  const [askerMac, askerIp] = [frame.subarray(22, 28), frame.subarray(28, 32)];
  console.log(`ARP: told ${askerIp.join('.')} where we are`);
  const ethernetIpv4Reply = Buffer.from('0001080006040002', 'hex');
  return Buffer.concat([
    ethernet(askerMac, 0x0806),
    ethernetIpv4Reply,
    ...[ourMac, ourIp, askerMac, askerIp],
  ]);
}

/**
 * The answer to an ICMP echo request to our address (RFC 792), if `frame` is one.
 * @param {Buffer} frame
 */
function pingReply(frame) {
  const isIpv4 = frame.length >= 34 && frame.readUInt16BE(12) === 0x0800;
  const isOurs = frame.subarray(0, 6).equals(ourMac) && frame.subarray(30, 34).equals(ourIp);
  if (!isIpv4 || !isOurs) return;
  const header = frame.subarray(14, 14 + (frame.readUInt8(14) & 0xf) * 4);
  // What is behind the packet's own length is padding of a short frame.
  const icmp = frame.subarray(14 + header.length, 14 + frame.readUInt16BE(16));
  const [icmpProtocol, echoRequest, echoReply] = [1, 8, 0];
  if (header[9] !== icmpProtocol || icmp.length < 8 || icmp[0] !== echoRequest) return;
  const askerIp = Buffer.from(header.subarray(12, 16));
  console.log(`ICMP: answered ${askerIp.join('.')}, sequence ${icmp.readUInt16BE(6)}`);
  // Swapping the addresses leaves the sum of the header as it is.
  ourIp.copy(header, 12);
  askerIp.copy(header, 16);
  icmp.writeUInt8(echoReply, 0);
  icmp.writeUInt16BE(0, 2);
  icmp.writeUInt16BE(internetChecksum(icmp), 2);
  return Buffer.concat([ethernet(frame.subarray(6, 12), 0x0800), header, icmp]);
}

/**
 * An Ethernet header from us.
 * @param {Buffer} destination
 * @param {number} type
 */
function ethernet(destination, type) {
  return Buffer.concat([destination, ourMac, Buffer.from([type >> 8, type & 0xff])]);
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
