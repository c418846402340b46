/** The command, as processes, against a real daemon; tshark reads what it captures. */
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { COMMAND, CommandUnderTest, EXAMPLES, ended, linesOf } from '../support/command.js';
import { type DaemonUnderTest, startDaemon } from '../support/daemon.js';

const FRAME = 'ffffffffffff00163e00009988b5';

let daemon: DaemonUnderTest;

beforeAll(async () => {
  try {
    execFileSync('tshark', ['--version'], { stdio: 'ignore' });
  } catch {
    throw new Error('These tests need tshark (Debian: apt-get install tshark).');
  }
  daemon = await startDaemon();
  while ((await xenvif('ls')).stdout.match(/ connected/g)?.length !== 2);
});

afterAll(async () => {
  await daemon?.stop();
});

const command = new CommandUnderTest(() => daemon.address);
const start = command.start.bind(command);
const xenvif = command.run.bind(command);
const untilSeen = command.untilSeen.bind(command);

describe('commands that ask', () => {
  it('list in plain columns and in JSON', async () => {
    const { code, stdout } = await xenvif('ls');
    expect(code).toBe(0);
    expect(stdout).toMatch(/^VIF +MAC +MTU +PHASE/);
    expect(stdout).toMatch(/^vifs\/1\.0 +00:16:3e:00:00:01 +1500 +connected/m);
    for (const decoration of ['\u001b', '│']) expect(stdout).not.toContain(decoration);
    const json = await xenvif('ls', '--domid', '2', '--json');
    expect(JSON.parse(json.stdout)).toMatchObject([
      { name: 'vifs/2.0', domid: 2, status: { phase: 'connected', connects: 1 } },
    ]);
    expect(linesOf(json.stdout)).toHaveLength(1);
  });

  it('show a vif, the host, the domains, the versions and counters', async () => {
    expect((await xenvif('get', '1.0')).stdout).toMatch(/^mac +00:16:3e:00:00:01$/m);
    expect((await xenvif('host')).stdout).toMatch(/^health +serving$/m);
    expect(JSON.parse((await xenvif('host', '--json')).stdout)).toMatchObject({
      xenKind: 'emulated',
      health: 'serving',
    });
    expect((await xenvif('domains')).stdout).toMatch(/^ +1 +guest1 +1$/m);
    expect((await xenvif('version')).stdout).toMatch(/^xenvif \d.*\nxenvifd \d/);
    expect((await xenvif('stats')).stdout).toMatch(/^1\.0 +\d+/m);
    const [stats] = JSON.parse((await xenvif('stats', '2.0', '--json')).stdout);
    expect(stats).toMatchObject({ name: 'vifs/2.0', tx: { packets: expect.any(Number) } });
  });

  it('explain themselves', async () => {
    for (const command of ['', 'ls', 'create', 'stats', 'capture', 'inject', 'watch', 'rm']) {
      const { code, stdout } = await xenvif(...command.split(' ').filter(Boolean), '--help');
      expect(code).toBe(0);
      expect(stdout).toContain(command === '' ? 'Exit codes' : 'Examples:');
    }
  });
});

describe('exit codes', () => {
  it('tell a refusal, wrong usage and an absent daemon apart', async () => {
    const refused = await xenvif('get', '9.0');
    expect(refused).toMatchObject({ code: 1, stdout: '' });
    expect(refused.stderr).toBe('xenvif: There is no vif vifs/9.0. (VIF_NOT_FOUND)\n');
    expect((await xenvif('get', 'eth0')).code).toBe(2);
    expect((await xenvif('ls', '--domid', 'x')).code).toBe(2);
    expect((await xenvif('fly')).code).toBe(2);
    expect((await xenvif('stats', '--watch', '--reset')).code).toBe(2);
    const absent = await xenvif('ls', '--address', '/nowhere.sock');
    expect(absent.code).toBe(3);
    expect(absent.stderr).toContain('Cannot reach xenvifd at unix:/nowhere.sock');
    expect(absent.stderr).toContain('(DAEMON_UNREACHABLE)');
  });
});

