/** IPv4, ICMP and UDP of the user-space stack against the kernel's. */
import { once } from 'node:events';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  NetworkNamespace,
  removeNamespaces,
  requireNamespaces,
} from '../support/network-namespaces.js';
import { exchangeDatagrams, serveDatagrams } from '../support/transfers.js';
import { KERNEL_IP, STACK_IP, StackScene } from './stack-scene.js';

const ECHO_PORT = 7002;

beforeAll(requireNamespaces);
afterAll(removeNamespaces);

describe.each([
  { mtu: 1500, offloads: true },
  { mtu: 1500, offloads: false },
  { mtu: 9000, offloads: true },
])('a stack on a TAP with MTU $mtu and offloads $offloads', ({ mtu, offloads }) => {
  let scene: StackScene;

  beforeAll(async () => {
    scene = await StackScene.create({ mtu, offloads });
  });
  afterAll(async () => {
    await scene?.end();
    expect(scene?.allocatedBytes).toBe(0);
  });

  test('answers the kernel pings of every size, in fragments where they must be', async () => {
    for (const bytes of [0, 1, 56, mtu - 29, mtu - 28, mtu - 27, 20_000, 60_000, 65_507]) {
      const answer = await scene.space.run(
        ...(['ping', '-c', '1', '-W', '5', '-s', String(bytes), STACK_IP] as const),
      );
      expect(answer).toContain('1 received');
    }
  });

  test('gets its own pings answered, of every size', async () => {
    for (const bytes of [0, 1, 56, mtu - 28, mtu - 27, 20_000, 60_000]) {
      for await (const result of scene.stack.ping(KERNEL_IP, {
        count: 1,
        bytes,
        timeoutMs: 5_000,
      })) {
        expect(result).toMatchObject({ outcome: 'reply', from: KERNEL_IP, bytes });
      }
    }
  });

  test('echoes datagrams of every length to a client of the kernel', async () => {
    const socket = scene.stack.createUdpSocket();
    socket.on('message', (message, { port, address }) => socket.send(message, port, address));
    socket.bind(ECHO_PORT);
    await once(socket, 'listening');
    const lengths = [0, 1, 100, mtu - 28, mtu - 27, 20_000, 65_507];
    expect(await exchangeDatagrams(scene.space, STACK_IP, lengths)).toEqual(lengths);
    socket.close();
  });

  test('is a client of an echo server of the kernel', async () => {
    await serveDatagrams(scene.space);
    const socket = scene.stack.createUdpSocket();
    for (const length of [0, 1, 100, mtu - 28, 20_000, 65_507]) {
      const data = Buffer.alloc(length, length % 251);
      const answered = once(socket, 'message');
      socket.send(data, ECHO_PORT, KERNEL_IP);
      const [answer] = await answered;
      expect(data.equals(answer)).toBe(true);
    }
    socket.close();
  });

  test('tells the kernel that nobody is at a UDP port, and hears it from the kernel', async () => {
    const program = `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.connect(("${STACK_IP}", 9))
s.send(b"x")
try:
  s.recv(1)
except ConnectionRefusedError:
  print("refused")
`;
    expect(await scene.space.run('python3', '-c', program)).toContain('refused');
    const socket = scene.stack.createUdpSocket();
    socket.connect(9, KERNEL_IP);
    const failed = once(socket, 'error');
    socket.send('x');
    expect((await failed)[0]).toMatchObject({ code: 'ECONNREFUSED' });
    socket.close();
  });

  test('is known to the kernel by its MAC address', async () => {
    expect(await scene.space.run('ip', 'neigh', 'show', STACK_IP)).toContain('02:97:00:00:00:02');
  });
});

test('a host behind a router of the kernel is found hop by hop, and through a narrow path', async () => {
  const scene = await StackScene.create({ stack: { gateway: KERNEL_IP } });
  const far = await NetworkNamespace.create();
  const { space, stack } = scene;
  await space.run('ip', 'link', 'add', 'far0', 'type', 'veth', 'peer', 'name', 'near0');
  await space.run('ip', 'link', 'set', 'near0', 'netns', far.name);
  await space.run('ip', 'address', 'add', '10.98.0.1/24', 'dev', 'far0');
  await space.run('ip', 'link', 'set', 'far0', 'up', 'mtu', '1000');
  await space.run('sh', '-c', 'echo 1 >/proc/sys/net/ipv4/ip_forward');
  await far.run('ip', 'address', 'add', '10.98.0.2/24', 'dev', 'near0');
  await far.run('ip', 'link', 'set', 'near0', 'up', 'mtu', '1000');
  await far.run('ip', 'route', 'add', 'default', 'via', '10.98.0.1');
  const hops = [];
  for await (const { hop, outcome, from } of stack.traceroute('10.98.0.2', { probes: 1 })) {
    hops.push({ hop, outcome, from });
  }
  expect(hops).toEqual([
    { hop: 1, outcome: 'hop', from: KERNEL_IP },
    { hop: 2, outcome: 'reached', from: '10.98.0.2' },
  ]);
  const narrow = { count: 2, bytes: 1400, dontFragment: true, intervalMs: 10 };
  const outcomes = [];
  for await (const { outcome } of stack.ping('10.98.0.2', narrow)) outcomes.push(outcome);
  // The first is refused by the router; then the stack knows that it need not try.
  expect(outcomes).toEqual(['error', 'unsent']);
  for await (const { outcome } of stack.ping('10.98.0.2', { count: 1, bytes: 1400 })) {
    expect(outcome).toBe('reply');
  }
  await scene.end();
  await far.remove();
});

test('an address without a neighbour is told as unreachable', async () => {
  const scene = await StackScene.create();
  for await (const { outcome } of scene.stack.ping('10.97.0.77', { count: 1, timeoutMs: 100 })) {
    expect(outcome).toBe('timeout');
  }
  for await (const { outcome } of scene.stack.ping('10.99.0.1', { count: 1 })) {
    expect(outcome).toBe('unsent');
  }
  await scene.end();
});

test('an address that a kernel has already is not taken', async () => {
  const scene = await StackScene.create();
  await expect(scene.stack.probeAndConfigure(`${KERNEL_IP}/24`)).rejects.toMatchObject({
    code: 'ADDRESS_IN_USE',
  });
  await scene.end();
});
