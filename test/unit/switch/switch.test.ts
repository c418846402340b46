import { describe, expect, test } from 'vitest';
import { CHECKSUM_BLANK, DATA_VALIDATED, FrameBatch } from '../../../src/device/frame-batch.js';
import { WriteOutcome } from '../../../src/device/network.js';
import { MisuseError } from '../../../src/errors.js';
import { LocalMemory } from '../../../src/xen/local-memory.js';
import { BROADCAST, drops, frame, mac, SwitchScene } from './switch-scene.js';

const A = mac(0xa);
const B = mac(0xb);
const C = mac(0xc);

describe('learning', () => {
  test('a frame to an address never seen goes to all others, one to a known address to its port', () => {
    const scene = new SwitchScene();
    const [a, b] = scene.all({}, {}, {});
    a?.nic.sends([frame(B, A)]);
    expect(scene.receivers()).toEqual([1, 2]);
    b?.nic.sends([frame(A, B)]);
    expect(scene.receivers()).toEqual([0]);
    a?.nic.sends([frame(B, A)]);
    expect(scene.receivers()).toEqual([1]);
  });

  test('broadcast and multicast go to all others', () => {
    const scene = new SwitchScene();
    const [a] = scene.all({}, {}, {}, {});
    a?.nic.sends([frame(BROADCAST, A)]);
    expect(scene.receivers()).toEqual([1, 2, 3]);
    a?.nic.sends([frame('01:00:5e:00:00:01', A)]);
    expect(scene.receivers()).toEqual([1, 2, 3]);
  });

  test('an address seen at another port is there from that frame on', () => {
    const scene = new SwitchScene();
    const [a, b, c] = scene.all({}, {}, {});
    a?.nic.sends([frame(BROADCAST, A)]);
    b?.nic.sends([frame(BROADCAST, A), frame(A, C)]);
    scene.receivers();
    c?.nic.sends([frame(A, C)]);
    expect(scene.receivers()).toEqual([1]);
    expect(b?.port.metrics.moved).toBe(1);
    expect(b && drops(b.port, 'SAME_PORT')).toBe(1);
  });

  test('sources that nobody can have are forwarded and never learnt', () => {
    const scene = new SwitchScene();
    const [a] = scene.all({}, {});
    a?.nic.sends([frame(BROADCAST, '03:00:00:00:00:01'), frame(BROADCAST, '00:00:00:00:00:00')]);
    expect(scene.receivers()).toEqual([1]);
    expect(scene.switch.forwardingEntries()).toEqual([]);
  });

  test('an address that is not seen for the ageing time is forgotten', () => {
    const scene = new SwitchScene({ ageingSeconds: 10 });
    const [a, b] = scene.all({}, {}, {});
    a?.nic.sends([frame(BROADCAST, A)]);
    scene.receivers();
    scene.nowMs += 9_900;
    b?.nic.sends([frame(A, B)]);
    expect(scene.receivers()).toEqual([0]);
    scene.nowMs += 100;
    b?.nic.sends([frame(A, B)]);
    expect(scene.receivers()).toEqual([0, 2]);
    expect(scene.switch.forwardingEntries().map((entry) => entry.mac)).toEqual([B]);
  });

  test('what is asked for shows address, VLAN, port and time', () => {
    const scene = new SwitchScene();
    const [a, b] = scene.all({}, { accessVlan: 7 });
    b?.nic.sends([frame(BROADCAST, B)]);
    a?.nic.sends([frame(BROADCAST, A)]);
    scene.nowMs += 5_000;
    const [first, second] = scene.switch.forwardingEntries();
    expect(first).toMatchObject({ mac: A, vlan: 0, port: a?.port, locked: false });
    expect(second).toMatchObject({ mac: B, vlan: 7, port: b?.port });
    expect(Math.abs(Date.now() - 5_000 - (first?.lastSeenMs ?? 0))).toBeLessThan(60_000);
  });

  test('beyond its quota a port teaches nothing new and takes nothing over', () => {
    const scene = new SwitchScene({ entriesPerPort: 4 });
    const [a, b, c] = scene.all({}, {}, {});
    a?.nic.sends([frame(BROADCAST, A)]);
    b?.nic.sends([1, 2, 3, 4, 5].map((number) => frame(BROADCAST, mac(number))));
    b?.nic.sends([frame(BROADCAST, A)]);
    expect(b?.port.metrics).toMatchObject({ learnt: 4, moved: 0, notLearnt: 2 });
    scene.receivers();
    c?.nic.sends([frame(A, C)]);
    expect(scene.receivers()).toEqual([0]);
    c?.nic.sends([frame(mac(5), C)]);
    expect(scene.receivers()).toEqual([0, 1]);
  });

  test('a million addresses from one port leave the entries of all others as they were', () => {
    const scene = new SwitchScene();
    const [a, b, flooder] = scene.all({}, {}, {});
    for (let number = 0; number < 1000; number += 1) {
      a?.nic.sends([frame(BROADCAST, mac(number))]);
      b?.nic.sends([frame(BROADCAST, mac(0x10000 + number))]);
    }
    const others = () =>
      scene.switch
        .forwardingEntries()
        .filter(({ port }) => port !== flooder?.port)
        .map(({ lastSeenMs, ...entry }) => ({ ...entry, port: entry.port.name }));
    const before = others();
    // To the flooder's own address: it is the table that is tested, not the flooding.
    const own = '06:00:00:00:00:00';
    flooder?.nic.sends([frame(BROADCAST, own)]);
    const region = scene.memory.allocate(64 * 256);
    const { bytes } = scene.memory;
    const batch = new FrameBatch(bytes, 256);
    for (let index = 0; index < 256; index += 1) {
      bytes.set(frame(own, own), region.offset + index * 64);
      batch.add(region.offset + index * 64, 60, 0);
    }
    for (let number = 0; number < 1_000_000; number += 1) {
      const source = region.offset + (number % 256) * 64 + 6;
      bytes[source + 3] = number >>> 16;
      bytes[source + 4] = number >>> 8;
      bytes[source + 5] = number;
      if (number % 256 === 255) flooder?.nic.carry(batch);
    }
    region.free();
    expect(others()).toEqual(before);
    expect(before).toHaveLength(2000);
    expect(scene.switch.forwardingEntryCount).toBe(2000 + 1024);
    expect(flooder?.port.metrics.notLearnt).toBeGreaterThan(998_000);
  });
});

