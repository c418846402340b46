/** The commands for switches and ports, as processes against a real daemon and the kernel's TAPs. */
import { execFile, spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readCapture } from '../../clients/cli/src/capture-reader.js';
import { COMMAND, CommandUnderTest, EXAMPLES, ended, linesOf } from '../support/command.js';
import { type DaemonUnderTest, startDaemon } from '../support/daemon.js';
import { interfaceExists, requireNamespaces } from '../support/network-namespaces.js';
import { seededRandom } from '../support/random.js';

let daemon: DaemonUnderTest;
const command = new CommandUnderTest(() => daemon.address);
const xenvif = command.run.bind(command);
/** Begins names of interfaces that no other test and no other run uses. */
const prefix = `xs${process.pid.toString(36)}`;

beforeAll(async () => {
  requireNamespaces();
  daemon = await startDaemon();
  while ((await xenvif('ls')).stdout.match(/ connected/g)?.length !== 2);
});

afterAll(async () => {
  await daemon?.stop();
});

async function json(...args: string[]) {
  const { code, stdout, stderr } = await xenvif(...args, '--json');
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(linesOf(stdout)).toHaveLength(1);
  return JSON.parse(stdout);
}

describe('xenvif switch', () => {
  it('makes, lists, shows and removes switches', async () => {
    const made = await json('switch', 'create', 'lan', '--ageing', '60s', '--label', 'a=b');
    expect(made).toMatchObject({ name: 'switches/lan', spec: { ageingSeconds: 60, hub: false } });
    expect((await xenvif('switch', 'ls')).stdout).toMatch(/^lan +learning +0 +0 +a=b$/m);
    expect(await json('switch', 'ls')).toMatchObject([{ id: 'default' }, { id: 'lan' }]);
    const again = await xenvif('switch', 'create', 'lan');
    expect(again).toMatchObject({ code: 1, stderr: expect.stringContaining('SWITCH_EXISTS') });
    expect(await xenvif('switch', 'rm', 'lan')).toMatchObject({
      code: 0,
      stdout: 'switches/lan\n',
    });
    expect((await xenvif('switch', 'rm', 'lan')).code).toBe(1);
    expect((await xenvif('switch', 'rm', 'lan', '--allow-missing')).code).toBe(0);
    expect((await xenvif('switch', 'rm', 'default')).code).toBe(1);
  });

  it('shows the guests as ports, and where their addresses are', async () => {
    expect((await xenvif('switch', 'show')).stdout).toMatch(/^vif-1\.0 +vif +vifs\/1\.0 /m);
    await expect
      .poll(async () => (await xenvif('switch', 'table')).stdout, { timeout: 10_000 })
      .toMatch(/^00:16:3e:00:00:01 +- +vif-1\.0 +\d+ s$/m);
    expect(await json('switch', 'table', 'default')).toContainEqual({
      mac: '00:16:3e:00:00:02',
      vlan: 0,
      port: 'vif-2.0',
      lastSeen: expect.any(String),
    });
  });

  it('explains itself, as all of these commands do', async () => {
    const commands = [
      'set',
      ...['ls', 'show', 'create', 'rm', 'table'].map((name) => `switch ${name}`),
      ...['ls', 'show', 'set', 'rm'].map((name) => `port ${name}`),
      ...['tap create', 'uplink create'],
    ];
    for (const name of commands) {
      const { code, stdout } = await xenvif(...name.split(' '), '--help');
      expect({ name, code }).toEqual({ name, code: 0 });
      expect(stdout).toContain('Examples:');
    }
  });

  it('tells wrong usage from a refusal', async () => {
    expect((await xenvif('switch', 'show', 'a/b')).code).toBe(2);
    expect((await xenvif('switch', 'fly')).code).toBe(2);
    expect((await xenvif('port', 'rm', 'tap0')).code).toBe(2);
    expect((await xenvif('set', '1.0')).code).toBe(2);
    expect((await xenvif('set', '9.0', '--mtu', '1400')).code).toBe(1);
    expect((await xenvif('tap', 'create', 'none')).code).toBe(1);
  });
});

