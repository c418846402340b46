/** `xenvif apply` and `xenvif export`, as processes against a real daemon. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { CommandUnderTest, ended, linesOf } from '../support/command.js';
import { type DaemonUnderTest, startDaemon } from '../support/daemon.js';
import { requireNamespaces } from '../support/network-namespaces.js';

let daemon: DaemonUnderTest;
const command = new CommandUnderTest(() => daemon.address);
const xenvif = command.run.bind(command);
/** The name of an interface that no other test and no other run uses. */
const TAP = `xa${process.pid.toString(36)}`;

const FILE = `
xenvif: 1
name: test
switches:
  - name: lan
    ageing: 60s
    ports:
      - name: host
        tap: { interface: ${TAP} }
        policy: { trunkVlans: [10, 20-22] }
vifs:
  - domain: guest1
    handle: 3
    switch: lan
    mac: 00:16:3e:0a:00:01
    rate: 1MB/s
    policy:
      lockMac: true
      accessVlan: 10
      allowedAddresses: [10.1.0.1]
    labels: { role: web }
  - domain: guest2
    handle: 3
    switch: lan
`;

beforeAll(async () => {
  requireNamespaces();
  daemon = await startDaemon();
  while ((await xenvif('ls')).stdout.match(/ connected/g)?.length !== 2);
});

afterAll(async () => {
  await daemon?.stop();
});

/** Everything as it was before the first apply. */
beforeEach(async () => {
  const { code } = await apply('xenvif: 1\nname: test\n', '--prune');
  expect(code).toBe(0);
});

function write(text: string): string {
  const path = join(daemon.directory, 'state.yaml');
  writeFileSync(path, text);
  return path;
}

async function apply(text: string, ...options: string[]) {
  return await xenvif('apply', '-f', write(text), ...options);
}

async function json(...args: string[]) {
  const { code, stdout, stderr } = await xenvif(...args, '--json');
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return JSON.parse(stdout);
}

/** Every name that there is, with what changes when it is touched. */
async function everything() {
  const vifs = await json('ls');
  const switches = await json('switch', 'ls');
  return [...vifs, ...switches].map(({ name, uid, spec, labels }) => ({ name, uid, spec, labels }));
}

