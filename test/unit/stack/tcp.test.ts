/** TCP on a wire whose other end is the test: segments are written and read field by field. */
import { Stack, type StackOptions, type TcpSocket } from '@xenvif/client/stack';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { seededRandom } from '../../support/random.js';
import { MemoryLink } from './memory-link.js';
import {
  arp,
  ipv4,
  ipv4Frame,
  naiveChecksum,
  OUR_IP,
  OUR_MAC,
  PEER_IP,
  u16,
  withTransportChecksum,
} from './packets.js';
import { settle, VirtualClock } from './virtual-clock.js';

const FIN = 1;
const SYN = 2;
const RST = 4;
const PSH = 8;
const ACK = 16;
const PORT = 80;
const PEER_PORT = 4000;
const PEER_SEQUENCE = 1000;
/** MSS 1460, SACK permitted, window scale 3. */
const OFFER = Buffer.from('020405b40101040201030303', 'hex');

interface Segment {
  readonly from: number;
  readonly to: number;
  readonly sequence: number;
  readonly acknowledgement: number;
  readonly flags: number;
  readonly window: number;
  readonly options: Buffer;
  readonly data: Buffer;
}

interface Fields {
  readonly from?: number;
  readonly to?: number;
  readonly sequence: number;
  readonly acknowledgement?: number;
  readonly flags: number;
  readonly window?: number;
  readonly options?: Buffer;
  readonly data?: Uint8Array;
  readonly source?: string;
}

let clock: VirtualClock;
let link: MemoryLink;
let stack: Stack;

function make(options: StackOptions = {}): void {
  clock = new VirtualClock();
  link = new MemoryLink(OUR_MAC);
  stack = Stack.connect(link, {
    ...{ clock, random: seededRandom(1), cidr: `${OUR_IP}/24`, ...options },
  });
  link.onSent = answerArp;
}

/** The peer is there: it answers when it is asked where. */
function answerArp(frame: Buffer): void {
  if (frame.readUInt16BE(12) !== 0x0806 || frame.subarray(38, 42).join('.') !== PEER_IP) return;
  const { receiver } = link;
  const reply = arp({ operation: 2, senderIp: PEER_IP, targetIp: OUR_IP }, OUR_MAC);
  queueMicrotask(() => {
    if (receiver !== undefined) link.receives(reply);
  });
}

beforeEach(async () => {
  make();
  await meet();
});
afterEach(() => stack.disconnect());

async function meet(): Promise<void> {
  await clock.pass(5_000);
  link.receives(arp({ operation: 1, senderIp: PEER_IP, targetIp: OUR_IP }));
  await settle();
  link.take();
}

function frameOf(fields: Fields): Buffer {
  const { options = Buffer.alloc(0), data = Buffer.alloc(0), source = PEER_IP } = fields;
  const head = Buffer.alloc(20);
  head.writeUInt16BE(fields.from ?? PEER_PORT, 0);
  head.writeUInt16BE(fields.to ?? PORT, 2);
  head.writeUInt32BE(fields.sequence >>> 0, 4);
  head.writeUInt32BE((fields.acknowledgement ?? 0) >>> 0, 8);
  head[12] = ((20 + options.length) / 4) << 4;
  head[13] = fields.flags;
  head.writeUInt16BE(fields.window ?? 8000, 14);
  const segment = withTransportChecksum(6, Buffer.concat([head, options, data]), source);
  return ipv4Frame({ protocol: 6, source }, segment);
}

function parse(frame: Buffer): Segment {
  const packet = frame.subarray(14);
  const segment = packet.subarray(20, packet.readUInt16BE(2));
  const pseudo = Buffer.concat([packet.subarray(12, 20), u16(6, segment.length)]);
  expect(naiveChecksum(Buffer.concat([pseudo, segment]))).toBe(0);
  const headerBytes = (segment.readUInt8(12) >> 4) * 4;
  return {
    from: segment.readUInt16BE(0),
    to: segment.readUInt16BE(2),
    sequence: segment.readUInt32BE(4),
    acknowledgement: segment.readUInt32BE(8),
    flags: segment.readUInt8(13),
    window: segment.readUInt16BE(14),
    options: segment.subarray(20, headerBytes),
    data: segment.subarray(headerBytes),
  };
}

