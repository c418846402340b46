/** The DHCP client with a server that the test is. */
import { type DhcpLease, type DhcpOptions, Stack } from '@xenvif/client/stack';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { seededRandom } from '../../support/random.js';
import { MemoryLink } from './memory-link.js';
import { arp, ip, ipv4Frame, mac, OUR_MAC, u16, withTransportChecksum } from './packets.js';
import { VirtualClock } from './virtual-clock.js';

const [DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE] = [1, 2, 3, 4, 5, 6, 7];
const SERVER = '10.7.0.1';
const LEASE_SECONDS = 1000;
const BROADCAST = 'ff:ff:ff:ff:ff:ff';

interface Said {
  readonly type: number;
  readonly transaction: number;
  readonly clientAddress: string;
  readonly destination: string;
  readonly requested: string | undefined;
  readonly server: string | undefined;
}

let clock: VirtualClock;
let link: MemoryLink;
let stack: Stack;
let said: Said[];
/** What the server answers to each message; nothing where it is undefined. */
let answerTo: (message: Said) => Buffer | undefined;
let nextAddress: number;

beforeEach(() => {
  clock = new VirtualClock();
  link = new MemoryLink(OUR_MAC);
  stack = Stack.connect(link, { clock, random: seededRandom(3) });
  said = [];
  nextAddress = 50;
  answerTo = (message) => {
    if (message.type === DISCOVER) return messageFor(message, OFFER, `10.7.0.${nextAddress++}`);
    const address = message.requested ?? message.clientAddress;
    return message.type === REQUEST ? messageFor(message, ACK, address) : undefined;
  };
  link.onSent = (frame) => {
    if (frame.readUInt16BE(12) === 0x0806 && frame.subarray(38, 42).join('.') === SERVER) {
      const reply = arp({ operation: 2, senderIp: SERVER, targetIp: '0.0.0.0' }, OUR_MAC);
      queueMicrotask(() => link.receives(reply));
    }
    const message = parse(frame);
    if (message === undefined) return;
    said.push(message);
    const answer = answerTo(message);
    if (answer !== undefined) queueMicrotask(() => link.receives(answer));
  };
});
afterEach(() => stack.disconnect());

function parse(frame: Buffer): Said | undefined {
  if (frame.readUInt16BE(12) !== 0x0800 || frame[23] !== 17 || frame.readUInt16BE(36) !== 67) {
    return undefined;
  }
  const message = frame.subarray(42);
  expect(message.length).toBeGreaterThanOrEqual(300);
  const options = new Map<number, Buffer>();
  for (let at = 240; message[at] !== 255; at += 2 + message.readUInt8(at + 1)) {
    options.set(
      message.readUInt8(at),
      message.subarray(at + 2, at + 2 + message.readUInt8(at + 1)),
    );
  }
  return {
    type: options.get(53)?.[0] ?? 0,
    transaction: message.readUInt32BE(4),
    clientAddress: message.subarray(12, 16).join('.'),
    destination: frame.subarray(30, 34).join('.'),
    requested: options.get(50)?.join('.'),
    server: options.get(54)?.join('.'),
  };
}

function messageFor(
  to: Pick<Said, 'transaction'>,
  type: number,
  address: string,
  change: (message: Buffer) => void = () => undefined,
): Buffer {
  const head = Buffer.alloc(240);
  head.set([2, 1, 6]);
  head.writeUInt32BE(to.transaction, 4);
  ip(address).copy(head, 16);
  mac(OUR_MAC).copy(head, 28);
  head.writeUInt32BE(0x63825363, 236);
  const lease = Buffer.from([51, 4, 0, 0, LEASE_SECONDS >> 8, LEASE_SECONDS & 255]);
  const options = Buffer.concat([
    ...[Buffer.from([53, 1, type, 1, 4, 255, 255, 0, 0, 3, 4]), ip('10.7.0.254')],
    ...[Buffer.from([6, 8]), ip('10.7.0.3'), ip('10.7.0.4'), lease, Buffer.from([0, 54, 4])],
    ...[ip(SERVER), Buffer.from([255])],
  ]);
  const message = Buffer.concat([head, options]);
  change(message);
  const datagram = Buffer.concat([u16(67, 68, 8 + message.length, 0), message]);
  const segment = withTransportChecksum(17, datagram, SERVER, '255.255.255.255');
  return ipv4Frame(
    { protocol: 17, source: SERVER, destination: '255.255.255.255' },
    segment,
    BROADCAST,
  );
}

/** Lets time pass until there is a lease, or an error. */
async function configure(options: DhcpOptions = {}): Promise<DhcpLease> {
  let result: DhcpLease | undefined;
  let failure: unknown;
  stack.configureByDhcp({ probe: false, ...options }).then(
    (lease) => {
      result = lease;
    },
    (error: unknown) => {
      failure = error;
    },
  );
  for (let second = 0; second < 300 && result === undefined && failure === undefined; second += 1) {
    await clock.pass(1_000);
  }
  if (result === undefined) throw failure;
  return result;
}

