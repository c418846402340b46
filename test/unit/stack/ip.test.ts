/** ARP, IPv4 and ICMP on a wire whose other end is the test. */
import { Stack } from '@xenvif/client/stack';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { seededRandom } from '../../support/random.js';
import { MemoryLink } from './memory-link.js';
import {
  arp,
  echo,
  ethernet,
  ipv4,
  ipv4Frame,
  mac,
  naiveChecksum,
  OUR_IP,
  OUR_MAC,
  PEER_IP,
  PEER_MAC,
  udp,
} from './packets.js';
import { settle, VirtualClock } from './virtual-clock.js';

const BROADCAST = 'ff:ff:ff:ff:ff:ff';
const ECHO_REQUEST = 8;
const NOBODYS_PROTOCOL = 99;

let clock: VirtualClock;
let link: MemoryLink;
let stack: Stack;
const onConflict = vi.fn();

beforeEach(async () => {
  clock = new VirtualClock();
  link = new MemoryLink(OUR_MAC);
  onConflict.mockReset();
  stack = Stack.connect(link, {
    ...{ clock, random: seededRandom(1), cidr: `${OUR_IP}/24`, gateway: '10.0.0.254', onConflict },
  });
  // What is announced when an address is taken.
  await clock.pass(5_000);
  link.take();
});
afterEach(() => stack.disconnect());

async function answersTo(...frames: Uint8Array[]): Promise<Buffer[]> {
  link.receives(...frames);
  await settle();
  return link.take();
}

/** The peer asks for us, so that we know where it is. */
async function meet(): Promise<void> {
  await answersTo(arp({ operation: 1, senderIp: PEER_IP, targetIp: OUR_IP }));
}

function isArpRequest(frame: Buffer | undefined, target: string): boolean {
  const isRequest = frame?.readUInt16BE(12) === 0x0806 && frame.readUInt16BE(20) === 1;
  return isRequest && frame.subarray(38, 42).join('.') === target;
}