describe('create, watch and rm', () => {
  it('plug a vif, see it, and unplug it', async () => {
    const watching = untilSeen('"type":"deleted"', 'watch', '--label', 'test=cli', '--json');
    const create = ['create', '1', '--handle', '7', '--label', 'test=cli', '--json'];
    const created = await xenvif(...create);
    expect(created).toMatchObject({ code: 0 });
    expect(JSON.parse(created.stdout)).toMatchObject({
      name: 'vifs/1.7',
      labels: { test: 'cli' },
      status: { phase: 'connected' },
    });
    expect(await xenvif(...create)).toMatchObject({ code: 1 });
    expect((await xenvif('ls', '--label', 'test=cli')).stdout).toContain('vifs/1.7');
    expect(await xenvif('rm', '1.7')).toMatchObject({ code: 0, stdout: 'vifs/1.7\n' });
    expect((await xenvif('rm', '1.7')).code).toBe(1);
    expect((await xenvif('rm', '1.7', '--allow-missing')).code).toBe(0);
    const { code, stdout } = await watching;
    expect(code).toBe(0);
    const events = linesOf(stdout).map((line) => JSON.parse(line));
    expect(events.map(({ type }) => type)).toContain('synced');
    expect(events.at(-1)).toMatchObject({ type: 'deleted', vif: { name: 'vifs/1.7' } });
  });

  it('do not wait where they are told not to', async () => {
    const { stdout } = await xenvif('create', '1', '--handle', '8', '--no-wait', '--json');
    expect(JSON.parse(stdout)).toMatchObject({ name: 'vifs/1.8', status: { phase: 'connecting' } });
    await xenvif('rm', '1.8');
  });
});

describe('stats --watch', () => {
  it('shows rates until Ctrl-C', async () => {
    const { code, stdout } = await untilSeen('kb/s', 'stats', '1.0', '--watch', '0.3');
    expect(code).toBe(0);
    expect(stdout).toMatch(/TX PKT\/S/);
    expect(stdout).not.toContain('\u001b');
  });

  it('is a document a line in JSON', async () => {
    const { stdout } = await untilSeen('"synced"', 'stats', '--watch', '0.3', '--json');
    const types = linesOf(stdout).map((line) => JSON.parse(line).type);
    expect(types.slice(0, 3)).toEqual(['stats', 'stats', 'synced']);
  });
});

describe('capture', () => {
  it('is read by tshark while it runs', async () => {
    const capture = `"${process.execPath}" "${COMMAND}" capture 1.0 2.0 -w -`;
    const tshark = 'tshark -l -c 6 -r - -T fields -e eth.type';
    // The shell's last word is the exit code of the capture, whose reader goes after six frames.
    const pipeline = spawn('bash', ['-c', `${capture} | ${tshark}; exit "\${PIPESTATUS[0]}"`], {
      env: { ...process.env, XENVIF_ADDRESS: daemon.address },
    });
    const { code, stdout, stderr } = await ended(pipeline);
    expect(linesOf(stdout)).toHaveLength(6);
    // Guests mostly ping, and now and then ask for an address.
    for (const type of linesOf(stdout)) expect(['0x0800', '0x0806']).toContain(type);
    // That is the end, and no failure.
    expect(code).toBe(0);
    expect(stderr).not.toContain('EPIPE');
  });

  it('writes a file with names, directions and times, and says what it did', async () => {
    const file = join(daemon.directory, 'capture.pcapng');
    const { code, stdout, stderr } = await xenvif(
      ...['capture', '1.0', '2.0', '-w', file, '--count', '10', '--snaplen', '50'],
    );
    expect({ code, stdout }).toEqual({ code: 0, stdout: '' });
    expect(stderr).toMatch(/^10 frames, \d+ bytes, 0 lost\n$/);
    const fields = [
      'frame.interface_name',
      'frame.packet_flags_direction',
      'frame.cap_len',
      'eth.src',
    ];
    const args = ['-r', file, '-T', 'fields', ...fields.flatMap((field) => ['-e', field])];
    const rows = linesOf(execFileSync('tshark', args, { encoding: 'utf8', stdio: 'pipe' }));
    expect(rows).toHaveLength(10);
    // What the guest sends comes in to the daemon.
    const own = { 'vifs/1.0': '00:16:3e:00:00:01', 'vifs/2.0': '00:16:3e:00:00:02' };
    for (const row of rows) {
      const [vif, direction, length, source] = row.split('\t');
      const fromGuest = own[vif as keyof typeof own] === source;
      expect(direction).toBe(fromGuest ? '0x00000001' : '0x00000002');
      expect(Number(length)).toBeLessThanOrEqual(50);
    }
    const info = execFileSync('capinfos', [file], { encoding: 'utf8' });
    expect(info).toContain('Number of stat entries = 1');
  });

  it('ends at Ctrl-C with a file that is whole', async () => {
    const file = join(daemon.directory, 'interrupted.pcapng');
    const capture = start(COMMAND, ['capture', '1.0', '-w', file]);
    const done = ended(capture);
    await expect
      .poll(() => existsSync(file) && readFileSync(file).length, { timeout: 10_000 })
      .toBeGreaterThan(400);
    capture.kill('SIGINT');
    const { code, stderr } = await done;
    expect(code).toBe(0);
    const [frames] = /^\d+/.exec(stderr) ?? [];
    const numbers = execFileSync('tshark', ['-r', file, '-T', 'fields', '-e', 'frame.number'], {
      encoding: 'utf8',
      stdio: 'pipe',
    });
    expect(linesOf(numbers).at(-1)).toBe(frames);
  });

  it('prints a line for each frame, or JSON', async () => {
    const text = await xenvif('capture', '1.0', '--count', '2', '--direction', 'from-guest');
    expect(linesOf(text.stdout)).toHaveLength(2);
    expect(text.stdout).toMatch(
      /^[\d:.]{15} 1\.0 from-guest 00:16:3e:00:00:01 > 00:16:3e:00:00:02 IPv4 10\.0\.0\.1 > 10\.0\.0\.2 ICMP echo .*, length 98$/m,
    );
    const json = await xenvif('capture', '1.0', '--count', '2', '--json');
    const frames = linesOf(json.stdout).map((line) => JSON.parse(line));
    expect(frames).toMatchObject([
      { type: 'frame', sequence: 1, vif: 'vifs/1.0', etherType: expect.any(String) },
      { type: 'frame', sequence: 2 },
    ]);
    expect(Buffer.from(frames[0].data, 'base64')).toHaveLength(frames[0].originalLength);
  });

  it('ends after a duration', async () => {
    const start = Date.now();
    expect((await xenvif('capture', '1.0', '--duration', '500ms')).code).toBe(0);
    expect(Date.now() - start).toBeLessThan(60_000);
  });

  it('leaves no file behind for a vif that does not exist', async () => {
    const file = join(daemon.directory, 'nothing.pcapng');
    expect((await xenvif('capture', '9.0', '-w', file)).code).toBe(1);
    expect(existsSync(file)).toBe(false);
  });
});

