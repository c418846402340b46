/**
 * VchanService message by message, over a daemon in this process, with a program in a guest at the other
 * end: what a client may say, how much it may have at once, and that nothing is left of it.
 */
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ClientDuplexStream, credentials, type ServiceError, status } from '@grpc/grpc-js';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { loadConfig } from '../../src/config.js';
import { Daemon } from '../../src/daemon.js';
import { connectVchan, type VchanStream } from '../../src/device/vchan/index.js';
import {
  type ConnectRequest,
  type ConnectResponse,
  OpenVchan,
  VchanRole,
  VchanServiceClient,
} from '../../src/gen/xenvif/v1/vchan_service.js';
import type { EmulatedXen } from '../../src/xen/emulated/emulated-xen.js';
import { Hypervisor } from '../../src/xen/emulated/index.js';
import { silent, until } from '../support/machine.js';

/** A raw call: what came, and how it ended. */
class Call {
  readonly messages: NonNullable<ConnectResponse['message']>[] = [];
  readonly ended: Promise<{ code: status; details: string }>;
  readonly #call: ClientDuplexStream<ConnectRequest, ConnectResponse>;

  constructor(service: VchanServiceClient) {
    this.#call = service.connect();
    this.#call.on('data', ({ message }: ConnectResponse) => {
      if (message !== undefined) this.messages.push(message);
    });
    this.ended = new Promise((resolve) => {
      this.#call.on('error', ({ code, details }: ServiceError) => resolve({ code, details }));
      this.#call.on('end', () => resolve({ code: status.OK, details: '' }));
    });
  }

  send(message: NonNullable<ConnectRequest['message']>): void {
    this.#call.write({ message });
  }

  open(fields: Partial<OpenVchan>): void {
    this.send({ $case: 'open', value: OpenVchan.fromPartial(fields) });
  }

  pause(): void {
    this.#call.pause();
  }

  resume(): void {
    this.#call.resume();
  }

  halfClose(): void {
    this.#call.end();
  }

  cancel(): void {
    this.#call.cancel();
  }

  has(kind: 'opened' | 'listening'): boolean {
    return this.messages.some(({ $case }) => $case === kind);
  }

  get data(): Buffer {
    const chunks = this.messages.map((each) => (each.$case === 'data' ? each.value : Buffer.of()));
    return Buffer.concat(chunks);
  }
}

let hypervisor: Hypervisor;
let xen: EmulatedXen;
let guest: EmulatedXen;
let daemon: Daemon;
let service: VchanServiceClient;

beforeEach(async () => {
  hypervisor = new Hypervisor();
  xen = await hypervisor.dom0.open({ localMemoryBytes: 64 * 1024 * 1024 });
  guest = await (await hypervisor.createDomain()).open({ localMemoryBytes: 4096 });
  const config = loadConfig({ tcp: '127.0.0.1:0', limits: { vchans: 2 } });
  daemon = await Daemon.start({ xen, config, logger: silent, socket: undefined });
  const [address = ''] = daemon.addresses;
  service = new VchanServiceClient(address, credentials.createInsecure());
});

afterEach(async () => {
  service.close();
  await daemon.stop();
  await guest.close();
  await xen.close();
  hypervisor.assertNoLeaks();
  await hypervisor.shutdown();
});

/** A call that serves, and the program in the guest that has come to it. */
async function serve(fields: Partial<OpenVchan> = {}): Promise<{ call: Call; peer: VchanStream }> {
  const call = new Call(service);
  call.open({ role: VchanRole.SERVER, domid: guest.domid, port: 'api', ...fields });
  const peer = await connectVchan(guest, { domid: 0, port: 'api' });
  await until('the channel is open', () => call.has('opened'));
  return { call, peer };
}

function closed(stream: VchanStream): Promise<void> {
  if (stream.closed) return Promise.resolve();
  return new Promise((resolve) => stream.once('close', resolve));
}

describe('a client that says what it may not', () => {
  const openings: [string, (call: Call) => void, status, string][] = [
    [
      'data first',
      (call) => call.send({ $case: 'data', value: Buffer.of(1) }),
      3,
      'must be `open`',
    ],
    ['nothing at all', (call) => call.halfClose(), 3, 'must be `open`'],
    ['no role', (call) => call.open({ domid: 1, port: 'x' }), 3, 'VCHAN_ROLE_SERVER'],
    [
      'another domain, where Xen is not its own',
      (call) => call.open({ role: VchanRole.CLIENT, domid: 1, port: 'x', asDomid: 1 }),
      3,
      'emulated',
    ],
    [
      'a path of the toolstack',
      (call) =>
        call.open({ role: VchanRole.SERVER, domid: 1, basePath: '/local/domain/1/device/x' }),
      3,
      '`data` directory',
    ],
  ];
  test.each(openings)('%s', async (_name, say, code, details) => {
    const call = new Call(service);
    say(call);
    expect(await call.ended).toMatchObject({ code, details: expect.stringContaining(details) });
  });

  test.each([
    ['opens twice', { $case: 'open', value: OpenVchan.fromPartial({}) }, 'open already'],
    ['sends too much at once', { $case: 'data', value: Buffer.alloc(262_145) }, '262144 bytes'],
  ] as const)('%s', async (_name, message, details) => {
    const { call, peer } = await serve();
    call.send(message);
    const expected = { code: status.INVALID_ARGUMENT, details: expect.stringContaining(details) };
    expect(await call.ended).toMatchObject(expected);
    peer.resume();
    await closed(peer);
  });
});

