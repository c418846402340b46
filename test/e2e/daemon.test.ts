import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type DaemonUnderTest, runDaemon, startDaemon } from '../support/daemon.js';

const run = promisify(execFile);

describe('what cannot start says why, in one line with a code, and exits with 1', () => {
  let directory: string;
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'xenvif-start-'));
  });
  afterAll(() => {
    rmSync(directory, { recursive: true });
  });

  const file = (name: string, text: string) => {
    const path = join(directory, name);
    writeFileSync(path, text);
    return path;
  };
  const own = () => ['--xen', 'emulated', '--socket', join(directory, 'a.sock'), '--tcp', 'off'];

  async function failure(...args: string[]) {
    const { code, stderr } = await runDaemon(args);
    expect(code).toBe(1);
    const lines = stderr
      .trim()
      .split('\n')
      .filter((line) => !line.startsWith('{'));
    expect(lines).toHaveLength(1);
    return lines[0];
  }

  test('a configuration with an unknown key', async () => {
    const config = file('unknown.yaml', 'xen: emulated\nlimits:\n  frameQueueByte: 65536\n');
    expect(await failure('--config', config)).toMatch(
      /^xenvifd: .*unknown\.yaml: unknown key limits\.frameQueueByte \(CONFIG_INVALID\)$/,
    );
  });

  test('a configuration with a wrong value', async () => {
    const config = file('wrong.yaml', 'logLevel: loud\n');
    expect(await failure('--config', config)).toMatch(/logLevel: .* \(CONFIG_INVALID\)$/);
  });

  test('a configuration that is no YAML, and one that is not there', async () => {
    expect(await failure('--config', file('broken.yaml', 'a: [1'))).toMatch(/CONFIG_INVALID/);
    expect(await failure('--config', join(directory, 'none'))).toMatch(/CONFIG_UNREADABLE/);
  });

  test('an address that is not loopback', async () => {
    expect(await failure('--xen', 'emulated', '--tcp', '0.0.0.0:7000')).toMatch(
      /only loopback addresses .* \(ADDRESS_INVALID\)$/,
    );
  });

  test('a TCP port that is taken', async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const address = server.address();
    const port = typeof address === 'object' ? address?.port : 0;
    const args = ['--xen', 'emulated', '--socket', 'off', '--xenstore-socket', 'off'];
    expect(await failure(...args, '--tcp', `127.0.0.1:${port}`)).toMatch(/ADDRESS_IN_USE/);
    server.close();
  });

  test('a path for the socket where there is a file', async () => {
    const path = file('a-file', '');
    expect(await failure('--xen', 'emulated', '--tcp', 'off', '--socket', path)).toMatch(
      /exists and is no socket\. \(SOCKET_PATH_INVALID\)$/,
    );
    expect(statSync(path).isFile()).toBe(true);
  });

  test('more local memory than an emulated machine has room for', async () => {
    const config = file('large.yaml', `limits:\n  localMemoryBytes: ${2 ** 32}\n`);
    expect(await failure(...own(), '--config', config)).toMatch(
      /^xenvifd: No \d+ bytes of memory for an emulated machine; .* \(XEN_UNAVAILABLE\)$/,
    );
  });

  test('native Xen where there is none', async () => {
    expect(await failure('--xen', 'native', '--socket', join(directory, 'n.sock'))).toMatch(
      /\((XEN_UNAVAILABLE|XENSTORE_UNAVAILABLE)\)$/,
    );
  });

  test('a second daemon on the same socket, and the first one goes on', async () => {
    const first = await startDaemon();
    const args = ['--xen', 'emulated', '--socket', first.socket, '--tcp', 'off'];
    expect(await failure(...args)).toMatch(/Another daemon is listening on .* \(SOCKET_IN_USE\)$/);
    expect(first.child.exitCode).toBe(null);
    expect(await first.stop()).toBe(0);
  });

  test('a socket that a killed daemon left behind is replaced', async () => {
    const first = await startDaemon({ directory });
    await first.stop('SIGKILL');
    const second = await startDaemon({ directory });
    expect(await second.stop()).toBe(0);
  });

  test('an unknown flag', async () => {
    const { code, stderr } = await runDaemon([...own(), '--colour']);
    expect(code).toBe(1);
    expect(stderr).toMatch(/unknown option '--colour'/);
  });
});

describe('a running daemon', () => {
  let daemon: DaemonUnderTest;
  beforeAll(async () => {
    daemon = await startDaemon();
  });
  afterAll(async () => {
    await daemon.stop();
  });

  test('gives its socket to owner and group only', () => {
    expect(statSync(daemon.socket).mode & 0o777).toBe(0o660);
  });

  for (const kind of ['unix', 'tcp'] as const) {
    test(`serves Debian’s Python client over ${kind}, which knows reflection and nothing else`, async () => {
      const script = fileURLToPath(new URL('python_client.py', import.meta.url));
      const address = kind === 'unix' ? daemon.address : daemon.tcp;
      const { stdout } = await run('/usr/bin/python3', ['-W', 'ignore', script, address]);
      const lines = stdout.split('\n');
      for (const service of ['Vif', 'Frame', 'Stats', 'Switch', 'Vchan', 'Host']) {
        expect(lines).toContain(`service xenvif.v1.${service}Service`);
      }
      expect(lines).toContain('service grpc.health.v1.Health');
      expect(lines).toContain('vif vifs/1.0 00:16:3e:00:00:01 CONNECTED');
      expect(lines).toContain('vif vifs/2.0 00:16:3e:00:00:02 CONNECTED');
      expect(lines.indexOf('message opened')).toBeLessThan(lines.indexOf('message frames'));
      expect(stdout).toMatch(/^bytes (00163e|ffffff)[0-9a-f]{78,}$/m);
    });
  }

  test('lists both halves of each vif to the stock xenstore-ls', async () => {
    const { stdout } = await run('xenstore-ls', ['-f'], {
      env: { ...process.env, XENSTORED_PATH: daemon.xenstoreSocket },
    });
    for (const domid of [1, 2]) {
      expect(stdout).toContain(`/local/domain/0/backend/vif/${domid}/0/state = "4"`);
      expect(stdout).toContain(`/local/domain/${domid}/device/vif/0/state = "4"`);
    }
  });

  test('stops cleanly on SIGINT, without waiting for guests', async () => {
    const other = await startDaemon();
    const start = performance.now();
    expect(await other.stop('SIGINT')).toBe(0);
    expect(performance.now() - start).toBeLessThan(10_000);
    expect(other.logs()).not.toMatch(/"level":[56]0/);
  });
});