describe('a DHCP client', () => {
  test('takes what is offered and granted', async () => {
    expect(await configure()).toEqual({
      ...{ cidr: '10.7.0.50/16', gateways: ['10.7.0.254'], nameServers: ['10.7.0.3', '10.7.0.4'] },
      ...{ server: SERVER, seconds: LEASE_SECONDS },
    });
    const { ipv4 } = stack;
    expect([ipv4.ip, ipv4.netmask, ipv4.gateways]).toEqual([
      ...['10.7.0.50', '255.255.0.0', ['10.7.0.254']],
    ]);
    expect(said.map(({ type }) => type)).toEqual([DISCOVER, REQUEST]);
    const { transaction } = said[0] ?? {};
    expect(said[1]).toMatchObject({ requested: '10.7.0.50', server: SERVER, transaction });
  });

  test('asks again and again, and gives up when it was told to', async () => {
    answerTo = () => undefined;
    await expect(configure({ timeoutMs: 60_000 })).rejects.toMatchObject({ code: 'ETIMEDOUT' });
    expect(said.length).toBeGreaterThanOrEqual(4);
    expect(new Set(said.map(({ type }) => type))).toEqual(new Set([DISCOVER]));
  });

  test.each<[string, (message: Buffer) => void]>([
    ['for another transaction', (message) => message.writeUInt32BE(1, 4)],
    ['for another client', (message) => message.writeUInt8(9, 30)],
    ['without the cookie', (message) => message.writeUInt8(9, 236)],
    ['with options that end nowhere', (message) => message.writeUInt8(200, 241)],
    ['of a group address', (message) => message.writeUInt8(224, 16)],
    ['with a netmask that is none', (message) => message.writeUInt8(1, 247)],
    ['that is a request', (message) => message.writeUInt8(1, 0)],
  ])('takes no offer %s', async (_, change) => {
    answerTo = (message) => messageFor(message, OFFER, '10.7.0.66', change);
    await expect(configure({ timeoutMs: 20_000 })).rejects.toMatchObject({ code: 'ETIMEDOUT' });
    expect(said.every(({ type }) => type === DISCOVER)).toBe(true);
  });

  test('declines an address that somebody has, and takes another', async () => {
    const serve = link.onSent;
    link.onSent = (frame) => {
      serve(frame);
      const isProbe = frame.readUInt16BE(12) === 0x0806 && frame.readUInt32BE(28) === 0;
      if (!isProbe || frame.subarray(38, 42).join('.') !== '10.7.0.50') return;
      const reply = arp({ operation: 2, senderIp: '10.7.0.50', targetIp: '0.0.0.0' }, OUR_MAC);
      queueMicrotask(() => link.receives(reply));
    };
    expect(await configure({ probe: true })).toMatchObject({ cidr: '10.7.0.51/16' });
    expect(said.find(({ type }) => type === DECLINE)).toMatchObject({ requested: '10.7.0.50' });
  });

  test('renews with its server, and then with anybody, and then begins anew', async () => {
    const onLease = vi.fn();
    await configure({ onLease });
    said = [];
    await clock.pass(501_000);
    expect(said).toMatchObject([{ type: REQUEST, clientAddress: '10.7.0.50' }]);
    expect(onLease).toHaveBeenCalledTimes(2);
    const serve = answerTo;
    answerTo = () => undefined;
    said = [];
    await clock.pass(990_000);
    const rebinding = said.filter(({ destination }) => destination === '255.255.255.255');
    expect(rebinding.length).toBeGreaterThan(0);
    expect(rebinding.every(({ type }) => type === REQUEST)).toBe(true);
    expect(stack.ipv4.ip).toBe('10.7.0.50');
    await clock.pass(20_000);
    expect([stack.ipv4.ip, stack.lease]).toEqual(['0.0.0.0', undefined]);
    expect(onLease).toHaveBeenLastCalledWith(undefined);
    answerTo = serve;
    await clock.pass(70_000);
    expect(stack.ipv4.ip).toBe('10.7.0.51');
  });

  test('gives an address up at once that the server does not let it keep', async () => {
    await configure();
    const serve = answerTo;
    answerTo = (message) =>
      message.type === REQUEST && message.requested === undefined
        ? messageFor(message, NAK, '0.0.0.0')
        : serve(message);
    await clock.pass(560_000);
    expect(stack.ipv4.ip).toBe('10.7.0.51');
  });

  test('gives the lease back when the stack is disconnected', async () => {
    await configure();
    // Where the server is must be known by then, or the message waits in vain.
    link.receives(arp({ operation: 1, senderIp: SERVER, targetIp: '10.7.0.50' }));
    await stack.disconnect();
    expect(said.at(-1)).toMatchObject({ type: RELEASE, clientAddress: '10.7.0.50' });
    expect(clock.pending).toBe(0);
  });
});
