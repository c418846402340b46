/**
 * nmap and hping3, which know more ways to send what no honest host sends than anybody would think of,
 * against the user-space stack from a namespace of the kernel. Afterwards the stack answers as before,
 * what the scans left in its tables goes by itself, and tshark finds nothing wrong with what it said.
 */
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { LeapingClock } from '../support/leaping-clock.js';
import { removeNamespaces, requireNamespaces } from '../support/network-namespaces.js';
import { exchangeDatagrams } from '../support/transfers.js';
import { STACK_IP, STACK_MAC, StackScene } from './stack-scene.js';

const ECHO_PORT = 7;
const DATAGRAM_PORT = 7002;
const SCAN_MS = 120_000;
/** More than any timer of the stack waits for. */
const LEAP_MS = 3_600_000;
const TIME_WAIT_MS = 60_000;

let folder: string;
let capturePath: string;
let scene: StackScene;
const clock = new LeapingClock();

beforeAll(async () => {
  requireNamespaces();
  folder = await mkdtemp(join(tmpdir(), 'xenvif-scan-'));
  capturePath = join(folder, 'capture.pcapng');
  scene = await StackScene.create({
    offloads: false,
    capture: createWriteStream(capturePath),
    stack: { clock },
  });
  const server = scene.stack.createServer({ allowHalfOpen: true }, (socket) => {
    // Callers that are no callers end by errors of all kinds.
    socket.on('error', () => undefined).pipe(socket);
  });
  server.listen(ECHO_PORT);
  const socket = scene.stack.createUdpSocket();
  socket.on('message', (message, { port, address }) => socket.send(message, port, address));
  socket.on('error', () => undefined);
  socket.bind(DATAGRAM_PORT);
  await once(socket, 'listening');
});
afterAll(async () => {
  await scene?.end();
  await removeNamespaces();
  await rm(folder, { recursive: true, force: true });
});

/** What strangers could have made grow. */
function tables() {
  const { stack } = scene;
  return {
    connections: stack.tcpConnections.total,
    halfOpen: stack.tcpConnections.halfOpen,
    reassemblies: stack.ipv4.reassembly.size,
    neighbours: stack.ipv4.arp.neighbours.size,
    pathMtus: stack.ipv4.pathMtus.size,
  };
}

async function answersCallers(): Promise<void> {
  const program = `
import socket
s = socket.create_connection(("${STACK_IP}", ${ECHO_PORT}), 10)
s.sendall(b"still here")
s.shutdown(socket.SHUT_WR)
print(s.makefile().read())
`;
  expect(await scene.space.run('python3', '-c', program)).toContain('still here');
}

async function answersStill(): Promise<void> {
  await answersCallers();
  expect(await scene.space.run('ping', '-c', '1', '-W', '5', '-s', '5000', STACK_IP)).toContain(
    '1 received',
  );
  expect(await exchangeDatagrams(scene.space, STACK_IP, [0, 100, 5000])).toEqual([0, 100, 5000]);
}

async function nmap(...args: string[]): Promise<string> {
  const common = ['-n', '-Pn', '-T5', '--max-retries', '1', '--host-timeout', '60s', '--reason'];
  return await scene.space.runFor(SCAN_MS, 'nmap', ...common, ...args, STACK_IP);
}

/** Sends `count` packets. hping3 ends with 1 when nobody answers, which is as good as an answer. */
async function hping(count: number, ...args: string[]): Promise<void> {
  const pace = ['-n', '-q', '-i', 'u300', '-c', String(count)];
  const command = ['hping3', ...pace, ...args, STACK_IP].join(' ');
  await scene.space.runFor(SCAN_MS, 'sh', '-c', `${command} 2>&1 || [ $? -eq 1 ]`);
}

