import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { EventChannelError, MisuseError } from '../../../../src/errors.js';
import type { Domain } from '../../../../src/xen/emulated/domain.js';
import type { EmulatedXen } from '../../../../src/xen/emulated/emulated-xen.js';
import { Hypervisor } from '../../../../src/xen/emulated/hypervisor.js';
import { EventDelivery, type Port, PortTable } from '../../../../src/xen/emulated/port-table.js';

/** Two tables of ports whose events are delivered when the test says so. */
function machine(portsMax = 8) {
  const rounds: (() => void)[] = [];
  const delivery = new EventDelivery((deliver) => rounds.push(deliver));
  return {
    left: new PortTable(1, delivery, portsMax),
    right: new PortTable(2, delivery, portsMax),
    /** Delivers one round; tells whether there was one. */
    deliver: () => {
      const round = rounds.shift();
      round?.();
      return round !== undefined;
    },
  };
}

describe('ports', () => {
  test('start at 1, and the lowest free one comes next', () => {
    const { left } = machine();
    const ports = [1, 2, 3].map(() => left.allocate(2, () => {}));
    expect(ports.map(({ number }) => number)).toEqual([1, 2, 3]);
    const [first, second] = ports;
    if (second) left.close(second);
    if (first) left.close(first);
    expect(left.allocate(2, () => {}).number).toBe(1);
    expect(left.allocate(2, () => {}).number).toBe(2);
    expect(left.allocate(2, () => {}).number).toBe(4);
  });

  test('run out with ENOSPC', () => {
    const { left } = machine(2);
    left.allocate(2, () => {});
    left.allocate(2, () => {});
    expect(() => left.allocate(2, () => {})).toThrow(EventChannelError);
  });

  test('that failed to be bound, for ours have run out, can be bound later', () => {
    const { left, right } = machine(1);
    const ours = right.allocate(1, () => {});
    const port = left.allocate(2, () => {});
    expect(() => right.bind(left, port.number, () => {})).toThrow(EventChannelError);
    right.close(ours);
    right.bind(left, port.number, () => {});
  });
});

describe('delivery', () => {
  test('takes all that is due in one round, each once, in order', () => {
    const { left, right, deliver } = machine();
    const heard: string[] = [];
    const ports = ['a', 'b', 'c'].map((name) => {
      const port = left.allocate(2, () => {});
      return { port, end: right.bind(left, port.number, () => heard.push(name)) };
    });
    expect(deliver()).toBe(true);
    expect(heard).toEqual(['a', 'b', 'c']);
    expect(deliver()).toBe(false);
    for (const { end } of ports) right.unmask(end);
    heard.length = 0;
    for (const { port } of [...ports].reverse()) {
      left.notify(port);
      left.notify(port);
    }
    deliver();
    expect(heard).toEqual(['c', 'b', 'a']);
    expect(deliver()).toBe(false);
  });

  test('puts what a handler causes behind what is due', () => {
    const { left, right, deliver } = machine();
    const heard: string[] = [];
    const port = left.allocate(2, () => heard.push('left'));
    const end = right.bind(left, port.number, () => {
      heard.push('right');
      right.unmask(end);
      right.notify(end);
    });
    const other = left.allocate(2, () => {});
    right.bind(left, other.number, () => heard.push('other'));
    deliver();
    expect(heard).toEqual(['right', 'other', 'left']);
  });

  test('lets the event loop have its turn when two domains do not come to an end', () => {
    const { left, right, deliver } = machine();
    let heard = 0;
    const port: Port = left.allocate(2, () => {
      heard += 1;
      left.unmask(port);
      left.notify(port);
    });
    const end: Port = right.bind(left, port.number, () => {
      heard += 1;
      right.unmask(end);
      right.notify(end);
    });
    expect(deliver()).toBe(true);
    expect(heard).toBeLessThan(20);
    expect(deliver()).toBe(true);
  });

  test('of what came while masked waits for the unmask', () => {
    const { left, right, deliver } = machine();
    let heard = 0;
    const port = left.allocate(2, () => {});
    const end = right.bind(left, port.number, () => {
      heard += 1;
    });
    deliver();
    left.notify(port);
    expect(deliver()).toBe(false);
    right.unmask(end);
    right.unmask(end);
    expect(deliver()).toBe(true);
    expect(deliver()).toBe(false);
    expect(heard).toBe(2);
  });

  test('goes on for the others when a handler throws', () => {
    const { left, right, deliver } = machine();
    const heard: string[] = [];
    const first = left.allocate(2, () => {});
    const second = left.allocate(2, () => {});
    right.bind(left, first.number, () => {
      throw new Error('a bug');
    });
    right.bind(left, second.number, () => heard.push('second'));
    expect(() => deliver()).toThrow('a bug');
    expect(deliver()).toBe(true);
    expect(heard).toEqual(['second']);
  });

  test('does not reach a port that was closed when its turn came', () => {
    const { left, right, deliver } = machine();
    let heard = 0;
    const port = left.allocate(2, () => {});
    const end = right.bind(left, port.number, () => {
      heard += 1;
    });
    right.close(end);
    const other = right.bind(left, port.number, () => {
      heard += 100;
    });
    expect(other.number).toBe(end.number);
    deliver();
    expect(heard).toBe(100);
  });
});