function taken(): Segment[] {
  return link
    .take()
    .filter((frame) => frame.readUInt16BE(12) === 0x0800 && frame[23] === 6)
    .map(parse);
}

async function answersTo(...fields: Fields[]): Promise<Segment[]> {
  link.receives(...fields.map(frameOf));
  for (let turn = 0; turn < 4; turn += 1) await settle();
  return taken();
}

/** An established connection: what each side sends next. */
class Conversation {
  /** Sequence number that the peer sends next. */
  sequence = PEER_SEQUENCE + 1;
  readonly received: string[] = [];
  readonly socket: TcpSocket;
  /** Sequence number that we send next, as the peer knows it. */
  ours: number;
  error: unknown;
  isEnded = false;

  constructor(socket: TcpSocket, ours: number) {
    this.socket = socket;
    this.ours = ours;
    socket.on('data', (data) => this.received.push(String(data)));
    socket.on('error', (error) => {
      this.error = error;
    });
    socket.on('end', () => {
      this.isEnded = true;
    });
  }

  /** The peer sends a segment. */
  sends(flags: number, data = '', rest: Partial<Fields> = {}): Promise<Segment[]> {
    const fields = { sequence: this.sequence, acknowledgement: this.ours, flags, ...rest };
    return answersTo({ ...fields, data: Buffer.from(data) });
  }
}

async function accepted(allowHalfOpen = true, options = OFFER): Promise<Conversation> {
  let conversation: Conversation | undefined;
  const server = stack.createServer({ allowHalfOpen, noDelay: true });
  const [answer] = await answersToSyn(server, options);
  const ours = ((answer?.sequence ?? 0) + 1) >>> 0;
  server.on('connection', (socket) => {
    conversation = new Conversation(socket, ours);
  });
  await answersTo({ sequence: PEER_SEQUENCE + 1, acknowledgement: ours, flags: ACK });
  if (conversation === undefined) throw new Error('There was no connection.');
  return conversation;
}

async function answersToSyn(server: { listen(port: number): unknown }, options = OFFER) {
  server.listen(PORT);
  return await answersTo({ sequence: PEER_SEQUENCE, flags: SYN, options });
}