describe('xenvif tap', () => {
  it('plugs an interface of the kernel in, changes what it may do, and pulls it out', async () => {
    const name = `${prefix}0`;
    const port = await json('tap', 'create', 'default', '--interface', name, '--mtu', '9000');
    expect(port).toMatchObject({
      name: `switches/default/ports/${name}`,
      kind: 'tap',
      device: name,
      mtu: 9000,
    });
    expect(readFileSync(`/sys/class/net/${name}/mtu`, 'utf8')).toBe('9000\n');
    expect((await xenvif('port', 'ls')).stdout).toMatch(new RegExp(`^${name} +tap +${name}`, 'm'));
    const full = `default/${name}`;
    const set = await json('port', 'set', full, '--isolated', '--broadcast-limit', '100');
    expect(set.policy).toMatchObject({ isolated: true, broadcastPerSecond: 100 });
    const changed = await json('port', 'set', full, '--no-isolated', '--trunk', '10,20');
    expect(changed.policy).toMatchObject({
      isolated: false,
      broadcastPerSecond: 100,
      trunkVlans: [10, 20],
    });
    const twice = await xenvif('tap', 'create', 'default', '--interface', name, '--port-id', 'b');
    expect(twice).toMatchObject({ code: 1, stderr: expect.stringContaining('TAP_BUSY') });
    expect(twice.stderr).toContain(`${name} is the port ${name} of switches/default already`);
    expect((await xenvif('port', 'show', full)).stdout).toMatch(/^policy +trunk 10,20, /m);
    expect((await xenvif('port', 'show', 'default/none')).code).toBe(1);
    const taken = await xenvif('tap', 'create', 'default', '--port-id', name);
    expect(taken).toMatchObject({ code: 1, stderr: expect.stringContaining('PORT_EXISTS') });
    expect((await xenvif('port', 'rm', full)).stdout).toBe(`switches/default/ports/${name}\n`);
    expect(await interfaceExists(name)).toBe(false);
  });

  it('says of a port whose interface somebody removed', async () => {
    const name = `${prefix}4`;
    expect(await json('tap', 'create', 'default', '--interface', name)).toMatchObject({
      connected: true,
    });
    await promisify(execFile)('ip', ['link', 'delete', name]);
    const line = new RegExp(`^${name} +tap, away +${name} `, 'm');
    await expect.poll(async () => (await xenvif('port', 'ls')).stdout).toMatch(line);
    expect(daemon.logs()).toContain('the interface of a port was removed');
    await xenvif('port', 'rm', `default/${name}`);
    expect((await xenvif('tap', 'create', 'default', '--interface', name)).code).toBe(0);
    await xenvif('port', 'rm', `default/${name}`);
    expect((await xenvif('port', 'rm', 'default/vif-1.0')).code).toBe(1);
  });

  it('makes a mirror, which hears what a guest says', async () => {
    const name = `${prefix}1`;
    const args = ['--interface', name, '--mirror-source', 'vif-1.0'];
    const { stdout } = await xenvif('tap', 'create', 'default', ...args);
    expect(stdout).toMatch(/^mirror +in at vif-1\.0$/m);
    const received = () =>
      Number(readFileSync(`/sys/class/net/${name}/statistics/rx_packets`, 'utf8'));
    await expect.poll(received, { timeout: 10_000 }).toBeGreaterThan(2);
    await xenvif('port', 'rm', `default/${name}`);
  });

  it('and uplink refuse what is not there', async () => {
    const uplink = await xenvif('uplink', 'create', 'default', '7');
    expect(uplink).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('NETFRONT_NOT_FOUND'),
    });
  });
});

/** A capture in the old format (draft-ietf-opsawg-pcap). */
function pcapOf(frames: readonly Buffer[]): Buffer {
  const header = Buffer.alloc(24);
  header.writeUInt32LE(0xa1b2c3d4, 0);
  header.writeUInt16LE(2, 4);
  header.writeUInt16LE(4, 6);
  header.writeUInt32LE(65_535, 16);
  header.writeUInt32LE(1, 20);
  const records = frames.flatMap((frame) => {
    const record = Buffer.alloc(16);
    record.writeUInt32LE(frame.length, 8);
    record.writeUInt32LE(frame.length, 12);
    return [record, frame];
  });
  return Buffer.concat([header, ...records]);
}

