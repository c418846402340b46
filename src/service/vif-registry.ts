/**
 * The vifs as the API shows them: resources with an etag, and a numbered history of their changes
 * that watchers read from wherever they stand.
 */
import { randomUUID } from 'node:crypto';
import type { NetbackDevice } from '../device/netback/device.js';
import type { Netback, VifEvent } from '../device/netback/index.js';
import { NotFoundError, OutOfRangeError } from '../errors.js';
import { type RateLimit, Vif, VifPhase, XenbusState } from '../gen/xenvif/v1/vif.js';
import { etagOf } from './etag.js';
import { parsePortPolicy } from './port-policy.js';
import { parseVifName } from './validate.js';

export interface VifChange {
  readonly sequence: number;
  readonly event: VifEvent;
  readonly vif: Vif;
}

const PHASES: Readonly<Record<NetbackDevice['status']['phase'], VifPhase>> = {
  connecting: VifPhase.CONNECTING,
  connected: VifPhase.CONNECTED,
  disconnected: VifPhase.DISCONNECTED,
  deleting: VifPhase.DELETING,
  failed: VifPhase.FAILED,
};

export class VifRegistry {
  readonly netback: Netback;
  /** Names this run of the daemon: sequences and tokens of another run mean nothing here. */
  readonly bootId = randomUUID();
  readonly #switchOf: (device: NetbackDevice) => string;
  readonly #history: VifChange[] = [];
  readonly #historyMax: number;
  readonly #listeners = new Set<(change: VifChange) => void>();
  #sequence = 0;

  /** `switchOf` is the id of the switch that a vif is a port of. */
  constructor(netback: Netback, switchOf: (device: NetbackDevice) => string, historyMax: number) {
    this.netback = netback;
    this.#switchOf = switchOf;
    this.#historyMax = historyMax;
    netback.onVif((event, device) => this.#record(event, device));
  }

  /** The number of the last change. */
  get sequence(): number {
    return this.#sequence;
  }

  /** The resource as it is now. */
  toVif(device: NetbackDevice): Vif {
    return toVif(device, this.#switchOf(device));
  }

  /** @throws InvalidArgumentError VIF_NAME_INVALID; NotFoundError VIF_NOT_FOUND. */
  find(name: string, field = 'name'): NetbackDevice {
    const { domid, handle } = parseVifName(name, field);
    const device = this.netback.get(domid, handle);
    if (device === undefined) {
      throw new NotFoundError('VIF_NOT_FOUND', `There is no vif ${name}.`, { vif: name });
    }
    return device;
  }

  /** Calls `listener` with each change from now on. Returns a function that ends it. */
  onChange(listener: (change: VifChange) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  tokenOf(sequence: number): string {
    return `${this.bootId}:${sequence}`;
  }

  /**
   * The changes behind a resume token.
   * @throws OutOfRangeError RESUME_TOKEN_EXPIRED when they are not all here any more.
   */
  changesAfter(token: string): VifChange[] {
    const [bootId, text] = token.split(':');
    const after = Number(text);
    const oldest = this.#history[0]?.sequence ?? this.#sequence + 1;
    if (bootId !== this.bootId || !(after >= oldest - 1 && after <= this.#sequence)) {
      throw new OutOfRangeError(
        'RESUME_TOKEN_EXPIRED',
        'The changes behind this token are not known any more; watch without a token.',
      );
    }
    return this.#history.filter((change) => change.sequence > after);
  }

  #record(event: VifEvent, device: NetbackDevice): void {
    this.#sequence += 1;
    const change = { sequence: this.#sequence, event, vif: this.toVif(device) };
    this.#history.push(change);
    if (this.#history.length > this.#historyMax) this.#history.shift();
    for (const listener of this.#listeners) listener(change);
  }
}

export function phaseOf(device: NetbackDevice): VifPhase {
  return PHASES[device.status.phase];
}

function toVif(device: NetbackDevice, switchId: string): Vif {
  const { configuration, status } = device;
  const features = device.features;
  const vif = Vif.fromPartial({
    name: device.name,
    uid: device.uid,
    labels: device.labels,
    spec: {
      mac: configuration.mac,
      mtu: configuration.mtu,
      rate: toRate(configuration.rate),
      switch: `switches/${switchId}`,
      portPolicy: configuration.policy === '' ? undefined : parsePortPolicy(configuration.policy),
      linkDown: !configuration.carrier,
    },
    status: {
      phase: phaseOf(device),
      backendState: toXenbusState(status.backendState),
      frontendState: toXenbusState(status.frontendState),
      reason: status.reason,
      message: status.message,
      since: new Date(status.sinceMs),
      queues: device.connection?.queues.length ?? 0,
      connects: BigInt(status.connects),
      linkUp: configuration.carrier,
      ...(features === undefined
        ? {}
        : {
            features: {
              scatterGather: features.scatterGather,
              gsoTcpv4: features.gsoTcpv4,
              gsoTcpv6: features.gsoTcpv6,
              ipv4ChecksumOffload: features.ipv4Checksum,
              ipv6ChecksumOffload: features.ipv6Checksum,
              multicastControl: features.multicastControl,
              controlRing: features.controlRing,
              splitEventChannels: features.splitEventChannels,
              rxNotify: features.rxNotify,
            },
          }),
    },
  });
  return { ...vif, etag: etagOf(Vif.encode(vif).finish()) };
}

function toRate(rate: NetbackDevice['configuration']['rate']): RateLimit | undefined {
  if (rate === undefined) return undefined;
  const seconds = Math.floor(rate.intervalUs / 1e6);
  return {
    bytesPerInterval: BigInt(rate.bytesPerInterval),
    interval: { seconds: BigInt(seconds), nanos: (rate.intervalUs - seconds * 1e6) * 1000 },
  };
}

/** The numbers are those of xenbus.h on both sides; 0 stands for none. */
function toXenbusState(state: number): XenbusState {
  return Object.values(XenbusState).find((value) => value === state) ?? XenbusState.UNSPECIFIED;
}