describe('opening', () => {
  test('answers a call with what both sides offer', async () => {
    const [answer, ...rest] = await answersToSyn(stack.createServer());
    expect(rest).toEqual([]);
    expect(answer).toMatchObject({
      ...{ from: PORT, to: PEER_PORT, flags: SYN | ACK, acknowledgement: PEER_SEQUENCE + 1 },
    });
    // MSS, SACK and a window scale, but no timestamps: the peer has none.
    expect(answer?.options.toString('hex')).toBe('020405b40101040201030305');
  });

  test('offers nothing in answer to a call that offers nothing', async () => {
    const [answer] = await answersToSyn(stack.createServer(), Buffer.alloc(0));
    expect(answer?.options.toString('hex')).toBe('020405b4');
  });

  test('answers the same call again in the same way, by itself and when it is asked', async () => {
    const [first] = await answersToSyn(stack.createServer());
    const [again] = await answersTo({ sequence: PEER_SEQUENCE, flags: SYN, options: OFFER });
    expect(again).toEqual(first);
    await clock.pass(1_100);
    expect(taken()).toEqual([first]);
    await clock.pass(120_000);
    expect(taken()).toHaveLength(4);
    expect(stack.tcpConnections.total).toBe(0);
  });

  test('refuses a call to a port that nobody has', async () => {
    const [answer] = await answersTo({ sequence: PEER_SEQUENCE, flags: SYN, options: OFFER });
    expect(answer).toMatchObject({ flags: RST | ACK, acknowledgement: PEER_SEQUENCE + 1 });
    expect(await answersTo({ sequence: 1, flags: RST })).toEqual([]);
  });

  test('a port that listens is silent to what neither calls nor acknowledges', async () => {
    stack.createServer().listen(PORT);
    for (const flags of [0, FIN, FIN | PSH, SYN | FIN, RST]) {
      expect(await answersTo({ sequence: 1, flags })).toEqual([]);
    }
    expect(await answersTo({ sequence: 1, flags: ACK })).toMatchObject([{ flags: RST }]);
    expect(stack.tcpConnections.total).toBe(0);
  });

  test('bounds what a flood of calls costs, and still takes a true caller', async () => {
    const onConnection = vi.fn();
    const server = stack.createServer({}, onConnection);
    server.listen(PORT);
    const flood = Array.from({ length: 3_000 }, (_, index) =>
      frameOf({ from: 5_000 + index, sequence: index, flags: SYN, options: OFFER }),
    );
    for (let start = 0; start < flood.length; start += 100) {
      link.receives(...flood.slice(start, start + 100));
      await settle();
    }
    expect(stack.tcpConnections).toEqual({ total: 256, halfOpen: 256 });
    link.take();
    const [answer] = await answersTo({ sequence: PEER_SEQUENCE, flags: SYN, options: OFFER });
    const acknowledgement = (answer?.sequence ?? 0) + 1;
    await answersTo({ sequence: PEER_SEQUENCE + 1, acknowledgement, flags: ACK });
    expect(onConnection).toHaveBeenCalledTimes(1);
    // Nobody answers for the others: they go.
    await clock.pass(120_000);
    expect(stack.tcpConnections.total).toBe(1);
  });

  test('a call is sent again with growing patience and then given up', async () => {
    const socket = stack.connect({ host: PEER_IP, port: 9 });
    const onError = vi.fn();
    socket.on('error', onError);
    await clock.pass(60_000);
    const calls = taken();
    expect(calls).toHaveLength(6);
    expect(new Set(calls.map(({ sequence }) => sequence)).size).toBe(1);
    await clock.pass(200_000);
    expect(onError).toHaveBeenCalledWith(expect.objectContaining({ code: 'ETIMEDOUT' }));
    expect(stack.tcpConnections.total).toBe(0);
  });

  test('a call that is refused says so, but only by an answer to it', async () => {
    const socket = stack.connect({ host: PEER_IP, port: PEER_PORT, localPort: PORT });
    const onError = vi.fn();
    socket.on('error', onError);
    await settle();
    const sequence = taken()[0]?.sequence ?? 0;
    await answersTo({ sequence: 0, acknowledgement: sequence, flags: RST | ACK });
    expect(onError).not.toHaveBeenCalled();
    await answersTo({ sequence: 0, acknowledgement: sequence + 1, flags: RST | ACK });
    expect(onError).toHaveBeenCalledWith(expect.objectContaining({ code: 'ECONNREFUSED' }));
  });

  test('both sides may call at once', async () => {
    const socket = stack.connect({ host: PEER_IP, port: PEER_PORT, localPort: PORT });
    await settle();
    const sequence = taken()[0]?.sequence ?? 0;
    const [both] = await answersTo({ sequence: PEER_SEQUENCE, flags: SYN, options: OFFER });
    expect(both).toMatchObject({ flags: SYN | ACK, sequence });
    await answersTo({
      ...{ sequence: PEER_SEQUENCE + 1, acknowledgement: sequence + 1, flags: ACK },
    });
    expect(socket.readyState).toBe('open');
  });

  test('a call can be given up by its signal', async () => {
    const abort = new AbortController();
    const socket = stack.connect({ host: PEER_IP, port: 9, signal: abort.signal });
    const failed = new Promise((resolve) => socket.on('error', resolve));
    abort.abort();
    expect(await failed).toMatchObject({ name: 'AbortError' });
    expect(stack.tcpConnections.total).toBe(0);
  });
});