describe('xenvif capture', () => {
  it('prints what passes a port, each frame with its way, and goes without a trace', async () => {
    const { code, stdout } = await xenvif('capture', 'default/vif-1.0', '--count', '6');
    expect(code).toBe(0);
    expect(linesOf(stdout)).toHaveLength(6);
    expect(stdout).toMatch(/ default\/vif-1\.0 from-guest 00:16:3e:00:00:01 > /);
    expect(stdout).toMatch(/ default\/vif-1\.0 to-guest 00:16:3e:00:00:02 > /);
    const first = await xenvif('capture', 'default/vif-1.0', '--count', '1', '--json');
    expect(JSON.parse(first.stdout)).toMatchObject({ port: 'switches/default/ports/vif-1.0' });
    await expect
      .poll(async () => (await json('port', 'ls')).map(({ kind }: { kind: string }) => kind))
      .toEqual(['vif', 'vif']);
  });

  it('hears a TAP, and the whole switch each frame once', async () => {
    const name = `${prefix}2`;
    await json('switch', 'create', 'heard');
    await json('tap', 'create', 'heard', '--interface', name);
    const file = join(daemon.directory, 'heard.pcapng');
    const atPort = xenvif(
      'capture',
      `heard/${name}`,
      '--filter',
      'ether proto 0x88b5',
      '--count',
      '2',
    );
    const whole = ['capture', 'switches/heard', '--filter', 'ether proto 0x88b5', '-w', file];
    const ofSwitch = xenvif(...whole, '--count', '2');
    // Both mirrors are ports; then whatever is sent is heard.
    await expect.poll(async () => (await json('port', 'ls', 'heard')).length).toBe(3);
    const hex = 'ffffffffffff02000000007788b5';
    const sent = await xenvif('inject', 'switches/heard', '--hex', hex, hex);
    expect(sent.code).toBe(0);
    expect(
      (await atPort).stdout.match(new RegExp(` heard/${name} to-guest 02:`, 'g')),
    ).toHaveLength(2);
    expect(await ofSwitch).toMatchObject({ code: 0 });
    const { stdout } = await promisify(execFile)('tshark', [
      '-r',
      file,
      '-T',
      'fields',
      '-e',
      'eth.type',
    ]);
    expect(stdout).toBe('0x88b5\n0x88b5\n');
    await xenvif('port', 'rm', `heard/${name}`);
    await xenvif('switch', 'rm', 'heard');
  });

  it('holds exactly the frames that passed a mirrored port, in order', async () => {
    await json('switch', 'create', 'exact');
    const tap = `${prefix}3`;
    await json('tap', 'create', 'exact', '--interface', tap);
    const random = seededRandom(4);
    const frames = Array.from({ length: 400 }, (_, number) => {
      const frame = Buffer.alloc(18 + random.below(1496), number);
      frame.write('0200000000fe02000000007788b5', 'hex');
      frame.writeUInt32BE(number, 14);
      return frame;
    });
    const [sent, captured] = ['sent.pcap', 'captured.pcapng'].map((name) =>
      join(daemon.directory, name),
    ) as [string, string];
    writeFileSync(sent, pcapOf(frames));
    const args = ['capture', `exact/${tap}`, '--filter', 'ether proto 0x88b5', '-w', captured];
    const capturing = xenvif(...args, '--count', String(frames.length));
    await expect.poll(async () => (await json('port', 'ls', 'exact')).length).toBe(2);
    expect((await xenvif('inject', 'switches/exact', sent)).code).toBe(0);
    expect((await capturing).stderr).toContain(`${frames.length} frames, `);
    const found = readCapture(readFileSync(captured)).map(({ data }) => data);
    expect(found.map((data) => data.length)).toEqual(frames.map(({ length }) => length));
    expect(Buffer.concat(found).equals(Buffer.concat(frames))).toBe(true);
    await xenvif('port', 'rm', `exact/${tap}`);
  });

  it('is read live by tshark', async () => {
    const shell = `"${process.execPath}" "${COMMAND}" capture default/vif-1.0 -w - | tshark -l -r -`;
    const env = { ...process.env, XENVIF_ADDRESS: daemon.address };
    const child = spawn('sh', ['-c', shell], { env, detached: true });
    let seen = '';
    child.stdout.on('data', (chunk) => {
      seen += chunk;
    });
    try {
      await expect.poll(() => seen, { timeout: 20_000 }).toMatch(/Echo \(ping\) reply/);
      expect(child.exitCode).toBeNull();
    } finally {
      process.kill(-(child.pid ?? 0), 'SIGKILL');
    }
  });

  it('says what is wrong with a name', async () => {
    expect(await xenvif('capture', 'lan')).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('write a vif (<domid>.<handle>), a port (<switch>/<port>)'),
    });
    expect((await xenvif('capture', 'default/none')).stderr).toContain('PORT_NOT_FOUND');
    expect((await xenvif('capture', '1.0', 'default/vif-1.0')).stderr).toContain('PORT_NOT_ALONE');
    expect((await xenvif('capture', 'switches/none')).stderr).toContain('SWITCH_NOT_FOUND');
  });
});