describe('ARP', () => {
  test('announces an address twice when it is taken', async () => {
    stack.configure('10.0.0.9/24');
    await clock.pass(10_000);
    const frames = link.take();
    expect(frames).toHaveLength(2);
    for (const frame of frames) {
      expect(isArpRequest(frame, '10.0.0.9')).toBe(true);
      expect(frame.subarray(28, 32).join('.')).toBe('10.0.0.9');
      expect(frame.subarray(0, 6).equals(mac(BROADCAST))).toBe(true);
    }
  });

  test('answers for our address and for no other', async () => {
    const [reply, ...others] = await answersTo(
      arp({ operation: 1, senderIp: PEER_IP, targetIp: OUR_IP }),
      arp({ operation: 1, senderIp: PEER_IP, targetIp: '10.0.0.77' }),
    );
    expect(others).toEqual([]);
    const expected = arp(
      {
        operation: 2,
        senderMac: OUR_MAC,
        senderIp: OUR_IP,
        targetMac: PEER_MAC,
        targetIp: PEER_IP,
      },
      PEER_MAC,
    );
    expect(reply?.equals(expected)).toBe(true);
  });

  test('asks three times and then tells whoever waits', async () => {
    const told = vi.fn();
    stack.ipv4.onUnreachable(told);
    const socket = stack.createUdpSocket();
    socket.send('x', 9, PEER_IP);
    await clock.pass(2_500);
    const asked = link.take();
    expect(asked.map((frame) => isArpRequest(frame, PEER_IP))).toEqual([true, true, true]);
    expect(told).not.toHaveBeenCalled();
    await clock.pass(1_000);
    expect(told).toHaveBeenCalledWith(0x0a000002);
    expect(link.take()).toEqual([]);
  });

  test('keeps packets for a neighbour until it answers, in order and within bounds', async () => {
    const socket = stack.createUdpSocket();
    for (let index = 0; index < 100; index += 1) socket.send(Buffer.from([index]), 9, PEER_IP);
    await settle();
    expect(link.take()).toHaveLength(1);
    const frames = await answersTo(
      arp({ operation: 2, senderIp: PEER_IP, targetMac: OUR_MAC, targetIp: OUR_IP }, OUR_MAC),
    );
    expect(frames.map((frame) => frame[42])).toEqual(
      Array.from({ length: 32 }, (_, index) => index),
    );
    for (const frame of frames) expect(frame.subarray(0, 6).equals(mac(PEER_MAC))).toBe(true);
  });

  test('believes nobody who was not asked', async () => {
    await answersTo(
      arp(
        { operation: 2, senderIp: '10.0.0.50', targetMac: OUR_MAC, targetIp: '10.0.0.60' },
        OUR_MAC,
      ),
    );
    expect(stack.ipv4.arp.neighbours.size).toBe(0);
  });

  test('knows no more neighbours than the bound, whoever asks', async () => {
    for (let host = 0; host < 2_000; host += 1) {
      const senderIp = `10.0.${host >> 8}.${host & 255}`;
      link.receives(arp({ operation: 1, senderIp, targetIp: OUR_IP }));
    }
    await settle();
    expect(stack.ipv4.arp.neighbours.size).toBe(512);
    // Whom nobody talks to is forgotten, some minutes later.
    await clock.pass(700_000);
    await meet();
    expect([...stack.ipv4.arp.neighbours].length).toBe(1);
  });

  test('asks a neighbour itself when what is known of it is old, and goes on sending', async () => {
    await meet();
    await clock.pass(61_000);
    const frames = await answersTo(
      ipv4Frame({ protocol: 1 }, echo(ECHO_REQUEST, 1, 1, mac(OUR_MAC))),
    );
    expect(frames).toHaveLength(2);
    expect(frames[0]?.readUInt16BE(12)).toBe(0x0800);
    expect(isArpRequest(frames[1], PEER_IP)).toBe(true);
    expect(frames[1]?.subarray(0, 6).equals(mac(PEER_MAC))).toBe(true);
  });

  test('defends our address, but not again and again', async () => {
    const claim = arp({ operation: 2, senderIp: OUR_IP, targetIp: PEER_IP });
    const defence = await answersTo(claim, claim);
    expect(defence).toHaveLength(1);
    expect(isArpRequest(defence[0], OUR_IP)).toBe(true);
    expect(onConflict).toHaveBeenCalledWith(PEER_MAC);
    await clock.pass(11_000);
    expect(await answersTo(claim)).toHaveLength(1);
  });

  test('takes an address that nobody answers for, after three probes', async () => {
    const taken = stack.probeAndConfigure('10.0.0.9/24');
    await clock.pass(8_000);
    await taken;
    const probes = link.take().filter((frame) => frame.readUInt32BE(28) === 0);
    expect(probes.map((frame) => isArpRequest(frame, '10.0.0.9'))).toEqual([true, true, true]);
    expect(stack.ipv4.ip).toBe('10.0.0.9');
  });

  test.each([
    ['uses', { operation: 2, senderIp: '10.0.0.9', targetIp: '10.0.0.9' }],
    ['probes', { operation: 1, senderIp: '0.0.0.0', targetIp: '10.0.0.9' }],
  ])('does not take an address that another %s', async (_, packet) => {
    const taken = stack.probeAndConfigure('10.0.0.9/24');
    const refused = expect(taken).rejects.toMatchObject({ code: 'ADDRESS_IN_USE' });
    await clock.pass(500);
    link.receives(arp(packet));
    await clock.pass(8_000);
    await refused;
    expect(stack.ipv4.ip).toBe(OUR_IP);
  });
});