describe('receiving', () => {
  test('puts segments in order and tells what is missing', async () => {
    const peer = await accepted();
    const at = (offset: number) => ({ sequence: peer.sequence + offset });
    const [gap] = await peer.sends(ACK, 'cc', at(2));
    expect(gap).toMatchObject({ acknowledgement: peer.sequence, flags: ACK });
    expect(gap?.options.toString('hex')).toBe(
      `0101050a${hex(peer.sequence + 2)}${hex(peer.sequence + 4)}`,
    );
    await peer.sends(ACK, 'ee', at(6));
    const [two] = await peer.sends(ACK, 'dd', at(4));
    expect(two?.options.toString('hex')).toBe(
      `0101050a${hex(peer.sequence + 2)}${hex(peer.sequence + 8)}`,
    );
    const [all] = await peer.sends(ACK | PSH, 'bb');
    expect(all).toMatchObject({ acknowledgement: peer.sequence + 8 });
    expect(all?.options).toHaveLength(0);
    expect(peer.received.join('')).toBe('bbccddee');
  });

  test('tells of what came twice', async () => {
    const peer = await accepted();
    await peer.sends(ACK, 'abcd');
    const [answer] = await peer.sends(ACK, 'abcd');
    expect(answer?.options.toString('hex')).toBe(
      `0101050a${hex(peer.sequence)}${hex(peer.sequence + 4)}`,
    );
    expect(peer.received.join('')).toBe('abcd');
  });

  test('takes no more than the window, and says when there is room again', async () => {
    await stack.disconnect();
    make({ tcp: { receiveBufferBytes: 4096 } });
    await meet();
    const peer = await accepted();
    peer.socket.pause();
    const answers = await peer.sends(ACK, 'x'.repeat(1400));
    peer.sequence += 1400;
    answers.push(...(await peer.sends(ACK, 'x'.repeat(1400))));
    peer.sequence += 1400;
    answers.push(...(await peer.sends(ACK, 'x'.repeat(1400))));
    peer.sequence += 4096 - 2800;
    const last = answers.at(-1);
    expect(last).toMatchObject({ acknowledgement: peer.sequence, window: 0 });
    // A probe of the closed window is answered and not taken.
    const [probe] = await peer.sends(ACK, 'y');
    expect(probe).toMatchObject({ acknowledgement: peer.sequence, window: 0 });
    peer.socket.resume();
    for (let turn = 0; turn < 4; turn += 1) await settle();
    const [update] = taken();
    expect(update?.window).toBeGreaterThan(2000);
    expect(peer.received.join('')).toHaveLength(4096);
  });

  test('delays an acknowledgement, but not for long and not of two segments', async () => {
    const peer = await accepted();
    for (let index = 0; index < 20; index += 1) {
      await peer.sends(ACK, 'x');
      peer.sequence += 1;
    }
    expect(await peer.sends(ACK, 'x')).toEqual([]);
    await clock.pass(41);
    expect(taken()).toHaveLength(1);
    peer.sequence += 1;
    expect(await peer.sends(ACK, 'x'.repeat(1460))).toEqual([]);
    peer.sequence += 1460;
    expect(await peer.sends(ACK, 'x'.repeat(1460))).toHaveLength(1);
  });

  test('ends when the peer has ended and all before it has come', async () => {
    const peer = await accepted();
    await peer.sends(ACK | FIN, 'world', { sequence: peer.sequence + 6 });
    expect(peer.isEnded).toBe(false);
    const [answer] = await peer.sends(ACK, 'hello ');
    expect(answer?.acknowledgement).toBe(peer.sequence + 12);
    expect([peer.isEnded, peer.received.join('')]).toEqual([true, 'hello world']);
    expect(peer.socket.tcpState).toBe('close-wait');
  });
});

