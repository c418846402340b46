/**
 * XenStore as a target: what a frontend and a toolstack may write, in any combination, and states
 * that jump about, against model-store.ts. A handshake that the model takes must connect and carry
 * frames both ways; one that it refuses must leave nothing mapped or bound, and say why.
 */
import type { HandshakeOptions } from '../hostile/guest.js';
import { rxRequest, txRequest } from '../hostile/slots.js';
import { type Count, shorter, spin, type Target, turn } from './engine.js';
import { type GuestFacts, reasonsToRefuse, type StoreNodes } from './model-store.js';
import { expectBytes, expectSame, World } from './world.js';

/** What a node is set to: any text in latin1; `null` removes it. */
export type NodeValue = string | null;

export interface StoreCase {
  readonly queues: number;
  readonly split: boolean;
  readonly control: boolean;
  /** States that the frontend writes before its handshake: none of them is one. */
  readonly before: readonly string[];
  /** Nodes written over those of a right handshake. `$tx0` and the like stand for right values. */
  readonly frontend: Readonly<Record<string, NodeValue>>;
  /** Nodes that the toolstack has in the backend's directory. */
  readonly toolstack: Readonly<Record<string, NodeValue>>;
  /** The page of this ring holds rubbish: 0 for TX of queue 0, and so on; -1 for none. */
  readonly nonsense: number;
  /** States that the frontend writes one after another once all is done. */
  readonly after: readonly string[];
}

/** Nodes that only the connection of a frontend is about. */
const LINK = 'frontend';

export function storeTarget(
  generate: Target<World, StoreCase>['generate'],
): Target<World, StoreCase> {
  return {
    name: 'xenstore',
    outcomes: [
      ...['FRONTEND_PATH_INVALID', 'FRONTEND_KEY_MISSING', 'FRONTEND_KEY_INVALID'],
      ...['RX_COPY_REQUIRED', 'QUEUES_INVALID', 'RING_REFS_EQUAL', 'GRANT_FAILED'],
      ...['EVENT_CHANNEL_FAILED', 'RING_OVERFLOW'],
    ]
      .map((reason) => `R ${reason}`)
      .concat('connected', 'offline', 'states jump'),
    casesForAll: 1000,
    open: () => World.open(),
    close: (world, broken) => world.close(broken),
    generate,
    run: runStoreCase,
    smaller: smallerStoreCases,
  };
}

async function runStoreCase(world: World, fuzzCase: StoreCase, count: Count): Promise<void> {
  const run = new StoreRun(world, fuzzCase);
  await run.handshake(count);
  await run.jump(count);
  await run.restore();
  count('cases');
}

class StoreRun {
  readonly #world: World;
  readonly #case: StoreCase;
  readonly #backend: string;
  readonly #saved = new Map<string, string | undefined>();
  /** The nodes of the frontend's that were written, for the next case must not find them. */
  #written: readonly string[] = [];
  #isSwapped = false;

  constructor(world: World, fuzzCase: StoreCase) {
    this.#world = world;
    this.#case = fuzzCase;
    this.#backend = `/local/domain/0/backend/vif/${world.guest.domid}/0`;
  }