describe('ports', () => {
  test('a port that goes takes its addresses with it, and the next one starts anew', () => {
    const scene = new SwitchScene();
    const [a, b] = scene.all({}, {}, {});
    a?.nic.sends([frame(BROADCAST, A)]);
    scene.receivers();
    a?.port.unplug();
    a?.port.unplug();
    expect(a?.nic.isListenedTo).toBe(false);
    const late = scene.station();
    expect(late.port.index).toBe(0);
    b?.nic.sends([frame(A, B)]);
    expect(scene.receivers()).toEqual([2, 3]);
  });

  test('a name is given once, and is free again after', () => {
    const scene = new SwitchScene();
    const { nic, port } = scene.station();
    expect(() => scene.switch.plug('port-0', nic)).toThrow('has a port port-0 already');
    expect(scene.switch.port('port-0')).toBe(port);
    port.unplug();
    expect(scene.switch.plug('port-0', nic).isLive).toBe(true);
  });

  test('a network that throws costs nobody else a frame', () => {
    const faults: unknown[] = [];
    const scene = new SwitchScene({ onPortFault: (port) => faults.push(port.name) });
    const [a, b, c] = scene.all({}, {}, {});
    if (b === undefined) throw new Error('There is no station b.');
    b.nic.onWrite = () => {
      throw new Error('broken');
    };
    for (let round = 0; round < 3; round += 1) a?.nic.sends([frame(BROADCAST, A), frame(C, A)]);
    expect(c?.nic.take()).toHaveLength(6);
    expect(drops(b.port, 'EGRESS_FAILED', 'rx')).toBe(6);
    expect(faults).toEqual(['port-1']);
    b.nic.onWrite = () => undefined;
    a?.nic.sends([frame(BROADCAST, A)]);
    expect(b.port.metrics.rx.packets).toBe(1);
  });

  test('what a network does not take is counted at its port', () => {
    const scene = new SwitchScene();
    const [a, b] = scene.all({}, {});
    if (b === undefined) throw new Error('There is no station b.');
    b.nic.outcomeOf = (index) => (index === 1 ? WriteOutcome.queueFull : WriteOutcome.accepted);
    const short = frame(BROADCAST, A, { payload: Buffer.alloc(10) });
    const long = frame(BROADCAST, A, { payload: Buffer.alloc(1000) });
    a?.nic.sends([short, long, short]);
    expect(b.port.metrics.rx).toMatchObject({ packets: 2, bytes: 48 });
    expect(drops(b.port, 'EGRESS_REFUSED', 'rx')).toBe(1);
    expect(a?.port.metrics.tx).toMatchObject({ packets: 3, bytes: 48 + 1014 });
  });

  test('ports that come and go within a write neither lose nor double frames of the others', () => {
    const scene = new SwitchScene();
    const [a, b, c, d] = scene.all({}, {}, {}, {});
    if (b === undefined || c === undefined) throw new Error('There are no stations.');
    c.nic.sends([frame(BROADCAST, C)]);
    scene.receivers();
    let late: ReturnType<SwitchScene['station']> | undefined;
    b.nic.onWrite = () => {
      c.port.unplug();
      late ??= scene.station();
    };
    a?.nic.sends([frame(BROADCAST, A), frame(C, A), frame(mac(1), A)]);
    expect(b.nic.take()).toHaveLength(2);
    expect(c.nic.take()).toHaveLength(0);
    expect(d?.nic.take()).toHaveLength(2);
    // The late port has another number, so it gets nothing that was for the one that went.
    expect(late?.nic.take()).toHaveLength(0);
    expect(late?.port.index).toBe(4);
  });

  test('a port pulled out by what its own frames set off teaches nothing any more', () => {
    const scene = new SwitchScene();
    const [a, b, c] = scene.all({}, {}, {});
    if (b === undefined) throw new Error('There is no station b.');
    b.nic.onWrite = () => a?.port.unplug();
    a?.nic.sends(Array.from({ length: 600 }, (_, number) => frame(BROADCAST, mac(number))));
    expect(c?.nic.take().length).toBe(256);
    expect(scene.switch.forwardingEntryCount).toBe(0);
  });

  test('ports in great number, plugged in within a write, get the rest of a long batch', () => {
    const scene = new SwitchScene();
    const [a, b] = scene.all({}, {});
    if (b === undefined) throw new Error('There is no station b.');
    b.nic.onWrite = () => {
      while (scene.stations.length < 200) scene.station();
    };
    a?.nic.sends(new Array(600).fill(frame(BROADCAST, A)));
    expect(b.nic.take()).toHaveLength(600);
    expect(scene.stations[199]?.nic.take()).toHaveLength(600 - 256);
  });

  test('a station that answers within the call is served', () => {
    const scene = new SwitchScene();
    const [a, b, c] = scene.all({}, {}, {});
    if (b === undefined) throw new Error('There is no station b.');
    b.nic.onWrite = (batch) => {
      if (batch.count > 0 && b.nic.received.length === 0) b.nic.sends([frame(A, B)]);
    };
    a?.nic.sends([frame(BROADCAST, A), frame(mac(1), A), frame(BROADCAST, A)]);
    expect(a?.nic.take()).toEqual([frame(A, B)]);
    expect(b.nic.take()).toHaveLength(3);
    expect(c?.nic.take()).toHaveLength(3);
  });

  test('a ring of switches ends in a count, not in an overflow', () => {
    const scene = new SwitchScene();
    const [a, left, right] = scene.all({}, {}, {});
    if (left === undefined || right === undefined) throw new Error('There are no stations.');
    left.nic.onWrite = (batch) => right.nic.carry(batch);
    right.nic.onWrite = (batch) => left.nic.carry(batch);
    a?.nic.sends([frame(BROADCAST, A)]);
    expect(
      drops(left.port, 'SWITCH_LOOP') + drops(right.port, 'SWITCH_LOOP'),
    ).toBeGreaterThanOrEqual(1);
  });

  test('frames that lie in other memory are a mistake of ours', () => {
    const scene = new SwitchScene();
    const { nic } = scene.station();
    const elsewhere = new LocalMemory(new ArrayBuffer(4096), 0n);
    const batch = new FrameBatch(elsewhere.bytes, 1);
    batch.add(0, 60, 0);
    expect(() => nic.carry(batch)).toThrow(MisuseError);
  });

  test('a closed switch listens to nobody and takes nobody', () => {
    const scene = new SwitchScene();
    const { nic } = scene.station();
    scene.switch.close();
    expect(nic.isListenedTo).toBe(false);
    expect(() => scene.station()).toThrow('closed');
  });
});