describe('sending', () => {
  test('cuts what is written into segments of what the peer takes', async () => {
    const peer = await accepted();
    peer.socket.write('x'.repeat(4000));
    await settle();
    const segments = taken();
    expect(segments.map(({ data }) => data.length)).toEqual([1460, 1460, 1080]);
    expect(segments.map(({ flags }) => flags)).toEqual([ACK, ACK, ACK | PSH]);
  });

  test('holds small segments back until others are acknowledged, unless told not to', async () => {
    const peer = await accepted();
    peer.socket.setNoDelay(false);
    peer.socket.write('a');
    await settle();
    peer.socket.write('b');
    await settle();
    peer.socket.write('c');
    await settle();
    expect(taken().map(({ data }) => String(data))).toEqual(['a']);
    peer.ours += 1;
    expect((await peer.sends(ACK)).map(({ data }) => String(data))).toEqual(['bc']);
  });

  test('sends again what nobody acknowledges, later and later, and then gives up', async () => {
    const peer = await accepted();
    peer.socket.write('hello');
    await settle();
    taken();
    const times: number[] = [];
    const start = clock.nowMs();
    link.onSent = (frame) => {
      answerArp(frame);
      if (frame.readUInt16BE(12) === 0x0800) times.push(clock.nowMs() - start);
    };
    await clock.pass(1_500_000);
    expect(peer.error).toMatchObject({ code: 'ETIMEDOUT' });
    const waits = times.slice(2, 7).map((time, index) => time - (times[index + 1] ?? 0));
    for (const [index, wait] of waits.slice(1).entries()) {
      expect(wait / (waits[index] ?? 1)).toBeCloseTo(2, 0);
    }
    expect(stack.tcpConnections.total).toBe(0);
  });

  test('sends again only what is missing, as soon as others have arrived', async () => {
    const peer = await accepted();
    peer.socket.write('x'.repeat(1460 * 8));
    await settle();
    const sent = taken();
    const second = sent[1]?.sequence ?? 0;
    peer.ours = second;
    const options = Buffer.from(`0101050a${hex(second + 1460)}${hex(second + 1460 * 7)}`, 'hex');
    const again = await peer.sends(ACK, '', { options });
    expect(again.map(({ sequence }) => sequence)).toEqual([second]);
  });

  test('without SACK three duplicates say that the next is missing', async () => {
    const peer = await accepted(true, Buffer.from('020405b4', 'hex'));
    peer.socket.write('x'.repeat(1460 * 8));
    await settle();
    const second = taken()[1]?.sequence ?? 0;
    peer.ours = second;
    await peer.sends(ACK);
    await peer.sends(ACK);
    expect(await peer.sends(ACK)).toEqual([]);
    expect((await peer.sends(ACK)).map(({ sequence }) => sequence)).toEqual([second]);
  });

  test('asks about a closed window, for ever, as long as the peer answers', async () => {
    const peer = await accepted();
    await peer.sends(ACK, '', { window: 0 });
    peer.socket.write('hello');
    await settle();
    expect(taken()).toEqual([]);
    for (let probe = 0; probe < 30; probe += 1) {
      await clock.pass(61_000);
      const probes = taken();
      expect(probes.length).toBeGreaterThan(0);
      await peer.sends(ACK, '', { window: 0 });
    }
    const [data] = await peer.sends(ACK);
    expect(String(data?.data)).toBe('hello');
  });

  test('does not use a window beyond what the peer told', async () => {
    const peer = await accepted();
    // Scaled by 3: 2000 bytes.
    await peer.sends(ACK, '', { window: 250 });
    peer.socket.write('x'.repeat(10_000));
    await settle();
    const sent = taken().reduce((sum, { data }) => sum + data.length, 0);
    expect(sent).toBeLessThanOrEqual(2000);
    expect(sent).toBeGreaterThanOrEqual(1460);
  });

  test('cuts segments smaller when a router says so about one of them, and not otherwise', async () => {
    const peer = await accepted();
    peer.socket.write('x'.repeat(2920));
    await settle();
    const [first] = taken();
    const tooBig = (sequence: number) => {
      const quoted = Buffer.alloc(8);
      quoted.writeUInt16BE(PORT, 0);
      quoted.writeUInt16BE(PEER_PORT, 2);
      quoted.writeUInt32BE(sequence >>> 0, 4);
      const packet = ipv4({ protocol: 6, source: OUR_IP, destination: PEER_IP }, quoted);
      const message = Buffer.concat([Buffer.from('0304000000000000', 'hex'), packet]);
      message.writeUInt16BE(1000, 6);
      message.writeUInt16BE(naiveChecksum(message), 2);
      link.receives(ipv4Frame({ protocol: 1, source: '10.0.0.9' }, message));
    };
    tooBig((first?.sequence ?? 0) + 100_000);
    await settle();
    expect(taken()).toEqual([]);
    tooBig(first?.sequence ?? 0);
    await settle();
    const lengths = taken().map(({ data }) => data.length);
    expect(lengths.length).toBeGreaterThan(0);
    expect(Math.max(...lengths)).toBe(960);
  });

  test('asks a silent peer whether it lives, and gives up one that does not', async () => {
    const peer = await accepted();
    peer.socket.setKeepAlive(true, 10_000);
    await clock.pass(10_100);
    const [probe] = taken();
    expect(probe).toMatchObject({ sequence: peer.ours - 1, flags: ACK });
    expect(probe?.data).toHaveLength(0);
    await peer.sends(ACK);
    await clock.pass(60_000);
    expect(peer.error).toBeUndefined();
    await clock.pass(1_000_000);
    expect(peer.error).toMatchObject({ code: 'ETIMEDOUT' });
  });
});