describe('IPv4', () => {
  test('has the face of Mirage: input goes to the callback of its protocol', () => {
    const calls: string[] = [];
    const note = (name: string) => (source: string, destination: string, payload: Uint8Array) =>
      calls.push(`${name} ${source} ${destination} ${Buffer.from(payload).toString()}`);
    const handlers = { tcp: note('tcp'), udp: note('udp'), default: (n: number) => note(`${n}`) };
    for (const protocol of [6, 17, 1, 99]) {
      stack.ipv4.input(handlers, ipv4({ protocol }, Buffer.from('data')));
    }
    stack.ipv4.input(handlers, ipv4({ protocol: 6, destination: '10.0.0.7' }, Buffer.from('x')));
    stack.ipv4.input(handlers, Buffer.from('nonsense'));
    expect(calls).toEqual(
      ['tcp', 'udp', '1', '99'].map((name) => `${name} ${PEER_IP} ${OUR_IP} data`),
    );
  });

  test('sends what is put behind an allocated frame, gathered and in fragments', async () => {
    await meet();
    const { frame, headerBytes } = stack.ipv4.allocateFrame('udp', PEER_IP);
    const head = frame.subarray(0, headerBytes);
    await stack.ipv4.writev(head, [Buffer.from('ab'), Buffer.from('cde')]);
    await stack.ipv4.write(head, Buffer.alloc(3000, 'x'));
    await settle();
    const [whole, ...fragments] = link.take();
    expect(whole?.subarray(34).toString()).toBe('abcde');
    expect(naiveChecksum(whole?.subarray(14, 34) ?? Buffer.alloc(0))).toBe(0);
    expect(whole?.readUInt16BE(16)).toBe(25);
    const word = (fragment: Buffer) => fragment.readUInt16BE(20);
    expect(fragments.map(word)).toEqual([0x2000, 0x2000 + 185, 370]);
    expect(fragments.map((fragment) => fragment.length)).toEqual([1514, 1514, 74]);
  });

  test('allows its settings to be read and written', () => {
    const { ipv4: ip } = stack;
    ip.setIp('192.168.1.5');
    ip.setNetmask('255.255.252.0');
    ip.setGateways(['192.168.1.1', '192.168.1.2']);
    expect([ip.ip, ip.netmask, ip.gateways]).toEqual([
      ...['192.168.1.5', '255.255.252.0', ['192.168.1.1', '192.168.1.2']],
    ]);
    expect(() => ip.setIp('224.0.0.1')).toThrow(/No host/);
    expect(() => ip.setIp('1.2.3')).toThrow(/no IPv4/);
    expect(() => ip.setNetmask('255.0.255.0')).toThrow(/no netmask/);
  });

  test.each([
    ['10.0.0.7', '10.0.0.7'],
    ['8.8.8.8', '10.0.0.254'],
    ['10.9.1.1', '10.0.0.20'],
    ['10.9.2.1', '10.0.0.30'],
  ])('sends packets for %s to %s, which has the longest prefix', async (destination, neighbour) => {
    stack.ipv4.setRoutes([
      { prefix: 0x0a090000, prefixBits: 16, gateway: 0x0a000014 },
      { prefix: 0x0a090200, prefixBits: 24, gateway: 0x0a00001e },
    ]);
    stack.createUdpSocket().send('x', 9, destination);
    await settle();
    expect(isArpRequest(link.take()[0], neighbour)).toBe(true);
  });

  test.each([
    ['for others', { destination: '10.0.0.3' }],
    ['from us (land)', { source: OUR_IP }],
    ['from everybody', { source: '10.0.0.255' }],
    ['from a group', { source: '224.0.0.5' }],
    ['from loopback', { source: '127.0.0.1' }],
  ])('drops packets that are %s', async (_, fields) => {
    await meet();
    const request = echo(ECHO_REQUEST, 1, 1, Buffer.from('data'));
    expect(await answersTo(ipv4Frame({ protocol: 1, ...fields }, request))).toEqual([]);
  });

  test('drops a frame for another MAC address', async () => {
    await meet();
    const request = echo(ECHO_REQUEST, 1, 1, Buffer.from('data'));
    expect(await answersTo(ipv4Frame({ protocol: 1 }, request, PEER_MAC))).toEqual([]);
  });
});