  async handshake(count: Count): Promise<void> {
    const { guest, machine } = this.#world;
    const { before, toolstack } = this.#case;
    for (const state of before) await guest.setState(state);
    await this.#writeToolstack(toolstack);
    const { nodes, facts } = await this.#offer();
    const link = await machine.xen.store.readIfExists(`${this.#backend}/${LINK}`);
    const reasons = reasonsToRefuse(nodes, link, facts);
    const online = await machine.xen.store.readIfExists(`${this.#backend}/online`);
    await guest.setState('4');
    if (online !== undefined && online !== '1') {
      await this.#expectOffline();
      count('offline');
    } else if (reasons.size > 0) {
      await this.#expectRefused(reasons);
      count(`R ${this.#world.device.status.reason}`);
    } else {
      await spin('the handshake is taken', () => this.#isTaken);
      await turn();
      // A guest that swaps its own rings is connected, and gets what it asked for.
      if (!this.#isSwapped) await this.#expectFrames();
      count('connected');
    }
  }

  /** The frontend's states jump about; what the backend does has to fit the last. */
  async jump(count: Count): Promise<void> {
    const { after } = this.#case;
    if (after.length === 0) return;
    const { device, guest } = this.#world;
    await Promise.all(after.map((state) => guest.setState(state)));
    for (let calm = 0, last = -1; calm < 20; calm += 1) {
      await turn();
      await device.settled();
      if (device.status.backendState !== last) calm = 0;
      last = device.status.backendState;
    }
    const own = Number(await this.#world.machine.xen.store.read(`${this.#backend}/state`));
    expectSame('the state that is shown', device.status.backendState, own);
    if (own !== 4) this.#world.checkNothingHeld();
    const final = after.at(-1);
    if (final === '6') expectSame('the state after Closed', own, 6);
    if (final === '5' && own === 4) throw new Error('The backend does not close with its peer.');
    if (final === '1' && own === 4) throw new Error('A frontend that starts anew is connected.');
    count('states jump');
  }

  /** All as it was: the toolstack's nodes, and the frontend in Initialising. */
  async restore(): Promise<void> {
    const world = this.#world;
    const { store } = world.machine.xen;
    for (const [name, value] of this.#saved) {
      if (value === undefined) await store.rm(`${this.#backend}/${name}`);
      else await store.write(`${this.#backend}/${name}`, value);
    }
    await world.guest.setState('6');
    await spin('the backend closes', () => world.device.status.backendState === 6);
    world.checkNothingHeld();
    await world.guest.write(Object.fromEntries(this.#written.map((name) => [name, undefined])));
    await world.disconnect();
  }

  get #isTaken(): boolean {
    const { device, killed } = this.#world;
    if (killed !== undefined) throw new Error(`The handshake was refused: ${killed}.`);
    return device.status.backendState === 4 && device.features !== undefined;
  }

  async #writeToolstack(nodes: StoreCase['toolstack']): Promise<void> {
    const { store } = this.#world.machine.xen;
    for (const [name, value] of Object.entries(nodes)) {
      this.#saved.set(name, await store.readIfExists(`${this.#backend}/${name}`));
      const right = this.#world.guest.base;
      if (value === null) await store.rm(`${this.#backend}/${name}`);
      else await store.write(`${this.#backend}/${name}`, value.replace('$frontend', right));
    }
  }

  /** Makes the rings and writes the nodes, all but the state. */
  async #offer(): Promise<{ nodes: StoreNodes; facts: GuestFacts }> {
    const { guest, machine } = this.#world;
    const { queues, split, control, frontend, nonsense } = this.#case;
    const options: HandshakeOptions = { queues, split, control };
    const { state: _, ...right } = guest.offer(options);
    const refs = guest.queues.flatMap(({ txRef, rxRef }) => [txRef, rxRef]);
    const rings = guest.queues.flatMap(({ tx, rx }) => [tx, rx]);
    const chosen = rings[nonsense];
    chosen?.setIndex(0, chosen.reqProd + 0x1000);
    const ports = guest.queues.flatMap(({ txChannel, rxChannel }) => [txChannel, rxChannel]);
    const { controlChannel } = guest;
    if (controlChannel !== undefined) ports.push(controlChannel);
    const controlRef = Number(right['ctrl-ring-ref'] ?? Number.NaN);
    const text: Record<string, string | undefined> = {};
    for (const [name, value] of Object.entries(right)) text[name] = value?.toString();
    for (const [name, value] of Object.entries(frontend)) {
      text[name] = value === null ? undefined : value.replace('$0', String(refs[0]));
    }
    const written = Object.entries(text).map(([name, value]) => [name, latin1(value)] as const);
    this.#written = Object.keys(text);
    this.#isSwapped = Object.keys(frontend).some((name) => {
      return name.endsWith('ring-ref') && text[name] !== right[name];
    });
    await guest.write(Object.fromEntries(written));
    const path = `${this.#backend}/multi-queue-max-queues`;
    const facts: GuestFacts = {
      queuesMax: Number(await machine.xen.store.read(path)),
      mappable: new Set([...refs, controlRef]),
      nonsense: new Set(chosen === undefined ? [] : [refs[nonsense] as number]),
      bindable: new Set(ports.map(({ port }) => port)),
      frontend: guest.base,
    };
    return { nodes: text, facts };
  }

  async #expectRefused(reasons: ReadonlySet<string>): Promise<void> {
    const world = this.#world;
    const { store } = world.machine.xen;
    await spin(`the handshake is refused for ${[...reasons].join(' or ')}`, () => {
      return world.killed !== undefined && world.device.status.backendState >= 5;
    });
    if (!reasons.has(world.killed ?? '')) {
      throw new Error(`Refused for ${world.killed} instead of ${[...reasons].join(' or ')}.`);
    }
    const error = await store.readIfExists(`${this.#backend}/error`);
    if (error === undefined || error === '') throw new Error('Nothing is in the error node.');
    expectSame('the state', await store.read(`${this.#backend}/state`), '5');
    world.checkNothingHeld();
  }

  async #expectOffline(): Promise<void> {
    const { device } = this.#world;
    await spin('the backend goes', () => device.status.backendState >= 5);
    this.#world.checkNothingHeld();
  }

  /** A frame each way on the first queue that is right. */
  async #expectFrames(): Promise<void> {
    const { device, guest, taken } = this.#world;
    taken.length = 0;
    const frame = Uint8Array.from({ length: 60 }, (_, index) => (index * 5) & 0xfe);
    const out = guest.page(frame);
    for (const queue of guest.queues) {
      queue.send([txRequest({ gref: out.ref, size: frame.length, id: 77 })]);
      // The frontend may have named this port for both directions.
      queue.rxChannel.notify();
      await spin('the frame is answered', () => queue.tx.answered === 1);
      expectSame('the answer', queue.takeTx(), [{ id: 77, status: 0, rest: [0, 0] }]);
    }
    await spin('the frames are in', () => taken.length === guest.queues.length);
    for (const { bytes } of taken) expectBytes('a frame', bytes, frame);
    const back = guest.page();
    for (const { rx } of guest.queues) rx.push([rxRequest(7, back.ref)]);
    await device.write(frame);
    await spin('the frame is out', () => guest.queues.some(({ rx }) => rx.answered === 1));
    expectBytes('the frame that is out', back.page.bytes.slice(0, 60), frame);
    taken.length = 0;
  }
}

function latin1(value: string | undefined): Buffer | undefined {
  return value === undefined ? undefined : Buffer.from(value, 'latin1');
}

function* smallerStoreCases(fuzzCase: StoreCase): Iterable<StoreCase> {
  for (const after of shorter(fuzzCase.after)) yield { ...fuzzCase, after };
  for (const before of shorter(fuzzCase.before)) yield { ...fuzzCase, before };
  for (const kind of ['frontend', 'toolstack'] as const) {
    for (const entries of shorter(Object.entries(fuzzCase[kind]))) {
      yield { ...fuzzCase, [kind]: Object.fromEntries(entries) };
    }
  }
  if (fuzzCase.nonsense >= 0) yield { ...fuzzCase, nonsense: -1 };
  if (fuzzCase.control) yield { ...fuzzCase, control: false };
  if (fuzzCase.split) yield { ...fuzzCase, split: false };
  if (fuzzCase.queues > 1) yield { ...fuzzCase, queues: 1 };
}