describe('attacks', () => {
  test('a reset ends the connection only with the very next sequence number', async () => {
    const peer = await accepted();
    const [challenge] = await peer.sends(RST, '', { sequence: peer.sequence + 100 });
    expect(challenge).toMatchObject({ flags: ACK, acknowledgement: peer.sequence });
    expect(await peer.sends(RST, '', { sequence: peer.sequence + 10_000_000 })).toEqual([]);
    expect(peer.socket.tcpState).toBe('established');
    await peer.sends(RST);
    expect(peer.error).toMatchObject({ code: 'ECONNRESET' });
  });

  test('a SYN in a connection is challenged, and changes nothing', async () => {
    const peer = await accepted();
    const [challenge] = await peer.sends(SYN, '', { sequence: peer.sequence + 5 });
    expect(challenge).toMatchObject({ flags: ACK, acknowledgement: peer.sequence });
    expect(peer.socket.tcpState).toBe('established');
  });

  test('no more than so many challenges are answered in a second', async () => {
    const peer = await accepted();
    let answers = 0;
    for (let index = 0; index < 300; index += 1) {
      answers += (await peer.sends(SYN, '', { sequence: peer.sequence + 5 })).length;
    }
    expect(answers).toBe(100);
  });

  test('data with an acknowledgement of what was never sent is not taken', async () => {
    const peer = await accepted();
    await peer.sends(ACK, 'evil', { acknowledgement: peer.ours + 1000 });
    await peer.sends(ACK, 'evil', { acknowledgement: peer.ours - 10_000_000 });
    expect(peer.received).toEqual([]);
  });

  test('segments older than what was heard since are not taken (PAWS)', async () => {
    const timestamps = (value: number) => Buffer.from(`0101080a${hex(value)}00000000`, 'hex');
    const offer = Buffer.concat([Buffer.from('020405b4', 'hex'), timestamps(5000)]);
    const server = stack.createServer();
    const [answer] = await answersToSyn(server, offer);
    let received = '';
    server.on('connection', (socket) => socket.on('data', (data) => (received += data)));
    const acknowledgement = (answer?.sequence ?? 0) + 1;
    const sequence = PEER_SEQUENCE + 1;
    const send = (data: string, options: Buffer) =>
      answersTo({ sequence, acknowledgement, flags: ACK, options, data: Buffer.from(data) });
    await send('', timestamps(5001));
    await send('old', timestamps(4000));
    await send('bare', Buffer.alloc(0));
    expect(received).toBe('');
    await send('new', timestamps(5002));
    expect(received).toBe('new');
  });
});

