/**
 * Clients as ports of switches: who holds which port, and how long a port stays for a client whose
 * stream broke. A client is known again by its port's id and the secret that it opened the port with;
 * one that has no secret by its MAC address, and only once its stream has ended.
 */
import { randomBytes } from 'node:crypto';
import { FRAME_BYTES_MAX } from '../device/frame-batch.js';
import { AbortedError, AlreadyExistsError, InvalidArgumentError } from '../errors.js';
import type { ClientPort } from '../gen/xenvif/v1/frame_service.js';
import { PortPolicy } from '../gen/xenvif/v1/vif.js';
import type { JoinedPort, Switches } from '../switch/switches.js';
import { checkPortPolicy } from './port-policy.js';
import { type ClientSink, RemoteNic } from './remote-nic.js';
import { checkPortId } from './switch-service.js';
import { checkDurationMs, checkMac, randomMac } from './validate.js';

const GRACE_MS = { unset: 5000, min: 0, max: 60_000 };
const MTU = 1500;
/** A mirror hears what other ports may have; nothing is cut for it. */
const MIRROR_MTU = FRAME_BYTES_MAX - 14;
const RESUME_KEY_MAX = 128;

/** A port in a client's hands. */
export interface ClientLease {
  readonly switchId: string;
  readonly joined: JoinedPort;
  readonly nic: RemoteNic;
  /** Begins to give the client its frames. */
  connect(sink: ClientSink): void;
  /** The client is gone: for good, or by a stream that broke, and may come back. */
  release(forGood: boolean): void;
}

interface Holding {
  readonly switchId: string;
  readonly joined: JoinedPort;
  readonly nic: RemoteNic;
  readonly graceMs: number;
  /** What the client has to know to have its port back; empty for one that gave nothing. */
  readonly resumeKey: string;
  /** Ends the stream of who holds the port now; undefined while nobody does. */
  cutOff: ((error: Error) => void) | undefined;
  timer: NodeJS.Timeout | undefined;
}

export class ClientPorts {
  readonly #switches: Switches;
  readonly #holdings = new Map<string, Holding>();

  constructor(switches: Switches) {
    this.#switches = switches;
    switches.onRemoved((switchId, portId) => {
      const key = `${switchId}/${portId}`;
      const holding = this.#holdings.get(key);
      if (holding === undefined) return;
      this.#holdings.delete(key);
      clearTimeout(holding.timer);
      holding.cutOff?.(new AbortedError('SWITCH_DELETED', `switches/${switchId} is gone.`));
    });
  }

  /**
   * Makes a port for a client, or gives a client that comes back the one that it had. `cutOff` ends
   * the client's stream when the port goes from it.
   * @throws InvalidArgumentError; NotFoundError SWITCH_NOT_FOUND, PORT_NOT_FOUND; AlreadyExistsError
   *   PORT_EXISTS; FailedPreconditionError PORT_IS_MIRROR; ResourceExhaustedError TOO_MANY_MIRRORS.
   */
  open(
    switchId: string,
    wanted: ClientPort | undefined,
    cutOff: (error: Error) => void,
  ): ClientLease {
    this.#switches.get(switchId);
    const portId =
      wanted?.portId === undefined || wanted.portId === ''
        ? `client-${randomBytes(4).toString('hex')}`
        : checkPortId(wanted.portId);
    const mac = wanted?.mac === undefined || wanted.mac === '' ? '' : checkMac(wanted.mac);
    const key = `${switchId}/${portId}`;
    const old = this.#holdings.get(key);
    if (old !== undefined && !isSameClient(old, mac, checkResumeKey(wanted))) {
      const text = `Another client holds the port ${portId} of switches/${switchId}.`;
      throw new AlreadyExistsError('PORT_EXISTS', text);
    }
    const holding = old ?? this.#make(switchId, portId, mac, wanted);
    this.#holdings.set(key, holding);
    clearTimeout(holding.timer);
    holding.cutOff?.(new AbortedError('PORT_REPLACED', 'The client came back on another stream.'));
    holding.cutOff = cutOff;
    return this.#lease(key, holding, cutOff);
  }

  /** Gives every port up. */
  stop(): void {
    for (const [key, holding] of this.#holdings) this.#drop(key, holding);
  }

  #make(switchId: string, portId: string, mac: string, wanted: ClientPort | undefined): Holding {
    const asked = wanted?.policy ?? PortPolicy.create();
    // A client is whom its MAC address says unless it is to be somebody else, too.
    const policy = { ...asked, lockMac: asked.lockMac || !(wanted?.anyMac ?? false) };
    const text = checkPortPolicy(policy, 'open.port.policy') ?? '';
    const graceMs = checkDurationMs(wanted?.grace, 'open.port.grace', GRACE_MS);
    const resumeKey = checkResumeKey(wanted);
    const mirror = wanted?.mirror;
    const mtu = mirror === undefined ? MTU : MIRROR_MTU;
    const nic = new RemoteNic(mac === '' ? randomMac() : mac, mtu);
    const how = { policy: text, mirror, isConnected: () => nic.connected };
    const joined = this.#switches.plugClient(switchId, portId, nic, how);
    return { switchId, joined, nic, graceMs, resumeKey, cutOff: undefined, timer: undefined };
  }

  #lease(key: string, holding: Holding, cutOff: (error: Error) => void): ClientLease {
    const { graceMs, joined, nic, switchId } = holding;
    return {
      switchId,
      joined,
      nic,
      connect: (sink) => nic.connect(sink),
      release: (forGood) => {
        // Whoever took the port over has it; the one before has nothing to give back.
        if (holding.cutOff !== cutOff) return;
        holding.cutOff = undefined;
        nic.connect(undefined);
        if (forGood || graceMs === 0) this.#drop(key, holding);
        else holding.timer = setTimeout(() => this.#drop(key, holding), graceMs);
      },
    };
  }

  #drop(key: string, holding: Holding): void {
    clearTimeout(holding.timer);
    if (this.#holdings.get(key) !== holding) return;
    this.#holdings.delete(key);
    this.#switches.unplugClient(holding.switchId, holding.joined.id);
    void holding.nic.disconnect();
  }
}

/** Whether who opens a port again is who holds it. */
function isSameClient(held: Holding, mac: string, resumeKey: string): boolean {
  if (held.resumeKey !== '') return held.resumeKey === resumeKey;
  return held.cutOff === undefined && held.nic.mac === mac;
}

/** @throws InvalidArgumentError RESUME_KEY_INVALID. */
function checkResumeKey(wanted: ClientPort | undefined): string {
  const key = wanted?.resumeKey ?? '';
  if (key.length <= RESUME_KEY_MAX) return key;
  const text = `A resume key has at most ${RESUME_KEY_MAX} characters.`;
  throw new InvalidArgumentError('RESUME_KEY_INVALID', 'open.port.resume_key', text);
}
