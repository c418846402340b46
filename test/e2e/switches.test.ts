import { credentials, type ServiceError } from '@grpc/grpc-js';
import { XenvifClient } from '@xenvif/client';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { loadConfig } from '../../src/config.js';
import { Daemon } from '../../src/daemon.js';
import {
  type ClientPort,
  FrameBatch,
  FrameMode,
  FrameServiceClient,
  OpenFrames,
  type StreamFramesRequest,
  type StreamFramesResponse,
} from '../../src/gen/xenvif/v1/frame_service.js';
import * as api from '../../src/gen/xenvif/v1/switch_service.js';
import { PortPolicy, Vif } from '../../src/gen/xenvif/v1/vif.js';
import {
  UpdateVifRequest,
  type UpdateVifResponse,
  VifServiceClient,
} from '../../src/gen/xenvif/v1/vif_service.js';
import { type BreakableConnection, breakableConnection } from '../support/breakable-connection.js';
import { type GuestUnderTest, Machine, silent, until } from '../support/machine.js';

let machine: Machine;
let daemon: Daemon;
let switches: api.SwitchServiceClient;
let vifs: VifServiceClient;
let frames: FrameServiceClient;
let first: GuestUnderTest;
let second: GuestUnderTest;

async function startDaemon(): Promise<void> {
  const config = loadConfig({ tcp: '127.0.0.1:0' });
  daemon = await Daemon.start({ xen: machine.xen, config, logger: silent, socket: undefined });
  machine.netback = daemon.netback;
  const address = daemon.addresses[0] as string;
  const plain = credentials.createInsecure();
  switches = new api.SwitchServiceClient(address, plain);
  vifs = new VifServiceClient(address, plain);
  frames = new FrameServiceClient(address, plain);
}

async function stopDaemon(): Promise<void> {
  for (const client of [switches, vifs, frames]) client.close();
  await daemon.stop();
}

beforeEach(async () => {
  machine = await Machine.start();
  await machine.netback.stop({ closeDevices: false, closeTimeoutMs: 0 });
  await startDaemon();
  first = await machine.addGuest();
  second = await machine.addGuest();
});
afterEach(async () => {
  for (const { netfront, xen } of machine.guests) {
    await netfront.stop();
    await xen.close();
  }
  await stopDaemon();
  await machine.xen.close();
  machine.hypervisor.assertNoLeaks();
  await machine.hypervisor.shutdown();
});

/** A unary call as a promise. */
async function promise<Response>(
  start: (done: (error: ServiceError | null, response: Response) => void) => unknown,
): Promise<Response> {
  return await new Promise((resolve, reject) => {
    start((error, response) => (error === null ? resolve(response) : reject(error)));
  });
}

const createSwitch = (request: Partial<api.CreateSwitchRequest>) =>
  promise<api.CreateSwitchResponse>((done) =>
    switches.createSwitch(api.CreateSwitchRequest.fromPartial(request), done),
  );
const deleteSwitch = (name: string) =>
  promise<api.DeleteSwitchResponse>((done) =>
    switches.deleteSwitch(api.DeleteSwitchRequest.fromPartial({ name }), done),
  );
const portsOf = async (name: string) => {
  const request = api.ListPortsRequest.fromPartial({ switch: name });
  const response = await promise<api.ListPortsResponse>((done) =>
    switches.listPorts(request, done),
  );
  return response.ports;
};
const update = (name: string, spec: Vif['spec'], paths: string[]) =>
  promise<UpdateVifResponse>((done) =>
    vifs.updateVif(
      UpdateVifRequest.fromPartial({ vif: { name, ...(spec && { spec }) }, updateMask: paths }),
      done,
    ),
  );

/** What a guest hears, as text. */
function hear(guest: GuestUnderTest): string[] {
  const heard: string[] = [];
  void guest.device.listen((frame) => {
    heard.push(Buffer.from(frame.subarray(14)).toString());
  });
  return heard;
}

function frameOf(text: string, source: string, destination = 'ff:ff:ff:ff:ff:ff'): Uint8Array {
  const bytes = [destination, source].flatMap((mac) =>
    mac.split(':').map((pair) => Number.parseInt(pair, 16)),
  );
  return Uint8Array.from([...bytes, 0x88, 0xb5, ...Buffer.from(text)]);
}

