/** The commands for switches, ports and changes of vifs, run in this process against a daemon that keeps what it was asked. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { describeFailure } from '../../../../clients/cli/src/failure.js';
import { buildProgram } from '../../../../clients/cli/src/program.js';
import { aVif, FakeDaemon } from '../fake-daemon.js';

let daemon: FakeDaemon;
let printed = '';

beforeEach(async () => {
  daemon = new FakeDaemon();
  await daemon.start();
  printed = '';
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    printed += text;
    return true;
  });
  // What commander says of a line that makes no sense.
  vi.spyOn(process.stderr, 'write').mockImplementation(() => true);
});

afterEach(() => {
  vi.restoreAllMocks();
  daemon.dispose();
});

/** Runs a command; answers what it printed. */
async function xenvif(line: string): Promise<string> {
  const args = ['--address', daemon.address, ...line.split(' ')];
  printed = '';
  await buildProgram().parseAsync(args, { from: 'user' });
  return printed;
}

async function failureOf(line: string): Promise<{ exitCode: number; line?: string }> {
  const error = await xenvif(line).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  return describeFailure(error, false);
}

describe('xenvif set', () => {
  it('changes what is named, without a look at the rest', async () => {
    await xenvif('set 1.0 --rate 1MB/s --link down --switch lan --mtu 9000');
    const { vif, updateMask } = daemon.updates[0] ?? {};
    expect(new Set(updateMask)).toEqual(
      new Set(['spec.rate', 'spec.link_down', 'spec.switch', 'spec.mtu']),
    );
    expect(vif).toMatchObject({
      name: 'vifs/1.0',
      etag: '',
      spec: {
        mtu: 9000,
        linkDown: true,
        switch: 'switches/lan',
        rate: { bytesPerInterval: 50_000n },
      },
    });
    await xenvif('set 1.0 --no-rate --no-policy --link up');
    expect(daemon.updates[1]?.updateMask).toEqual([
      'spec.rate',
      'spec.port_policy',
      'spec.link_down',
    ]);
    expect(daemon.updates[1]?.vif?.spec?.rate).toBeUndefined();
  });

  it('changes one label and one part of the policy, and keeps the others', async () => {
    const vif = aVif('vifs/1.0');
    const portPolicy = {
      lockMac: true,
      allowedAddresses: [],
      accessVlan: 10,
      trunkVlans: [],
      isolated: false,
      nativeVlan: 0,
      broadcastPerSecond: 0,
      unknownUnicastPerSecond: 0,
      rate: undefined,
    };
    if (vif.spec) {
      daemon.vifs = [{ ...vif, labels: { a: '1', b: '2' }, spec: { ...vif.spec, portPolicy } }];
    }
    await xenvif('set 1.0 --isolated --label c=3 --unlabel a');
    expect(daemon.updates[0]).toMatchObject({
      updateMask: expect.arrayContaining(['labels', 'spec.port_policy']),
      vif: {
        etag: 'e1',
        labels: { b: '2', c: '3' },
        spec: { portPolicy: { ...portPolicy, isolated: true } },
      },
    });
    expect(daemon.updates[0]?.updateMask).toHaveLength(2);
  });

  it('looks again when somebody else was faster, but not for ever', async () => {
    daemon.updateFailures = 2;
    await xenvif('set 1.0 --label a=b');
    expect(daemon.updates).toHaveLength(3);
    daemon.updateFailures = 100;
    expect(await failureOf('set 1.0 --label a=b')).toMatchObject({
      exitCode: 1,
      line: expect.stringContaining('ETAG_MISMATCH'),
    });
    expect(daemon.updates).toHaveLength(8);
  });

  it('wants to know what to change', async () => {
    expect((await failureOf('set 1.0')).exitCode).toBe(2);
    expect((await failureOf('set 1.0 --link sideways')).exitCode).toBe(2);
    expect(daemon.updates).toHaveLength(0);
  });
});