describe('apply', () => {
  it('makes what is declared, shows it, and changes nothing the second time', async () => {
    const first = await apply(FILE);
    expect(first).toMatchObject({ code: 0, stderr: '' });
    expect(linesOf(first.stdout)).toEqual([
      '+ switch lan  ageing 60 s, 1024 entries per port',
      `+ port lan/host  tap ${TAP}, trunk 10,20-22`,
      '+ vif 1.3  switch lan, 00:16:3e:0a:00:01, 50000 bytes each 50 ms, MAC locked, only from 10.1.0.1, VLAN 10',
      '+ vif 2.3  switch lan',
      '4 to create, 0 to change, 0 to remove, 0 as they should be.',
      'Done: 4 of 4.',
    ]);
    expect(await json('get', '1.3')).toMatchObject({
      labels: { role: 'web', 'xenvif.apply': 'test' },
      spec: {
        mac: '00:16:3e:0a:00:01',
        switch: 'switches/lan',
        rate: { bytesPerInterval: 50_000, intervalMs: 50 },
        portPolicy: { lockMac: true, accessVlan: 10, allowedAddresses: ['10.1.0.1'] },
      },
    });
    const before = await everything();
    const second = await apply(FILE);
    expect(second.stdout).toBe('0 to create, 0 to change, 0 to remove, 4 as they should be.\n');
    expect(await everything()).toEqual(before);
  });

  it('shows with --dry-run what it would do, in text and in JSON, and does nothing', async () => {
    const before = await everything();
    const dry = await apply(FILE, '--dry-run');
    expect(dry.stdout).toContain('4 to create');
    expect(dry.stdout).not.toContain('Done');
    const document = await json('apply', '-f', write(FILE), '--dry-run');
    expect(document).toMatchObject({ name: 'test', done: 0, unchanged: 0 });
    expect(document.changes.map(({ name }: { name: string }) => name)).toEqual([
      'lan',
      'lan/host',
      '1.3',
      '2.3',
    ]);
    expect(await everything()).toEqual(before);
  });

  it('changes what differs while everything else stays', async () => {
    await apply(FILE);
    const { uid } = await json('get', '1.3');
    const changed = FILE.replace('    rate: 1MB/s\n', '    link: down\n')
      .replace('accessVlan: 10', 'accessVlan: 20')
      .replace('20-22', '20')
      .replace('role: web', 'role: db');
    const { code, stdout } = await apply(changed);
    expect(code).toBe(0);
    expect(linesOf(stdout).slice(0, 3)).toEqual([
      '~ port lan/host  policy trunk 10,20-22 -> trunk 10,20',
      '~ vif 1.3  rate 50000 bytes each 50 ms -> no limit, policy MAC locked, only from 10.1.0.1, VLAN 10 -> MAC locked, only from 10.1.0.1, VLAN 20, link up -> down, labels role=web,xenvif.apply=test -> role=db,xenvif.apply=test',
      '0 to create, 2 to change, 0 to remove, 2 as they should be.',
    ]);
    const vif = await json('get', '1.3');
    expect(vif).toMatchObject({ uid, spec: { linkDown: true, portPolicy: { accessVlan: 20 } } });
    expect(vif.spec.rate).toBeUndefined();
  });

  it('removes with --prune only what it made of a file of the same name', async () => {
    await apply(FILE);
    await xenvif('create', '1', '--handle', '9', '--label', 'mine=yes');
    const rest = FILE.slice(0, FILE.indexOf('  - domain: guest2'));
    const kept = await apply(rest);
    expect(kept.stdout).toContain('1 more are no longer in the file: see --prune.');
    expect((await xenvif('get', '2.3')).code).toBe(0);
    const other = await apply(rest.replace('name: test', 'name: other'), '--dry-run', '--prune');
    expect(other.stderr).toContain('vif 1.3: it belongs to the file named test');
    const pruned = await apply('xenvif: 1\nname: test\n', '--prune');
    expect(linesOf(pruned.stdout)).toEqual([
      '- port lan/host',
      '- vif 1.3',
      '- vif 2.3',
      '- switch lan',
      '0 to create, 0 to change, 4 to remove, 0 as they should be.',
      'Done: 4 of 4.',
    ]);
    const names = (await everything()).map(({ name }) => name);
    expect(names.sort()).toEqual(['switches/default', 'vifs/1.0', 'vifs/1.9', 'vifs/2.0']);
    await xenvif('rm', '1.9');
  });

  it('replaces what cannot be changed only when it is told to', async () => {
    await apply(FILE);
    const { uid } = await json('get', '1.3');
    const other = FILE.replace('00:16:3e:0a:00:01', '00:16:3e:0a:00:02');
    const refused = await apply(other);
    expect(refused).toMatchObject({ code: 1 });
    expect(refused.stderr).toMatch(/PLAN_IMPOSSIBLE/);
    expect(refused.stderr).toContain('vif 1.3: mac 00:16:3e:0a:00:01 -> 00:16:3e:0a:00:02');
    expect((await json('get', '1.3')).uid).toBe(uid);
    expect(await apply(other, '--replace')).toMatchObject({ code: 0 });
    const replaced = await json('get', '1.3');
    expect(replaced.spec.mac).toBe('00:16:3e:0a:00:02');
    expect(replaced.uid).not.toBe(uid);
    const ageing = await apply(other.replace('60s', '61s'));
    expect(ageing.stderr).toContain('switch lan: ageing is 60 s and cannot become 61 s');
  });

  it('changes nothing for a guest that is not there, unless it may be missing', async () => {
    const file = FILE.replace('guest2', 'guest9');
    const before = await everything();
    const refused = await apply(file);
    expect(refused.stderr).toContain('vifs[1]: there is no guest guest9');
    expect(await everything()).toEqual(before);
    const { code, stdout } = await apply(file, '--allow-missing');
    expect(code).toBe(0);
    expect(stdout).toContain('? vif guest9/3  there is no such guest now');
  });

  it('tells every failure, and goes on from there when it is run again', async () => {
    const taken = FILE.replace(`interface: ${TAP}`, 'interface: lo');
    const failed = await apply(taken);
    expect(failed.code).toBe(1);
    expect(failed.stderr).toMatch(/^xenvif: 1 of 4 done, 1 failed\. Run it again/);
    expect(failed.stderr).toMatch(/^ {2}create port lan\/host: .*\(TAP_/m);
    const again = await apply(FILE);
    expect(again).toMatchObject({ code: 0 });
    expect(again.stdout).toContain('3 to create, 0 to change, 0 to remove, 1 as they should be.');
  });

  it('takes JSON, and standard input', async () => {
    const state = { xenvif: 1, name: 'test', switches: [{ name: 'lan', hub: true }] };
    const child = command.start(
      new URL('../../clients/cli/bin/xenvif.js', import.meta.url).pathname,
      ['apply', '-f', '-'],
    );
    const done = ended(child);
    child.stdin.end(JSON.stringify(state));
    expect(await done).toMatchObject({ code: 0, stderr: '' });
    expect(await json('switch', 'show', 'lan')).toMatchObject({ spec: { hub: true } });
  });
});

describe('a file that is wrong changes nothing, and is told by line and field', () => {
  const wrong = {
    'an unknown field': [
      'switches:\n  - name: lan\n    vlan: 3\n',
      /:4:11: switches\[0\]\.vlan: there is no such field/,
    ],
    'a value out of range': [
      'vifs:\n  - domain: a\n    mtu: 12\n',
      /:4:10: vifs\[0\]\.mtu: .* 68 to 65535/,
    ],
    'a MAC address that is none': [
      'vifs:\n  - domain: a\n    mac: x\n',
      /:4:10: vifs\[0\]\.mac: .*MAC address/,
    ],
    'a missing name': ['switches:\n  - hub: true\n', /:3:5: switches\[0\]\.name: it is missing/],
    'a rate that is none': [
      'vifs:\n  - domain: a\n    rate: fast\n',
      /:4:11: vifs\[0\]\.rate: Write for example/,
    ],
    'an address that is none': [
      'vifs:\n  - domain: a\n    policy:\n      allowedAddresses: [10.0.0.1, ten]\n',
      /:5:36: vifs\[0\]\.policy\.allowedAddresses\[1\]: it must be an IP address/,
    ],
    'the same vif twice': [
      'vifs:\n  - domain: a\n  - domain: a\n',
      /:4:5: vifs\[1\]: it is the same vif as vifs\[0\]/,
    ],
    'broken YAML': ['vifs: [\n', /state\.yaml:3:\d+: /],
    'the same key twice': ['vifs: []\nvifs: []\n', /state\.yaml:3:1: .*unique/],
    'no list': ['vifs: 3\n', /:2:7: vifs: it must be a list/],
  } as const;

  for (const [what, [text, message]] of Object.entries(wrong)) {
    it(what, async () => {
      const { code, stdout, stderr } = await apply(`xenvif: 1\n${text}`);
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
      expect(stderr).toMatch(message);
      expect(stderr).toContain('(FILE_INVALID)');
    });
  }

  it('beside everything that is right in it, too', async () => {
    const before = await everything();
    const { code, stderr } = await apply(`${FILE}    link: left\n`);
    expect(code).toBe(1);
    const line = FILE.split('\n').length;
    expect(stderr).toContain(`state.yaml:${line}:11: vifs[1].link: "left" is not possible`);
    expect(await everything()).toEqual(before);
  });

  it('tells all mistakes at once', async () => {
    const { stderr } = await apply('xenvif: 2\nvifs:\n  - mtu: 1\n  - domain: b\n    link: left\n');
    expect(stderr).toMatch(/:1:9: xenvif: /);
    expect(stderr).toMatch(/vifs\[0\]\.domain: it is missing/);
    expect(stderr).toMatch(/vifs\[0\]\.mtu/);
    expect(stderr).toMatch(/vifs\[1\]\.link: "left" is not possible: write up or down/);
  });
});

describe('export', () => {
  it('writes what apply takes for the same state', async () => {
    await apply(FILE);
    const exported = await xenvif('export', '--name', 'test');
    expect(exported.code).toBe(0);
    expect(exported.stdout).toContain('domain: guest1');
    const again = await apply(exported.stdout);
    expect(again.stdout).toBe('0 to create, 0 to change, 0 to remove, 4 as they should be.\n');
    const whole = await xenvif('export');
    const all = await apply(
      whole.stdout.replace('xenvif: 1', 'xenvif: 1\nname: test'),
      '--dry-run',
    );
    expect(all.stdout).toBe('0 to create, 0 to change, 0 to remove, 6 as they should be.\n');
    expect((await json('export', '--name', 'test')).vifs[0]).toMatchObject({
      domain: 'guest1',
      handle: 3,
      rate: '50000,50000',
    });
  });

  it('makes all of it again after it was removed', async () => {
    await apply(FILE);
    const { stdout: before } = await xenvif('export', '--name', 'test');
    await apply('xenvif: 1\nname: test\n', '--prune');
    expect(await apply(before)).toMatchObject({ code: 0 });
    expect((await xenvif('export', '--name', 'test')).stdout).toBe(before);
    expect(readFileSync(join(daemon.directory, 'state.yaml'), 'utf8')).toBe(before);
  });
});
