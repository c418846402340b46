/**
 * The lab's own tests, with the kernel's netback as the peer: a failing lab must not look like ours.
 * They end the machine that the files share, to see that nothing is left of it.
 */

import { randomBytes } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { labFolder } from './assets.js';
import type { Guest } from './guest.js';
import { Lab } from './lab.js';
import { bareMachine, logFolder } from './shared-machine.js';
import { PREPARATION_MS } from './soak.js';

const logDir = logFolder('shared');

describe('a lab that cannot boot', () => {
  test('says in one line which step failed, why, and where the log is', async () => {
    const scratch = mkdtempSync(join(tmpdir(), 'lab-test-'));
    const before = ownFolders();
    const boot = Lab.boot({ logDir: scratch, dom0Initrd: Buffer.from('this is no initrd') });
    await expect(boot).rejects.toThrow(
      /^the lab failed while booting Xen and dom0's kernel: the machine ended \(.*panic.*\); see .*dom0\.log$/,
    );
    expect(readFileSync(join(scratch, 'dom0.log'), 'utf8')).toContain('Kernel panic');
    expect(ownFolders()).toEqual(before);
    rmSync(scratch, { recursive: true });
  });

  test('says what to run when its packages are missing', async () => {
    const before = process.env['XENVIF_LAB_CACHE'];
    process.env['XENVIF_LAB_CACHE'] = '/nowhere';
    try {
      await expect(Lab.boot({ logDir })).rejects.toThrow(
        /run test\/lab\/packages\.sh as root first$/,
      );
    } finally {
      if (before === undefined) delete process.env['XENVIF_LAB_CACHE'];
      else process.env['XENVIF_LAB_CACHE'] = before;
    }
  });
});

describe('a lab', () => {
  let lab: Lab;

  beforeAll(async () => {
    lab = await bareMachine();
  }, PREPARATION_MS);

  afterAll(async () => {
    await lab?.shutdown();
    expect(ownFolders()).toEqual([]);
  });

  test('runs Xen, with its Domain-0', async () => {
    const { code, stdout } = await lab.run('xl list');
    expect(code).toBe(0);
    expect(stdout).toMatch(/^Domain-0\s+0\s/m);
  });

  test('runs node with the files of this machine', async () => {
    const { stdout } = await lab.run(`node -p 'process.version'; ls ${labFolder()}`);
    expect(stdout).toContain(process.version);
    expect(stdout).toContain('dom0-init.sh');
  });

  test('tells exit code, output and errors of a command apart', async () => {
    const result = await lab.run('echo out; echo "$WORD" >&2; exit 3', { env: { WORD: 'err' } });
    expect(result).toEqual({ code: 3, stdout: 'out\n', stderr: 'err\n' });
  });

  test('runs many commands at once', async () => {
    const numbers = Array.from({ length: 8 }, (_, index) => index);
    const results = await Promise.all(numbers.map((number) => lab.run(`sleep 1; echo ${number}`)));
    expect(results.map(({ stdout }) => Number(stdout))).toEqual(numbers);
  });

  test('kills a command that takes too long, and says which', async () => {
    await expect(lab.run('sleep 99', { timeoutMs: 500 })).rejects.toThrow(
      'dom0 did not finish "sleep 99" in 500 ms',
    );
    expect((await lab.run('pgrep -x sleep')).code).toBe(1);
  });

  test('ends a command that left something running with its pipes open', async () => {
    const { code, stdout } = await lab.run('sleep 60 & echo started');
    expect({ code, stdout }).toEqual({ code: 0, stdout: 'started\n' });
    await lab.run('pkill -x sleep');
  });

  test('signals a background command with all that it started', async () => {
    const process = lab.spawn('trap "echo bye; exit 7" TERM; echo hello; sleep 99 & wait');
    await expect.poll(() => process.stdout(), { timeout: 20_000 }).toBe('hello\n');
    process.kill('SIGTERM');
    expect(await process.wait()).toMatchObject({ code: 7, stdout: 'hello\nbye\n' });
    expect((await lab.run('pgrep -x sleep')).code).toBe(1);
  });

  test('carries files both ways, byte for byte', async () => {
    const data = randomBytes(3_000_000);
    await lab.writeFile("/tmp/a file's name", data);
    expect((await lab.readFile("/tmp/a file's name")).equals(data)).toBe(true);
    await expect(lab.readFile('/tmp/none')).rejects.toThrow(/^dom0 cannot read \/tmp\/none: /);
  });

  describe("with the kernel's netback", () => {
    let guest: Guest;

    beforeAll(async () => {
      await lab.loadKernelNetback({ address: '10.0.0.1/24' });
      guest = await lab.createGuest({
        name: 'guest1',
        address: '10.0.0.2/24',
        mac: '00:16:3e:00:00:01',
        vif: 'bridge=xenbr0',
      });
    });

    test('a guest runs commands', async () => {
      const result = await guest.run('echo out; echo err >&2; exit 3');
      expect(result).toEqual({ code: 3, stdout: 'out\n', stderr: 'err\n' });
      expect((await guest.run('cat /sys/class/net/eth0/address')).stdout).toBe(
        '00:16:3e:00:00:01\n',
      );
    });

    test('a guest runs many commands at once, with much output', async () => {
      const lengths = [1, 749, 750, 751, 100_000];
      const results = await Promise.all(
        lengths.map((length) => guest.run(`head -c ${length} /dev/zero | tr '\\0' x`)),
      );
      expect(results.map(({ stdout }) => stdout.length)).toEqual(lengths);
    });

    test('kills a command of a guest that takes too long', async () => {
      await expect(guest.run('sleep 99', { timeoutMs: 1_000 })).rejects.toThrow(
        'guest1 did not finish "sleep 99" in 1000 ms',
      );
      await expect
        .poll(async () => (await guest.run('pidof sleep')).code, { timeout: 20_000 })
        .toBe(1);
    });

    test('a guest pings dom0', async () => {
      const { code, stdout } = await guest.run('ping -c 5 -W 5 10.0.0.1');
      expect(stdout).toContain(' 0% packet loss');
      expect(code).toBe(0);
    });

    test('a guest survives a reboot', async () => {
      const before = await guest.domid();
      await lab.check('xl reboot guest1');
      await expect
        .poll(() => guest.domid().catch(() => before), { timeout: 90_000, interval: 500 })
        .not.toBe(before);
      await guest.ready();
      // Its init answers before its eth0 is up.
      await expect
        .poll(async () => (await guest.run('ping -c 2 -W 5 10.0.0.1')).code, { timeout: 60_000 })
        .toBe(0);
    });

    test('a destroyed guest leaves nothing, and its name is free', async () => {
      await guest.destroy();
      expect((await lab.run('xl list')).stdout.trim().split('\n')).toHaveLength(2);
      const again = await lab.createGuest({ name: 'guest1' });
      await again.shutdown();
      expect((await lab.run('xl list')).stdout.trim().split('\n')).toHaveLength(2);
      expect(existsSync(join(logDir, 'guest-guest1.log'))).toBe(true);
    });

    test('a guest whose backend never comes is refused in one line', async () => {
      await lab.unloadKernelNetback();
      const create = lab.createGuest({ name: 'guest2', mac: '00:16:3e:00:00:02' });
      await expect(create).rejects.toThrow(/^xl create did not make the guest guest2: [^\n]+$/);
    });
  });
});

/** Folders in which machines of this process keep their files. */
function ownFolders(): string[] {
  return readdirSync(tmpdir()).filter((name) => name.startsWith(`xenvif-lab-${process.pid}-`));
}