describe('event channels of domains', () => {
  let hypervisor: Hypervisor;
  let guest: Domain;
  let backend: EmulatedXen;
  let frontend: EmulatedXen;

  beforeEach(async () => {
    hypervisor = new Hypervisor({ memoryBytes: 64 * 1024 * 1024 });
    guest = await hypervisor.createDomain({ domid: 5 });
    backend = await hypervisor.dom0.open();
    frontend = await guest.open();
  });

  afterEach(async () => {
    await hypervisor.shutdown();
  });

  test('let sockets and timers have their turn, however much two domains notify', async () => {
    const left = frontend.events.allocate(0, () => {
      left.unmask();
      left.notify();
    });
    const right = backend.events.bind(5, left.port, () => {
      right.unmask();
      right.notify();
    });
    const fired = await new Promise<boolean>((resolve) => setTimeout(() => resolve(true), 20));
    expect(fired).toBe(true);
  });

  test('can be bound only by the domain they were allocated for', async () => {
    const third = await (await hypervisor.createDomain({ domid: 6 })).open();
    const channel = frontend.events.allocate(0, () => {});
    expect(() => third.events.bind(5, channel.port, () => {})).toThrow(EventChannelError);
    expect(() => backend.events.bind(6, channel.port, () => {})).toThrow(EventChannelError);
    backend.events.bind(5, channel.port, () => {});
    expect(() => backend.events.bind(5, channel.port, () => {})).toThrow(EventChannelError);
  });

  test('of a killed process can be bound again by the next one', async () => {
    let heard = 0;
    const left = frontend.events.allocate(0, () => {
      heard += 1;
    });
    const old = backend.events.bind(5, left.port, () => {
      throw new Error('a dead process heard an event');
    });
    await backend.kill();
    left.notify();
    old.notify();
    old.unmask();
    old.close();
    const next = await hypervisor.dom0.open();
    const again = next.events.bind(5, left.port, () => {});
    again.notify();
    await nextTurn();
    await nextTurn();
    expect(heard).toBe(1);
    expect(() => backend.events.bind(5, left.port, () => {})).toThrow(EventChannelError);
    expect(() => backend.events.allocate(5, () => {})).toThrow(EventChannelError);
  });

  test('that were left open are named at the close, and closed', async () => {
    const left = frontend.events.allocate(0, () => {});
    backend.events.bind(5, left.port, () => {});
    expect(hypervisor.leaks()).toHaveLength(2);
    await expect(backend.close()).rejects.toThrow(/holds event channel port 1 to domain 5/);
    expect(() => backend.events.bind(5, left.port, () => {})).toThrow(MisuseError);
    left.close();
    hypervisor.assertNoLeaks();
  });

  test('of a destroyed domain are gone, and the peer keeps a port to nowhere', async () => {
    const left = frontend.events.allocate(0, () => {});
    const right = backend.events.bind(5, left.port, () => {});
    await hypervisor.destroyDomain(5);
    right.notify();
    right.close();
    expect(() => backend.events.bind(5, left.port, () => {})).toThrow(EventChannelError);
    await hypervisor.createDomain({ domid: 5 });
    expect(() => backend.events.bind(5, left.port, () => {})).toThrow(EventChannelError);
  });

  test('fail every Nth time when told to', () => {
    hypervisor.failEvery({ bind: 2, allocate: 3 });
    const open = () => frontend.events.allocate(0, () => {});
    const [first, second] = [open(), open()];
    expect(open).toThrow(EventChannelError);
    const bind = (port: number) => backend.events.bind(5, port, () => {});
    bind(first?.port ?? 0);
    expect(() => bind(second?.port ?? 0)).toThrow(EventChannelError);
    bind(second?.port ?? 0);
  });
});