describe('ICMP', () => {
  beforeEach(meet);

  test('answers an echo with its data, and without the padding of the frame', async () => {
    const frame = ipv4Frame({ protocol: 1 }, echo(ECHO_REQUEST, 0x1234, 7, Buffer.from('data')));
    const [reply] = await answersTo(Buffer.concat([frame, Buffer.alloc(14, 0xff)]));
    expect(reply?.subarray(34).equals(echo(0, 0x1234, 7, Buffer.from('data')))).toBe(true);
  });

  test('does not answer an echo to everybody, or a damaged one', async () => {
    const request = echo(ECHO_REQUEST, 1, 1, Buffer.from('data'));
    const damaged = Buffer.from(request);
    damaged.writeUInt8(1, 10);
    const toAll = ipv4Frame({ protocol: 1, destination: '10.0.0.255' }, request, BROADCAST);
    expect(await answersTo(toAll, ipv4Frame({ protocol: 1 }, damaged))).toEqual([]);
  });

  test('tells who sent to a protocol or port that nobody has, and quotes the packet', async () => {
    const datagram = udp(1000, 9, Buffer.from('data'));
    const [byPort, byProtocol] = await answersTo(
      ipv4Frame({ protocol: 17 }, datagram),
      ipv4Frame({ protocol: NOBODYS_PROTOCOL }, Buffer.from('data12345')),
    );
    expect(byPort?.subarray(34, 36)).toEqual(Buffer.from([3, 3]));
    expect(byPort?.subarray(62).equals(datagram)).toBe(true);
    expect(naiveChecksum(byPort?.subarray(34) ?? Buffer.alloc(0))).toBe(0);
    expect(byProtocol?.subarray(34, 36)).toEqual(Buffer.from([3, 2]));
    // The header is the sender's own, to the last bit.
    const options = Buffer.from([7, 7, 4, 0, 0, 0, 0, 0]);
    const frame = ipv4Frame({ protocol: 17, ttl: 3, identification: 99, options }, datagram);
    const [byHeader] = await answersTo(frame);
    expect(byHeader?.subarray(42).equals(frame.subarray(14))).toBe(true);
  });

  test('believes nobody about the way of a packet that it did not send', async () => {
    const request = echo(ECHO_REQUEST, 12_345, 1, Buffer.alloc(40));
    const quoted = ipv4({ protocol: 1, source: OUR_IP, destination: '10.0.0.3' }, request);
    const message = Buffer.concat([Buffer.from('0304000000000240', 'hex'), quoted]);
    message.writeUInt16BE(naiveChecksum(message), 2);
    await answersTo(ipv4Frame({ protocol: 1 }, message));
    expect(stack.counts.icmp.received).toBe(1);
    expect(stack.ipv4.pathMtus.size).toBe(0);
  });

  test('tells no more than so many in a second, and nothing about errors or groups', async () => {
    const wrong = ipv4Frame({ protocol: NOBODYS_PROTOCOL }, Buffer.from('data12345'));
    const many = await answersTo(...Array.from({ length: 500 }, () => wrong));
    expect(many).toHaveLength(100);
    await clock.pass(1_000);
    const toAll = { protocol: 17, destination: '10.0.0.255' };
    const error = Buffer.concat([Buffer.from([3, 3, 0, 0, 0, 0, 0, 0])]);
    expect(
      await answersTo(
        ipv4Frame(toAll, udp(1, 9, Buffer.alloc(1)), BROADCAST),
        ethernet(0x0800, ipv4({ protocol: 1, source: '0.0.0.0' }, error)),
      ),
    ).toEqual([]);
  });

  test('tells the sender of a packet whose fragments did not all come', async () => {
    const first = Buffer.alloc(1480, 1);
    await answersTo(ipv4Frame({ protocol: 17, moreFragments: true }, first));
    await clock.pass(31_000);
    const [exceeded] = link.take();
    expect(exceeded?.subarray(34, 36)).toEqual(Buffer.from([11, 1]));
    expect(stack.counts.reassembly.expired).toBe(1);
  });

  test('a ping gets its answer, a damaged answer, an error or none', async () => {
    const answers: ((request: Buffer) => Buffer | undefined)[] = [
      (request) =>
        echo(0, request.readUInt16BE(38), request.readUInt16BE(40), request.subarray(42)),
      (request) => echo(0, request.readUInt16BE(38), request.readUInt16BE(40), Buffer.from('no')),
      (request) => {
        const message = Buffer.concat([
          Buffer.from('0301000000000000', 'hex'),
          request.subarray(14),
        ]);
        message.writeUInt16BE(naiveChecksum(message), 2);
        return message;
      },
      () => undefined,
    ];
    link.onSent = (frame) => {
      const answer = answers.shift()?.(frame);
      if (answer !== undefined)
        queueMicrotask(() => link.receives(ipv4Frame({ protocol: 1 }, answer)));
    };
    const results: string[] = [];
    const run = async () => {
      for await (const result of stack.ping(PEER_IP, { count: 4 })) results.push(result.outcome);
    };
    const done = run();
    await clock.pass(10_000);
    await done;
    expect(results).toEqual(['reply', 'damaged', 'error', 'timeout']);
  });

  test('a ping ends when its signal is aborted', async () => {
    const abort = new AbortController();
    const next = stack.ping(PEER_IP, { signal: abort.signal }).next();
    const failed = expect(next).rejects.toMatchObject({ name: 'AbortError' });
    await settle();
    abort.abort();
    await failed;
  });
});

test('a stack that was disconnected has given its link up and nothing waits', async () => {
  stack.createUdpSocket().send('x', 9, PEER_IP);
  await stack.disconnect();
  expect(link.isClosed).toBe(true);
  expect(clock.pending).toBe(0);
});