describe('vifs as ports', () => {
  test('are on the default switch, and hear each other there', async () => {
    const heard = hear(second);
    await first.device.write(frameOf('hello', first.device.mac));
    await until('it is heard', () => heard.length === 1);
    expect(heard).toEqual(['hello']);
    const ports = await portsOf('switches/default');
    expect(ports.map(({ name }) => name)).toEqual([
      'switches/default/ports/vif-1.0',
      'switches/default/ports/vif-2.0',
    ]);
    expect(ports[0]?.received?.packets).toBe(1n);
    expect(ports[1]?.sent?.packets).toBe(1n);
  });

  test('move to another switch while they are connected, and back', async () => {
    const heard = hear(second);
    await createSwitch({ switchId: 'lan' });
    await expect(createSwitch({ switchId: 'lan' })).rejects.toMatchObject({ code: 6 });
    const moved = await update(
      'vifs/1.0',
      Vif.fromPartial({ spec: { switch: 'switches/lan' } }).spec,
      ['spec.switch'],
    );
    expect(moved.vif?.spec?.switch).toBe('switches/lan');
    await first.device.write(frameOf('lost', first.device.mac));
    expect((await portsOf('switches/lan')).map(({ device }) => device)).toEqual(['vifs/1.0']);
    await expect(deleteSwitch('switches/lan')).rejects.toMatchObject({ code: 9 });
    await update('vifs/1.0', Vif.fromPartial({ spec: {} }).spec, ['spec.switch']);
    await first.device.write(frameOf('back', first.device.mac));
    await until('it is heard', () => heard.length > 0);
    expect(heard).toEqual(['back']);
    await deleteSwitch('switches/lan');
    await expect(deleteSwitch('switches/lan')).rejects.toMatchObject({ code: 5 });
    await expect(deleteSwitch('switches/default')).rejects.toMatchObject({ code: 9 });
  });

  test('show the switch that they are on, where libxl wrote the bridge that stands for no choice', async () => {
    const client = new XenvifClient({ address: daemon.addresses[0] as string });
    const shown: string[] = [];
    const watch = client.vifs.watch();
    const watching = (async () => {
      for await (const event of watch) {
        if (event.type === 'updated' && event.vif.name === 'vifs/1.0') {
          shown.push(event.vif.spec.switch);
        }
      }
    })();
    await until('the vif is seen', () => shown.length === 1);
    expect(await machine.xen.store.read('/local/domain/0/backend/vif/1/0/bridge')).toBe('xenbr0');
    const places = async () => {
      const { spec } = await client.vifs.get('vifs/1.0');
      const ports = await client.switches.ports(spec.switch);
      return [spec.switch, ports.some(({ device }) => device === 'vifs/1.0')];
    };
    expect(await places()).toEqual(['switches/default', true]);
    expect(shown).not.toContain('switches/xenbr0');
    await createSwitch({ switchId: 'xenbr0' });
    await until('its watchers are told', () => shown.at(-1) === 'switches/xenbr0');
    expect(await places()).toEqual(['switches/xenbr0', true]);
    watch.close();
    await watching;
    client.close();
  });

  test('have a policy that applies at once, and is still there for the next daemon', async () => {
    const heard = hear(second);
    const spec = Vif.fromPartial({ spec: { portPolicy: { lockMac: true } } }).spec;
    await update('vifs/1.0', spec, ['spec.port_policy']);
    await first.device.write(frameOf('spoofed', '02:00:00:00:00:99'));
    await first.device.write(frameOf('honest', first.device.mac));
    await until('one is heard', () => heard.length === 1);
    expect(heard).toEqual(['honest']);
    const [port] = await portsOf('switches/default');
    expect(port?.received?.drops).toMatchObject([{ cause: 'MAC_SPOOFED', packets: 1n }]);
    await stopDaemon();
    await startDaemon();
    expect((await portsOf('switches/default'))[0]?.policy).toMatchObject({ lockMac: true });
    await first.device.write(frameOf('spoofed', '02:00:00:00:00:99'));
    await first.device.write(frameOf('again', first.device.mac));
    await until('one is heard', () => heard.length === 2);
    expect(heard).toEqual(['honest', 'again']);
  });
});

