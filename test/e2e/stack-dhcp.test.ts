/** The stack's DHCP client, and the commands that use it, with dnsmasq as the server. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CommandUnderTest } from '../support/command.js';
import { type DaemonUnderTest, startDaemon } from '../support/daemon.js';
import { LeapingClock } from '../support/leaping-clock.js';
import {
  NetworkNamespace,
  removeNamespaces,
  requireNamespaces,
} from '../support/network-namespaces.js';
import { KERNEL_IP, StackScene } from './stack-scene.js';

/** The shortest lease that dnsmasq gives. */
const LEASE_SECONDS = 120;
const NETWORK = KERNEL_IP.replace(/\d+$/, '');

let folder: string;

beforeAll(async () => {
  requireNamespaces();
  folder = await mkdtemp(join(tmpdir(), 'xenvif-dhcp-'));
});
afterAll(async () => {
  await removeNamespaces();
  await rm(folder, { recursive: true, force: true });
});

/** Serves addresses in a namespace. Answers a function that reads what is leased. */
async function serveLeases(space: NetworkNamespace, name: string): Promise<() => Promise<string>> {
  const leases = join(folder, name);
  const served = [`--dhcp-range=${NETWORK}100,${NETWORK}150,${LEASE_SECONDS}`, '--port=0'];
  const files = [`--dhcp-leasefile=${leases}`, '--conf-file=/dev/null', '--no-ping'];
  const options = ['--keep-in-foreground', '--dhcp-authoritative', '--user=root', '--log-dhcp'];
  // What it says goes to where the namespace waits for a first line.
  const all = [...served, ...files, ...options, '--log-facility=-'].join(' ');
  await space.start('sh', '-c', `exec dnsmasq ${all} 2>&1`);
  return () => readFile(leases, 'utf8');
}

describe('a stack without an address', () => {
  test('gets one of dnsmasq, keeps it, and gives it back', async () => {
    const clock = new LeapingClock();
    const scene = await StackScene.create({ cidr: undefined, stack: { clock } });
    const { stack, space } = scene;
    const leased = await serveLeases(space, 'stack');
    const told: (string | undefined)[] = [];
    const ending = new AbortController();
    const lease = await stack.configureByDhcp({
      probe: false,
      timeoutMs: 20_000,
      onLease: (next) => told.push(next?.cidr),
      signal: ending.signal,
    });
    expect(lease).toMatchObject({
      ...{ gateways: [KERNEL_IP], nameServers: [], server: KERNEL_IP, seconds: LEASE_SECONDS },
      cidr: expect.stringMatching(/^10\.97\.0\.1[0-5]\d\/24$/),
    });
    expect(await leased()).toContain(` 02:97:00:00:00:02 ${stack.ipv4.ip} `);
    expect(await space.run('ping', '-c', '1', '-W', '5', stack.ipv4.ip)).toContain('1 received');
    clock.leap((LEASE_SECONDS / 2) * 1000 + 1000);
    await expect.poll(() => told, { timeout: 10_000 }).toEqual([lease.cidr, lease.cidr]);
    expect(await space.run('ping', '-c', '1', '-W', '5', stack.ipv4.ip)).toContain('1 received');
    // The interface goes with the stack, and dnsmasq takes nothing from one that is gone.
    ending.abort();
    await expect.poll(leased, { timeout: 10_000 }).toBe('');
    expect(told.at(-1)).toBeUndefined();
    await scene.end();
  });
});

describe('a command on a switch', () => {
  const name = `xd${process.pid.toString(36)}`;
  let daemon: DaemonUnderTest;
  let space: NetworkNamespace;
  let leased: () => Promise<string>;
  const xenvif = new CommandUnderTest(() => daemon.address);

  beforeAll(async () => {
    daemon = await startDaemon();
    expect(await xenvif.run('tap', 'create', 'default', '--interface', name)).toMatchObject({
      code: 0,
    });
    space = await NetworkNamespace.create();
    await space.adopt(name, `${KERNEL_IP}/24`);
    leased = await serveLeases(space, 'command');
  });
  afterAll(async () => {
    await daemon?.stop();
  });

  test('pings with an address that it has by DHCP, and gives it back', async () => {
    const args = ['--via', 'default', '--count', '2', '--interval', '50ms'];
    const { code, stdout, stderr } = await xenvif.run('ping', KERNEL_IP, ...args);
    expect(stderr).toMatch(/The address 10\.97\.0\.1\d\d\/24 is by DHCP from 10\.97\.0\.1\./);
    expect(stdout).toContain('2 sent, 2 answered');
    expect(code).toBe(0);
    await expect.poll(leased, { timeout: 10_000 }).toBe('');
  });

  test('finds the way to a host behind the router that DHCP told of', async () => {
    const far = await NetworkNamespace.create();
    await space.run('ip', 'link', 'add', 'far0', 'type', 'veth', 'peer', 'name', 'near0');
    await space.run('ip', 'link', 'set', 'near0', 'netns', far.name);
    await space.run('ip', 'address', 'add', '10.98.0.1/24', 'dev', 'far0');
    await space.run('ip', 'link', 'set', 'far0', 'up');
    await space.run('sh', '-c', 'echo 1 >/proc/sys/net/ipv4/ip_forward');
    await far.run('ip', 'address', 'add', '10.98.0.2/24', 'dev', 'near0');
    await far.run('ip', 'link', 'set', 'near0', 'up');
    await far.run('ip', 'route', 'add', 'default', 'via', '10.98.0.1');
    const args = ['10.98.0.2', '--via', 'default', '--probes', '2'];
    const { code, stdout } = await xenvif.run('traceroute', ...args);
    expect(stdout).toMatch(
      /^ 1 {2}10\.97\.0\.1 {2}[\d.]+ ms {2}[\d.]+ ms\n 2 {2}10\.98\.0\.2 {2}[\d.]+ ms {2}[\d.]+ ms\n$/,
    );
    expect(code).toBe(0);
    const json = await xenvif.run('--json', 'traceroute', ...args.slice(0, 3), '--probes', '1');
    expect(
      json.stdout
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line)),
    ).toMatchObject([
      { hop: 1, outcome: 'hop', from: KERNEL_IP },
      { hop: 2, outcome: 'reached', from: '10.98.0.2' },
    ]);
    const nowhere = ['10.97.0.200', '--via', 'default', '--hops', '1', '--timeout', '100ms'];
    const failed = await xenvif.run('traceroute', ...nowhere);
    expect(failed).toMatchObject({ code: 1, stderr: expect.stringContaining('HOST_SILENT') });
    expect(failed.stdout).toContain('no answer');
  });

  test('says what to do where there is no DHCP server', async () => {
    await xenvif.run('switch', 'create', 'alone');
    const { code, stderr } = await xenvif.run('ping', '10.0.0.1', '--via', 'alone');
    expect(code).toBe(1);
    expect(stderr).toContain('No DHCP server answers on alone; say --from');
  });

  test('takes no address that is none', async () => {
    for (const from of ['10.0.0.1', '10.0.0.1/33', 'here/24']) {
      const { code, stderr } = await xenvif.run(
        ...['ping', '10.0.0.1', '--via', 'default', '--from', from],
      );
      expect({ code, stderr }).toMatchObject({
        ...{ code: 2, stderr: expect.stringContaining('CIDR_INVALID') },
      });
    }
  });
});
