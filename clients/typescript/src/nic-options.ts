/** What may be asked of a NIC, and how that is said in the contract. */
import { durationFromMs } from './duration.js';
import type { Lost } from './frame-messages.js';
import type { FramePurpose, FrameStreamOptions, OpenedFrames } from './frame-options.js';
import { FrameMode } from './gen/xenvif/v1/frame_service.js';
import { type MirrorInput, mirrorToWire } from './mirror.js';
import { type PortPolicyInput, policyToWire } from './port-policy.js';
import { switchName } from './switch-name.js';
import type { VifPhase } from './vif.js';
import { vifName } from './vif-name.js';

/** How to be a port, for a NIC on a switch. A NIC on a vif has none of this. */
export interface ClientPortOptions {
  /** The last part of the port's name, 1 to 32 characters of [A-Za-z0-9._-]. Default: one is made. */
  readonly portId?: string | undefined;
  /** The NIC's MAC address. Default: one in the range 00:16:3e. */
  readonly mac?: string | undefined;
  /** What the port allows, besides that its source address is locked: see `anyMac`. */
  readonly policy?: PortPolicyInput | undefined;
  /** Send from any MAC address, as a bridge does. Default: only from the NIC's own. */
  readonly anyMac?: boolean | undefined;
  /**
   * A secret of at most 128 characters by which the port is had back, also by another process that knows
   * it. Default: a random one, so that only this NIC can.
   */
  readonly resumeKey?: string | undefined;
  /**
   * Be a mirror: hear copies of what passes other ports, and send nothing. `from-guest` is then what
   * came into the switch at a port, `to-guest` what went out of it there.
   */
  readonly mirror?: MirrorInput | undefined;
}

export interface AttachOptions extends Omit<FrameStreamOptions, 'maxFrames'>, ClientPortOptions {
  /** Have the daemon tell what became of each frame sent, which `inject` needs. Default false. */
  readonly reportResults?: boolean | undefined;
  /** Bytes of frames that may wait to be sent before writes fail. Default 16 MiB. */
  readonly sendQueueBytes?: number | undefined;
  /**
   * Attach again when the connection breaks. Default: true on a switch, false on a vif. A NIC on a
   * switch comes back as the same port with the same MAC address.
   */
  readonly reconnect?: boolean | undefined;
  /**
   * Milliseconds, up to 60000, that a NIC whose connection broke tries to come back, and that the
   * switch keeps its port. Default 5000; 0: it is gone at once.
   */
  readonly graceMs?: number | undefined;
  /** Called for each run of received frames that will never come. */
  readonly onLost?: ((lost: Lost) => void) | undefined;
  /**
   * Called when the NIC's phase changes. For a vif, as the daemon tells it, for example when the guest
   * closes its side. For the NIC itself: `disconnected` with the reason CONNECTION_LOST while it tries
   * to come back, and then its phase with the reason REATTACHED.
   */
  readonly onStatus?: ((phase: VifPhase, reason: string) => void) | undefined;
}

/** The grace of the contract where nobody says anything, in milliseconds. */
const DEFAULT_GRACE_MS = 5_000;

/** How long a NIC tries to come back, in milliseconds; 0: it does not. */
export function graceMsOf(target: string, options: AttachOptions): number {
  const { reconnect = isSwitch(target), graceMs = DEFAULT_GRACE_MS } = options;
  return reconnect ? graceMs : 0;
}

/**
 * Opens `target`, for the first time or, where it was open before, as the port that it was: who knows
 * `resumeKey` is the same client.
 * @throws XenvifClientError VIF_NAME_INVALID, SWITCH_NAME_INVALID
 */
export function attachPurpose(
  target: string,
  options: AttachOptions,
  resumeKey: string,
  before?: OpenedFrames | undefined,
): FramePurpose {
  const mode = FrameMode.ATTACH;
  const reportResults = options.reportResults ?? false;
  if (!isSwitch(target)) return { mode, vifs: [vifName(target)], reportResults };
  const { policy, anyMac = false, mirror } = options;
  const port = {
    portId: before?.port?.id ?? options.portId ?? '',
    mac: before?.port?.mac ?? options.mac ?? '',
    policy: policy && policyToWire(policy),
    anyMac,
    // Who will not come back leaves no port behind.
    grace: durationFromMs(graceMsOf(target, options)),
    resumeKey,
    mirror: mirror && mirrorToWire(mirror),
  };
  return { mode, vifs: [], switch: switchName(target), port, reportResults };
}

function isSwitch(target: string): boolean {
  return target.startsWith('switches/');
}