describe('clients as ports', () => {
  type FrameCall = ReturnType<FrameServiceClient['streamFrames']>;
  class PortClient {
    readonly call: FrameCall;
    readonly got: string[] = [];
    /** The direction of each, as the contract numbers them. */
    readonly ways: number[] = [];
    port: api.Port | undefined;
    error: ServiceError | undefined;

    constructor(port: Partial<ClientPort>, service = frames) {
      this.call = service.streamFrames();
      this.call.on('data', ({ message }: StreamFramesResponse) => {
        if (message?.$case === 'opened') this.port = message.value.port;
        if (message?.$case !== 'frames') return;
        const { flags } = message.value;
        for (const [index, frame] of message.value.frames.entries()) {
          this.got.push(frame.subarray(14).toString());
          this.ways.push((flags[index] ?? 0) & 0b11);
        }
      });
      this.call.on('error', (error: ServiceError) => {
        this.error = error;
      });
      const value = OpenFrames.fromPartial({
        mode: FrameMode.ATTACH,
        switch: 'switches/default',
        port,
      });
      this.#write({ message: { $case: 'open', value } });
    }

    async opened(): Promise<this> {
      await until('the port is there', () => this.port !== undefined || this.error !== undefined);
      return this;
    }

    send(...sent: Uint8Array[]): void {
      const value = FrameBatch.fromPartial({ frames: sent.map((frame) => Buffer.from(frame)) });
      this.#write({ message: { $case: 'frames', value } });
    }

    #write(message: StreamFramesRequest): void {
      this.call.write(message);
    }
  }

  test('talk to guests and to each other, each by its own address', async () => {
    const heard = hear(second);
    const one = await new PortClient({ portId: 'one' }).opened();
    const two = await new PortClient({ mac: '02:00:00:00:00:02' }).opened();
    expect(one.port?.mac).toMatch(/^00:16:3e:/);
    expect(two.port?.mac).toBe('02:00:00:00:00:02');
    expect(one.port?.name).toBe('switches/default/ports/one');
    one.send(frameOf('to all', one.port?.mac ?? ''), frameOf('as another', '02:00:00:00:00:77'));
    await until('all hear it', () => heard.length === 1 && two.got.length === 1);
    await first.device.write(frameOf('from a guest', first.device.mac));
    await until('all hear it', () => one.got.length === 1 && two.got.length === 2);
    expect([heard, one.got, two.got]).toEqual([
      ['to all', 'from a guest'],
      ['from a guest'],
      ['to all', 'from a guest'],
    ]);
    const rival = await new PortClient({ portId: 'one' }).opened();
    expect(rival.error).toMatchObject({ code: 6 });
    one.call.end();
    await until('its port is gone', () => daemon.switches.get('default').ports.size === 3);
    two.call.cancel();
  });

  let fragile: BreakableConnection;
  let fragileFrames: FrameServiceClient;
  beforeEach(async () => {
    fragile = await breakableConnection(daemon.addresses[0] as string);
    fragileFrames = new FrameServiceClient(fragile.address, credentials.createInsecure());
  });
  afterEach(async () => {
    fragileFrames.close();
    await fragile.close();
  });

  const grace = { seconds: 3n, nanos: 0 };
  const place = { portId: 'host', mac: '02:00:00:00:00:05', grace };

  test('keep their port for a while when their stream breaks, and get it back', async () => {
    const own = { ...place, resumeKey: 'known to one' };
    const policy = PortPolicy.fromPartial({ isolated: true });
    await new PortClient({ ...own, policy }, fragileFrames).opened();
    fragile.break();
    const after = await new PortClient(own).opened();
    expect(after.error).toBeUndefined();
    expect(after.port).toMatchObject({ mac: place.mac, policy: { isolated: true, lockMac: true } });
    // Its stream may have broken without our having noticed.
    const replacing = await new PortClient(own, fragileFrames).opened();
    await until('the one before is cut off', () => after.error !== undefined);
    expect(after.error?.details).toContain('another stream');
    await first.device.write(frameOf('hello', first.device.mac));
    await until('it is heard', () => replacing.got.length === 1);
    fragile.break();
    await until('the port stays', () => daemon.switches.get('default').ports.has('host'));
    await until('and goes', () => !daemon.switches.get('default').ports.has('host'));
  });

  test('keep their port from others, who know its name and address', async () => {
    const refusal = { code: 6, details: expect.stringContaining('Another client holds the port') };
    const own = { ...place, resumeKey: 'known to one' };
    await new PortClient(own, fragileFrames).opened();
    const others = [place, { ...place, resumeKey: 'guessed' }, { ...own, resumeKey: '' }];
    for (const other of others) {
      expect((await new PortClient(other).opened()).error).toMatchObject(refusal);
    }
    fragile.break();
    for (const other of others) {
      expect((await new PortClient(other).opened()).error).toMatchObject(refusal);
    }
    expect((await new PortClient(own).opened()).error).toBeUndefined();
    const long = { portId: 'long', resumeKey: 'x'.repeat(129) };
    expect((await new PortClient(long).opened()).error).toMatchObject({ code: 3 });
  });

  test('that gave no key get their port back by their address, and nobody while they are there', async () => {
    const holder = await new PortClient(place, fragileFrames).opened();
    expect((await new PortClient(place).opened()).error).toMatchObject({ code: 6 });
    expect(holder.error).toBeUndefined();
    fragile.break();
    const { size } = daemon.switches.get('default').ports;
    await until('its end is seen', () => holder.error !== undefined);
    const stranger = await new PortClient({ ...place, mac: '02:00:00:00:00:06' }).opened();
    expect(stranger.error).toMatchObject({ code: 6 });
    expect((await new PortClient(place).opened()).error).toBeUndefined();
    expect(daemon.switches.get('default').ports.size).toBe(size);
  });

  test('hear, as mirrors, what passes other ports, each frame with its way', async () => {
    const heard = hear(second);
    const watched = { sources: ['vif-1.0'], destinations: ['vif-1.0'], vlans: [] };
    const mirror = await new PortClient({ portId: 'ear', mirror: watched }).opened();
    const all = await new PortClient({
      portId: 'all',
      mirror: { sources: [], destinations: [], vlans: [] },
    }).opened();
    expect(mirror.port).toMatchObject({ mirror: watched });
    await first.device.write(frameOf('out', first.device.mac));
    await second.device.write(frameOf('in', second.device.mac, first.device.mac));
    await until('all is heard', () => mirror.got.length === 2 && all.got.length === 2);
    expect([mirror.got, mirror.ways]).toEqual([
      ['out', 'in'],
      [1, 2],
    ]);
    expect([all.got, all.ways]).toEqual([
      ['out', 'in'],
      [1, 1],
    ]);
    mirror.send(frameOf('never', mirror.port?.mac ?? ''));
    await second.device.write(frameOf('last', second.device.mac, first.device.mac));
    await until('the last is heard', () => mirror.got.length === 3);
    expect(heard).toEqual(['out']);
    const ofNone = { sources: ['none'], destinations: [], vlans: [] };
    expect((await new PortClient({ mirror: ofNone }).opened()).error).toMatchObject({ code: 5 });
    const ofMirror = { sources: [], destinations: ['ear'], vlans: [] };
    expect((await new PortClient({ mirror: ofMirror }).opened()).error).toMatchObject({ code: 9 });
    mirror.call.end();
    await until('it is gone', () => !daemon.switches.get('default').ports.has('ear'));
  });

  test('are refused the seventeenth mirror, and leave no port behind', async () => {
    const mirror = { sources: [], destinations: [], vlans: [] };
    for (let number = 0; number < 16; number += 1) {
      expect((await new PortClient({ mirror }).opened()).error).toBeUndefined();
    }
    const { size } = daemon.switches.get('default').ports;
    expect((await new PortClient({ mirror }).opened()).error).toMatchObject({ code: 8 });
    expect(daemon.switches.get('default').ports.size).toBe(size);
  });
});

test('a policy that cannot be is refused, with the field', async () => {
  const spec = Vif.fromPartial({ spec: { portPolicy: { accessVlan: 4095 } } }).spec;
  const client = new XenvifClient({ address: daemon.addresses[0] as string });
  await expect(update('vifs/1.0', spec, ['spec.port_policy'])).rejects.toMatchObject({ code: 3 });
  await expect(update('vifs/1.0', spec, ['spec.mac'])).rejects.toMatchObject({ code: 3 });
  await expect(update('vifs/1.0', spec, ['spec.colour'])).rejects.toMatchObject({ code: 3 });
  expect((await client.vifs.get('vifs/1.0')).spec.portPolicy).toBeUndefined();
  expect(PortPolicy.create().lockMac).toBe(false);
  client.close();
});