describe('closing', () => {
  test('the side that ends first waits for what may still come, and then forgets', async () => {
    const peer = await accepted();
    peer.socket.end('bye');
    await settle();
    const [last] = taken();
    expect(last).toMatchObject({ flags: ACK | PSH | FIN });
    peer.ours += 4;
    await peer.sends(ACK);
    expect(peer.socket.tcpState).toBe('fin-wait-2');
    await peer.sends(ACK | FIN);
    expect(peer.socket.tcpState).toBe('time-wait');
    // The peer did not hear: it is told again. An old reset changes nothing.
    expect(await peer.sends(ACK | FIN)).toHaveLength(1);
    peer.sequence += 1;
    await peer.sends(RST);
    expect(peer.socket.tcpState).toBe('time-wait');
    await clock.pass(61_000);
    expect(stack.tcpConnections.total).toBe(0);
  });

  test('both sides may end at once', async () => {
    const peer = await accepted();
    peer.socket.end();
    await settle();
    await peer.sends(ACK | FIN);
    expect(peer.socket.tcpState).toBe('closing');
    peer.sequence += 1;
    peer.ours += 1;
    await peer.sends(ACK);
    expect(peer.socket.tcpState).toBe('time-wait');
  });

  test('a half-closed connection goes on the other way', async () => {
    const peer = await accepted();
    await peer.sends(ACK | FIN);
    peer.sequence += 1;
    peer.socket.write('still here');
    await settle();
    expect(taken().map(({ data }) => String(data))).toContain('still here');
    peer.ours += 10;
    await peer.sends(ACK);
    peer.socket.end();
    await settle();
    expect(peer.socket.tcpState).toBe('last-ack');
    peer.ours += 1;
    await peer.sends(ACK);
    expect(stack.tcpConnections.total).toBe(0);
  });

  test('a socket that is destroyed with data unread resets the connection', async () => {
    const peer = await accepted();
    peer.socket.pause();
    await peer.sends(ACK, 'unread');
    peer.socket.destroy();
    await settle();
    expect(taken().some(({ flags }) => (flags & RST) !== 0)).toBe(true);
    expect(stack.tcpConnections.total).toBe(0);
  });

  test('data for a socket that is gone is answered by a reset', async () => {
    const peer = await accepted();
    peer.socket.destroy();
    await settle();
    taken();
    const answers = await peer.sends(ACK, 'anybody?');
    expect(answers.some(({ flags }) => (flags & RST) !== 0)).toBe(true);
    expect(stack.tcpConnections.total).toBe(0);
  });

  test('what was written before the end arrives, though the socket is destroyed', async () => {
    const peer = await accepted();
    peer.socket.end('last words');
    peer.socket.destroySoon();
    await settle();
    const [data] = taken();
    expect([String(data?.data), peer.socket.destroyed]).toEqual(['last words', true]);
    // Nobody acknowledges: it is sent again without a socket.
    await clock.pass(1_000);
    expect(taken().length).toBeGreaterThan(0);
  });

  test('the numbers of an ended connection can be called from again', async () => {
    const peer = await accepted();
    peer.socket.end();
    await settle();
    peer.ours += 1;
    await peer.sends(ACK | FIN);
    expect(peer.socket.tcpState).toBe('time-wait');
    taken();
    const [answer] = await answersTo({ sequence: PEER_SEQUENCE + 100_000, flags: SYN });
    expect(answer).toMatchObject({ flags: SYN | ACK, acknowledgement: PEER_SEQUENCE + 100_001 });
  });

  test('a stack that is disconnected resets what is open', async () => {
    const peer = await accepted();
    await stack.disconnect();
    expect(taken().some(({ flags }) => (flags & RST) !== 0)).toBe(true);
    expect(peer.socket.destroyed).toBe(true);
    expect(clock.pending).toBe(0);
  });
});

function hex(value: number): string {
  return (value >>> 0).toString(16).padStart(8, '0');
}