describe('what is known of a frame', () => {
  test.each([1, 2])('flags pass untouched, in a batch of %i', (count) => {
    const scene = new SwitchScene();
    const [a, b, c] = scene.all({}, {}, {});
    const flags = CHECKSUM_BLANK | (1 << 4) | (1448 << 16);
    a?.nic.sends(new Array(count).fill(frame(BROADCAST, A)), flags);
    for (const station of [b, c]) {
      expect(station?.nic.received.map((received) => received.flags)).toEqual(
        new Array(count).fill(flags),
      );
    }
  });

  test('a checksum that one port completes is complete for the next ones', () => {
    const scene = new SwitchScene();
    const [a, b, c, d] = scene.all({}, {}, {}, {});
    if (c === undefined) throw new Error('There is no station c.');
    d?.nic.sends([frame(BROADCAST, mac(0xd))]);
    scene.receivers();
    c.nic.completesChecksums = true;
    // Mixed destinations, so that each port has a batch of its own.
    const after = a?.nic.sends([frame(BROADCAST, A), frame(mac(0xd), A)], CHECKSUM_BLANK);
    expect(after).toEqual([DATA_VALIDATED, CHECKSUM_BLANK]);
    expect(b?.nic.received.map(({ flags }) => flags)).toEqual([CHECKSUM_BLANK]);
    expect(c.nic.received.map(({ flags }) => flags)).toEqual([DATA_VALIDATED]);
    expect(d?.nic.received.map(({ flags }) => flags)).toEqual([DATA_VALIDATED, CHECKSUM_BLANK]);
    expect(d?.nic.received[0]?.data.at(-1)).toBe(0xcc);
  });

  test('frames keep their order at each port, known and unknown ones mixed, in long batches', () => {
    const scene = new SwitchScene();
    const [a, b] = scene.all({}, {}, {});
    b?.nic.sends([frame(BROADCAST, B)]);
    scene.receivers();
    const frames = Array.from({ length: 1000 }, (_, index) => {
      const payload = Buffer.alloc(46);
      payload.writeUInt32BE(index);
      return frame(index % 3 === 0 ? BROADCAST : B, A, { payload });
    });
    a?.nic.sends(frames);
    expect(b?.nic.take()).toEqual(frames);
    expect(b?.nic.writes.at(-1)).toBe(1000 - 3 * 256);
  });
});