describe('a channel', () => {
  test('tells where it listens, and carries bytes both ways', async () => {
    const { call, peer } = await serve({ ringBytes: 5000 });
    const path = `/local/domain/0/data/vchan/${guest.domid}/api`;
    expect(call.messages).toEqual([
      { $case: 'listening', value: { path } },
      { $case: 'opened', value: { path, readRingBytes: 8192, writeRingBytes: 8192 } },
    ]);
    call.send({ $case: 'data', value: Buffer.from('to the guest') });
    expect(String(await peer.receive(12))).toBe('to the guest');
    peer.write('from the guest');
    await until('the answer', () => String(call.data) === 'from the guest');
    await peer.close();
    expect((await call.ended).code).toBe(status.OK);
  });

  test('sends no more than it was given credit for', async () => {
    const { call, peer } = await serve({ initialCreditBytes: 10n });
    peer.write(Buffer.alloc(1000, 7));
    await until('ten bytes', () => call.data.length === 10);
    call.send({ $case: 'creditBytes', value: 500n });
    await until('five hundred more', () => call.data.length === 510);
    call.send({ $case: 'creditBytes', value: 10_000n });
    await peer.close();
    expect((await call.ended).code).toBe(status.OK);
    expect(call.data).toHaveLength(1000);
  });

  test('that the peer has left still has what came before, as far as credit comes', async () => {
    const { call, peer } = await serve({ initialCreditBytes: 10n });
    peer.write(Buffer.alloc(1000, 7));
    await peer.close();
    await until('ten bytes', () => call.data.length === 10);
    call.send({ $case: 'creditBytes', value: 500n });
    await until('five hundred more', () => call.data.length === 510);
    call.send({ $case: 'creditBytes', value: 489n });
    await until('all but one', () => call.data.length === 999);
    // From here on no credit can come.
    call.halfClose();
    expect((await call.ended).code).toBe(status.OK);
    expect(call.data).toHaveLength(999);
  });

  test('that the peer has left waits for a client that reads slowly', async () => {
    const { call, peer } = await serve({ ringBytes: 1_048_576 });
    call.pause();
    const bytes = randomBytes(5_000_000);
    peer.write(bytes);
    // The peer knows that all was taken out of its ring, and not how far it has come.
    const left = peer.close();
    await sleep(300);
    call.resume();
    await left;
    expect((await call.ended).code).toBe(status.OK);
    expect(call.data.equals(bytes)).toBe(true);
  });

  test('is closed once the peer has read everything', async () => {
    const { call, peer } = await serve();
    const bytes = Buffer.alloc(200_000, 3);
    call.send({ $case: 'data', value: bytes });
    call.send({ $case: 'close', value: {} });
    expect((await peer.receive(bytes.length))?.equals(bytes)).toBe(true);
    expect((await call.ended).code).toBe(status.OK);
    expect(await peer.receive(1)).toBeUndefined();
    await closed(peer);
  });

  test('whose peer leaves in the midst of a write says so', async () => {
    const { call, peer } = await serve({ ringBytes: 1024 });
    call.send({ $case: 'data', value: Buffer.alloc(200_000) });
    // A stream of Node reads some ahead; the rest waits behind the ring.
    expect(await peer.receive(1)).toHaveLength(1);
    peer.destroy();
    const expected = { code: status.ABORTED, details: expect.stringContaining('left before') };
    expect(await call.ended).toMatchObject(expected);
  });

  test('that is cancelled while it waits makes room for another', async () => {
    const waiting = [new Call(service), new Call(service)];
    for (const [index, call] of waiting.entries()) {
      call.open({ role: VchanRole.SERVER, domid: guest.domid, port: `wait-${index}` });
    }
    await until('both listen', () => waiting.every((call) => call.has('listening')));
    const third = new Call(service);
    const expected = { code: status.RESOURCE_EXHAUSTED };
    expect(await third.ended).toMatchObject(expected);
    for (const call of waiting) call.cancel();
    await Promise.all(waiting.map((call) => call.ended));
    await until(
      'their nodes are gone',
      () => hypervisor.leaks().join().includes('shares') === false,
    );
    const { peer } = await serve();
    peer.destroy();
    await closed(peer);
  });
});