describe('inject', () => {
  it('sends frames given as hex, which a capture sees', async () => {
    const seen = untilSeen('0x88b5', 'capture', '1.0', '--direction', 'to-guest');
    const outcome = await xenvif(
      'inject',
      '1.0',
      '--hex',
      FRAME,
      '--repeat',
      '30',
      '--interval',
      '50',
    );
    expect(outcome).toMatchObject({ code: 0, stdout: '30 frames sent: 30 accepted\n' });
    expect((await seen).stdout).toContain(
      '00:16:3e:00:00:99 > ff:ff:ff:ff:ff:ff 0x88b5, length 14',
    );
  });

  it('sends what was captured, from a file and from a pipe', async () => {
    const file = join(daemon.directory, 'inject.pcapng');
    await xenvif('capture', '1.0', '-w', file, '--count', '4');
    const sent = await xenvif('inject', '2.0', '--file', file, '--json');
    expect(JSON.parse(sent.stdout)).toEqual({ vif: 'vifs/2.0', sent: 4, skipped: 0, accepted: 4 });
    const child = start(COMMAND, ['inject', '2.0', '--file', '-']);
    child.stdin.end(readFileSync(file));
    expect((await ended(child)).stdout).toBe('4 frames sent: 4 accepted\n');
  });

  it('refuses what is no frame or no capture', async () => {
    expect((await xenvif('inject', '1.0')).code).toBe(2);
    expect((await xenvif('inject', '1.0', '--hex', 'xyz')).code).toBe(2);
    const short = await xenvif('inject', '1.0', '--hex', 'aabb');
    expect(short).toMatchObject({ code: 1, stderr: expect.stringContaining('FRAME_TOO_SHORT') });
    const file = join(daemon.directory, 'text.pcap');
    writeFileSync(file, 'this is a text and no capture at all');
    const text = await xenvif('inject', '1.0', '--file', file);
    expect(text).toMatchObject({ code: 1, stderr: expect.stringContaining('CAPTURE_MALFORMED') });
  });
});

describe('the examples', () => {
  it('watch and observe', async () => {
    const watch = start(join(EXAMPLES, 'watch.mjs'), []);
    const watched = await ended(watch, (text) => {
      if (text.includes('that is all')) watch.kill('SIGINT');
    });
    expect(watched.code).toBe(0);
    expect(watched.stdout).toContain('vifs/1.0: new -> connected (CONNECTED)');
    const observe = start(join(EXAMPLES, 'observe.mjs'), ['1.0']);
    observe.stdout.once('data', () => observe.kill('SIGINT'));
    const observed = await ended(observe);
    expect(observed.code).toBe(0);
    expect(observed.stdout).toContain("'from-guest'");
  });

  it('answer pings in the place of a guest that is gone', async () => {
    // Guest 1 goes on pinging guest 2's address; without its vif, nobody but us is there.
    await xenvif('rm', '2.0');
    const args = ['1.0', '10.0.0.2', '--mac', '00:16:3e:00:00:02'];
    const example = start(join(EXAMPLES, 'answer-pings.mjs'), args);
    const answering = ended(example);
    const seen = await untilSeen('echo reply', 'capture', '1.0', '--direction', 'to-guest');
    example.kill('SIGINT');
    const { code, stdout } = await answering;
    expect(code).toBe(0);
    expect(stdout).toContain('ICMP: answered 10.0.0.1');
    expect(seen.stdout).toContain('10.0.0.2 > 10.0.0.1 ICMP echo reply');
  });
});