describe('addresses that bridges keep to themselves', () => {
  test('are dropped, but for spanning tree, in which the switch has no part', () => {
    const scene = new SwitchScene();
    const [a] = scene.all({}, {});
    a?.nic.sends([frame('01:80:c2:00:00:0e', A), frame('01:80:c2:00:00:01', A)]);
    expect(scene.receivers()).toEqual([]);
    expect(a && drops(a.port, 'RESERVED_MULTICAST')).toBe(2);
    a?.nic.sends([frame('01:80:c2:00:00:00', A)]);
    expect(scene.receivers()).toEqual([1]);
    a?.nic.sends([frame('01:80:c2:00:00:10', A)]);
    expect(scene.receivers()).toEqual([1]);
  });
});

describe('a hub', () => {
  test('sends everything everywhere and knows nothing', () => {
    const scene = new SwitchScene({ hub: true });
    const [a, b] = scene.all({}, {}, {});
    a?.nic.sends([frame(B, A)]);
    b?.nic.sends([frame(A, B)]);
    expect(scene.receivers()).toEqual([0, 1, 2]);
    b?.nic.sends([frame(B, B), frame('01:80:c2:00:00:0e', B)]);
    expect(scene.stations.map(({ nic }) => nic.take().length)).toEqual([2, 0, 2]);
    expect(scene.switch.forwardingEntries()).toEqual([]);
  });

  test('keeps to the policies of its ports', () => {
    const scene = new SwitchScene({ hub: true });
    const [a] = scene.all({ mac: A, lockMac: true }, { accessVlan: 3 }, {});
    a?.nic.sends([frame(BROADCAST, A), frame(BROADCAST, B)]);
    expect(scene.stations.map(({ nic }) => nic.take().length)).toEqual([0, 0, 1]);
  });
});

describe('storms', () => {
  test('are cut for the port that makes them, and for the kind that it makes', () => {
    const stormLimits = { broadcastPerSecond: 100, unknownUnicastPerSecond: 200 };
    const scene = new SwitchScene({ stormLimits });
    const [a, b, c] = scene.all({}, {}, {});
    if (a === undefined || b === undefined) throw new Error('There are no stations.');
    const storm = new Array(500).fill(frame(BROADCAST, A));
    a.nic.sends(storm);
    expect(c?.nic.take()).toHaveLength(64);
    expect(drops(a.port, 'STORM_BROADCAST')).toBe(436);
    a.nic.sends(new Array(500).fill(frame(mac(1), A)));
    expect(drops(a.port, 'STORM_UNKNOWN_UNICAST')).toBe(436);
    b.nic.sends([frame(A, B), frame(BROADCAST, B)]);
    expect(a.nic.take()).toHaveLength(2);
    scene.nowMs += 500;
    c?.nic.take();
    a.nic.sends(storm);
    expect(c?.nic.take()).toHaveLength(50);
  });

  test('have no limit unless one is set', () => {
    const scene = new SwitchScene();
    const [a, b] = scene.all({}, {});
    a?.nic.sends(new Array(3000).fill(frame(BROADCAST, A)));
    expect(b?.nic.take()).toHaveLength(3000);
  });
});