describe('xenvif switch', () => {
  it('lists, shows and tells what a switch has learnt', async () => {
    expect(await xenvif('switch ls')).toMatch(
      /^SWITCH +MODE +PORTS +ENTRIES.*\nalpha +learning +2 +2/,
    );
    expect(JSON.parse(await xenvif('switch ls --json'))).toHaveLength(3);
    const shown = await xenvif('switch show');
    expect(shown).toMatch(/^name +switches\/default$/m);
    expect(shown).toMatch(/^tap0 +tap +tap0 +00:16:3e:00:00:aa +1400 +5 +0 +0 +-$/m);
    const lastSeen = new Date();
    daemon.entries = [{ mac: '00:16:3e:00:00:01', vlan: 10, port: 'vif-1.0', lastSeen }];
    expect(await xenvif('switch table default')).toMatch(
      /^00:16:3e:00:00:01 +10 +vif-1\.0 +\d s$/m,
    );
    expect(JSON.parse(await xenvif('switch table --json'))).toMatchObject([
      { mac: '00:16:3e:00:00:01', vlan: 10, port: 'vif-1.0' },
    ]);
  });

  it('makes and removes switches', async () => {
    await xenvif('switch create lan --ageing 1m --entries-per-port 64 --hub --label a=b');
    expect(daemon.switchCreates[0]).toMatchObject({
      switchId: 'lan',
      spec: { ageingSeconds: 60, entriesPerPort: 64, hub: true },
      labels: { a: 'b' },
    });
    expect(await xenvif('switch rm lan switches/lab --allow-missing')).toBe(
      'switches/lan\nswitches/lab\n',
    );
    expect(daemon.switchDeletes).toHaveLength(2);
    expect((await failureOf('switch rm lan a/b')).exitCode).toBe(2);
    expect(daemon.switchDeletes).toHaveLength(2);
    expect(await failureOf('switch show none')).toMatchObject({
      exitCode: 1,
      line: expect.stringContaining('SWITCH_NOT_FOUND'),
    });
  });
});

describe('xenvif tap, uplink and port', () => {
  it('plug TAPs, mirrors and uplinks in', async () => {
    const tap = '--interface lan0 --mtu 9000 --owner 1000 --persist --vlan 10 --port-id host';
    expect(await xenvif(`tap create lan ${tap}`)).toMatch(/^policy +VLAN 10$/m);
    const heard = '--mirror-source vif-1.0 --mirror-source vif-2.0 --mirror-destination vif-1.0';
    expect(await xenvif(`tap create lan ${heard}`)).toMatch(
      /^mirror +in at vif-1\.0 vif-2\.0, out at vif-1\.0$/m,
    );
    await xenvif('uplink create lan 3 --trunk 10-12 --json');
    expect(JSON.parse(printed)).toMatchObject({ kind: 'netfront', received: { packets: 5 } });
    expect(daemon.portCreates).toMatchObject([
      {
        switch: 'switches/lan',
        portId: 'host',
        device: { value: { interface: 'lan0', mtu: 9000, owner: 1000, persist: true } },
        policy: { accessVlan: 10 },
        mirror: undefined,
      },
      {
        mirror: { sources: ['vif-1.0', 'vif-2.0'], destinations: ['vif-1.0'], vlans: [] },
        policy: undefined,
      },
      { device: { value: { handle: 3 } }, policy: { trunkVlans: [10, 11, 12] } },
    ]);
  });

  it('list, change and remove ports', async () => {
    expect(await xenvif('port ls')).toMatch(/^tap1 +tap/m);
    await xenvif('port set default/tap0 --isolated');
    expect(daemon.portUpdates).toMatchObject([
      { name: 'switches/default/ports/tap0', policy: { isolated: true } },
    ]);
    expect(await failureOf('port set default/tap9 --isolated')).toMatchObject({
      exitCode: 1,
      line: expect.stringContaining('PORT_NOT_FOUND'),
    });
    expect((await failureOf('port set default/tap0')).exitCode).toBe(2);
    expect(await xenvif('port rm default/tap0')).toBe('switches/default/ports/tap0\n');
    expect((await failureOf('port rm tap0')).exitCode).toBe(2);
  });
});

describe('xenvif create', () => {
  it('takes a switch and a policy', async () => {
    await xenvif('create 3 --switch lan --vlan 10 --allow-address 10.0.0.3 --link-down');
    expect(daemon.creates[0]?.spec).toMatchObject({
      switch: 'switches/lan',
      linkDown: true,
      portPolicy: { accessVlan: 10, allowedAddresses: ['10.0.0.3'] },
    });
    await xenvif('create 3');
    expect(daemon.creates[1]?.spec?.portPolicy).toBeUndefined();
  });
});