describe('scans by nmap', () => {
  test.each([
    ['SYN', ['-sS'], /7\/tcp +open/],
    ['connect', ['-sT'], /7\/tcp +open/],
    ['NULL', ['-sN'], /7\/tcp +open\|filtered/],
    ['FIN', ['-sF'], /7\/tcp +open\|filtered/],
    ['Xmas', ['-sX'], /7\/tcp +open\|filtered/],
    ['Maimon', ['-sM'], /reset/],
    ['ACK', ['-sA'], /7\/tcp +unfiltered/],
    ['window', ['-sW'], /reset/],
    ['every flag', ['--scanflags', 'URGACKPSHRSTSYNFIN'], /7\/tcp/],
    ['SYN and FIN', ['--scanflags', 'SYNFIN'], /7\/tcp/],
    ['tiny fragments', ['-sS', '-f'], /7\/tcp/],
    ['fragments', ['-sS', '--mtu', '24'], /7\/tcp +open/],
    ['IP options', ['-sS', '--ip-options', 'R'], /7\/tcp +open/],
    ['source routes', ['-sS', '--ip-options', 'L 10.97.0.9'], /7\/tcp/],
    ['data', ['-sS', '--data-length', '600'], /7\/tcp +open/],
    ['decoys', ['-sS', '-D', '10.97.0.50,10.97.0.51,10.97.0.52,ME'], /7\/tcp +open/],
    ['checksums that are wrong', ['-sS', '--badsum'], /7\/tcp +filtered/],
  ])('of kind %s find what is there', { timeout: SCAN_MS }, async (_, args, found) => {
    const text = await nmap(...args, '-p', '1-20');
    expect(text).toMatch(found);
    await answersStill();
  });

  test('of UDP ports find the one that is open', { timeout: SCAN_MS }, async () => {
    const text = await nmap('-sU', '-p', `1-20,${DATAGRAM_PORT}`);
    expect(text).toMatch(/7002\/udp +open/);
    expect(text).toContain('port-unreach');
    await answersStill();
  });

  test('of IP protocols find ICMP, TCP and UDP', { timeout: SCAN_MS }, async () => {
    const text = await nmap('-sO');
    for (const name of ['icmp', 'tcp', 'udp']) expect(text).toMatch(new RegExp(`open +${name}`));
    expect(text).toContain('proto-unreach');
    await answersStill();
  });

  test('that guess the system by odd packets do it no harm', { timeout: SCAN_MS }, async () => {
    const text = await nmap('-sS', '-O', '-p', `${ECHO_PORT},9`, '--osscan-guess');
    expect(text).toContain('OS detection performed');
    await answersStill();
  });
});

// Each waits a second for answers: together they wait at the same time.
describe.concurrent('packets by hping3', () => {
  const port = ['-p', String(ECHO_PORT)];
  test.each([
    ['land', 300, ['-S', '-a', STACK_IP, '-s', String(ECHO_PORT), '-k', ...port]],
    ['land by UDP', 300, ['-2', '-a', STACK_IP, '-s', '7002', '-k', '-p', '7002']],
    ['all flags', 500, ['-F', '-S', '-R', '-P', '-A', '-U', '-X', '-Y', ...port]],
    ['xmas', 500, ['-F', '-P', '-U', ...port]],
    ['no flags', 500, port],
    ['wrong checksums', 500, ['-S', '-b', ...port]],
    ['wrong header lengths', 300, ['-S', '-O', '15', ...port]],
    ['short header lengths', 300, ['-S', '-O', '1', ...port]],
    ['tiny fragments', 300, ['-S', '-f', '-d', '200', '-m', '16', ...port]],
    ['fragments of datagrams', 50, ['-2', '-f', '-d', '20000', '-p', String(DATAGRAM_PORT)]],
    ['beginnings of nothing', 500, ['-2', '-x', '-d', '64', '-p', String(DATAGRAM_PORT)]],
    ['middles of nothing', 500, ['-2', '-g', '800', '-x', '-d', '64', '-p', '9']],
    ['an end beyond the end', 500, ['-2', '-g', '65528', '-d', '1000', '-p', '9']],
    ['acknowledgements of nothing', 500, ['-A', '-L', '1', ...port]],
    ['resets', 500, ['-R', '-M', '77', ...port]],
    ['timestamps and segment sizes', 300, ['-S', '--tcp-timestamp', '--tcp-mss', '1', ...port]],
    ['record route', 100, ['-1', '-G']],
    ['source routes', 100, ['-1', '--lsrr', '10.97.0.9']],
    ['ICMP of all types', 100, ['-1', '-C', '13', '--force-icmp']],
    ['unreachables', 300, ['-1', '-C', '3', '-K', '4', '--force-icmp']],
    ['redirects', 300, ['-1', '-C', '5', '-K', '1', '--icmp-gw', '10.97.0.66']],
    ['quenches', 300, ['-1', '-C', '4', '--force-icmp']],
    ['pings to death', 50, ['-1', '-d', '65000']],
    ['pings from everybody', 300, ['-1', '-a', '10.97.0.255']],
    ['other protocols', 300, ['-0', '-H', '132', '-d', '100']],
  ])('of kind "%s" do no harm', { timeout: SCAN_MS }, async (_, count, args) => {
    await hping(count, ...args);
    await answersCallers();
  });
});