describe('xenvif create and set', () => {
  it('put a vif on a switch with a policy, and change one thing at a time', async () => {
    const options = '--handle 7 --switch blue --vlan 10 --lock-mac --link-down --no-wait';
    const created = await json('create', '1', ...options.split(' '));
    expect(created).toMatchObject({
      spec: {
        switch: 'switches/blue',
        linkDown: true,
        portPolicy: { accessVlan: 10, lockMac: true },
      },
    });
    const changed = await json('set', '1.7', '--link', 'up', '--isolated', '--label', 'a=b');
    expect(changed).toMatchObject({
      labels: { a: 'b' },
      spec: { linkDown: false, portPolicy: { accessVlan: 10, lockMac: true, isolated: true } },
    });
    const text = await xenvif('set', '1.7', '--no-vlan', '--unlabel', 'a', '--rate', '1MB/s');
    expect(text.stdout).toMatch(/^port policy +MAC locked, isolated$/m);
    expect(text.stdout).toMatch(/^rate +50000 bytes each 50 ms$/m);
    expect(text.stdout).toMatch(/^labels +-$/m);
    expect((await xenvif('ls')).stdout).toMatch(/^vifs\/1\.7 .* blue$/m);
    const cleared = await json('set', '1.7', '--no-policy', '--no-rate', '--switch', 'default');
    expect(cleared.spec.portPolicy).toBeUndefined();
    expect(cleared.spec.rate).toBeUndefined();
    await xenvif('rm', '1.7');
  });
});

describe('xenvif inject', () => {
  it('sends frames into a switch, whatever their source', async () => {
    const hex = 'ffffffffffff02000000007788b5';
    const seen = command.untilSeen('0x88b5', 'capture', '1.0', '--direction', 'to-guest');
    const args = ['--hex', hex, '--repeat', '30', '--interval', '50', '--json'];
    const { code, stdout } = await xenvif('inject', 'switches/default', ...args);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      port: expect.stringMatching(/^switches\/default\/ports\//),
      sent: 30,
      accepted: 30,
    });
    expect((await seen).stdout).toContain('02:00:00:00:00:77 > ff:ff:ff:ff:ff:ff 0x88b5');
  });

  it('sends a file that is named without an option', async () => {
    const file = join(daemon.directory, 'some.pcapng');
    await xenvif('capture', '1.0', '-w', file, '--count', '3');
    expect((await xenvif('inject', 'switches/default', file)).stdout).toBe(
      '3 frames sent: 3 accepted\n',
    );
    expect((await xenvif('inject', '1.0', file, '--file', file)).code).toBe(2);
  });
});

describe('the example switch-port', () => {
  it('is a host that a guest pings, and is still there after the daemon was started anew', async () => {
    // Guest 1 goes on pinging guest 2's address; without its vif, the address is ours.
    await xenvif('rm', '2.0');
    const args = ['default', '10.0.0.2', '--mac', '00:16:3e:00:00:02', '--port-id', 'example'];
    const example = command.start(join(EXAMPLES, 'switch-port.mjs'), args);
    let said = '';
    const answering = ended(example, (text) => {
      said = text;
    });
    await expect.poll(() => said, { timeout: 20_000 }).toContain('ICMP: answered 10.0.0.1');
    expect(said).toContain(
      '10.0.0.2 is at 00:16:3e:00:00:02, the port switches/default/ports/example',
    );
    const first = daemon;
    first.child.kill('SIGKILL');
    await expect.poll(() => said, { timeout: 20_000 }).toContain('disconnected (CONNECTION_LOST)');
    const next = await startDaemon({ directory: first.directory });
    // The directory is the first daemon's, and goes with it.
    daemon = { ...next, stop: () => next.stop().finally(() => first.stop()) };
    await expect.poll(() => said, { timeout: 20_000 }).toContain('connected (REATTACHED)');
    expect((await xenvif('port', 'ls')).stdout).toMatch(/^example +client /m);
    example.kill('SIGINT');
    expect(await answering).toMatchObject({ code: 0, stderr: '' });
  });
});