describe('after the packets by hping3', () => {
  test('everything is answered, fragments too', answersStill);

  test.each([
    ['anywhere', ['--rand-source']],
    ['a neighbour that is not there', ['-a', '10.97.0.77']],
  ])('a flood of SYNs from %s leaves room for callers', { timeout: SCAN_MS }, async (_, from) => {
    await hping(4000, '-S', '-p', String(ECHO_PORT), ...from);
    expect(tables().halfOpen).toBe(256);
    await answersStill();
  });

  test('fragments that overlap drop the packet, whichever way', { timeout: SCAN_MS }, async () => {
    const before = scene.stack.counts.reassembly.overlap;
    for (const [first, second] of [
      [0, 32],
      [32, 0],
      [0, 8],
    ]) {
      const common = ['-2', '-N', '4711', '-s', '5000', '-k', '-p', '9', '-x', '-d', '64'];
      await hping(1, ...common, '-g', String(first));
      await hping(1, ...common, '-g', String(second));
    }
    expect(scene.stack.counts.reassembly.overlap).toBeGreaterThanOrEqual(before + 3);
    await answersStill();
  });
});

test('what the scans left goes by itself', async () => {
  const { connections, halfOpen, reassemblies, neighbours, pathMtus } = tables();
  expect(connections).toBeLessThanOrEqual(4096);
  expect(halfOpen).toBeLessThanOrEqual(256);
  expect(reassemblies).toBeLessThanOrEqual(64);
  expect(neighbours).toBeLessThanOrEqual(512);
  expect(pathMtus).toBeLessThanOrEqual(256);
  console.log('after the scans:', tables(), JSON.stringify(scene.stack.counts));
  clock.leap(LEAP_MS);
  await answersStill();
  clock.leap(TIME_WAIT_MS);
  // The kernel is the only neighbour that there is.
  const kernel = { connections: 0, halfOpen: 0, reassemblies: 0, neighbours: 1 };
  expect(tables()).toEqual({ ...kernel, pathMtus: expect.any(Number) });
});

test('tshark finds nothing wrong with what the stack said', { timeout: SCAN_MS }, async () => {
  const ours = `eth.src == ${STACK_MAC}`;
  await scene.end();
  const checks = ['ip', 'tcp', 'udp'].flatMap((name) => ['-o', `${name}.check_checksum:TRUE`]);
  // What is echoed is taken for other protocols by its ports, though it is none.
  const isData = ['tcp', 'udp'].flatMap((name) => ['-d', `${name}.port==1-65535,data`]);
  const tshark = async (filter: string, ...fields: string[]) => {
    const args = ['-r', capturePath, ...checks, ...isData, '-Y', filter, ...fields];
    const options = { maxBuffer: 64 * 1024 * 1024 };
    return (await promisify(execFile)('tshark', args, options)).stdout;
  };
  const severe = '(_ws.expert.severity == "Error" || _ws.malformed)';
  expect(await tshark(`${ours} && ${severe}`)).toBe('');
  // The capture has both what was wrong and what we said, or tshark would have seen nothing.
  expect((await tshark(`!(${ours}) && ${severe}`)).split('\n').length).toBeGreaterThan(1000);
  expect((await tshark(ours, '-T', 'fields', '-e', 'ip.id')).split('\n').length).toBeGreaterThan(
    1000,
  );
});
