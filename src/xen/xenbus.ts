/**
 * XenBus device states (xen/io/xenbus.h) and the backend's transitions as a pure function: what
 * our state shall become, given ours, the frontend's and whether the toolstack wants the device.
 * Reading and writing XenStore is the handshake's work, not this file's.
 */

/** `enum xenbus_state`. */
export const XenbusState = {
  unknown: 0,
  initialising: 1,
  initWait: 2,
  initialised: 3,
  connected: 4,
  closing: 5,
  closed: 6,
  reconfiguring: 7,
  reconfigured: 8,
} as const;

export type XenbusState = (typeof XenbusState)[keyof typeof XenbusState];

const NAMES = Object.keys(XenbusState) as (keyof typeof XenbusState)[];

/** The state's name, for logs. */
export function xenbusStateName(state: XenbusState): string {
  return NAMES[state] ?? 'unknown';
}

/**
 * Parses the value of a `state` node. A missing node and anything that is not one decimal digit of
 * a state is `unknown`: the other side's directory is the other side's to fill with rubbish.
 */
export function parseXenbusState(value: string | undefined): XenbusState {
  if (value === undefined || !/^[1-8]$/.test(value)) return XenbusState.unknown;
  return Number(value) as XenbusState;
}

/** What a backend looks at to decide. */
export interface BackendView {
  /** Our own state, as XenStore has it. */
  readonly own: XenbusState;
  readonly frontend: XenbusState;
  /** Whether the frontend's state node exists at all. */
  readonly frontendPresent: boolean;
  /** The toolstack's `online` node: it wants the device. */
  readonly online: boolean;
}

/** The state to go to in the next single step; our own state when there is nothing to do. */
export function nextBackendState(view: BackendView): XenbusState {
  switch (view.own) {
    case XenbusState.initialising:
      return wantsClosed(view) ? XenbusState.closed : XenbusState.initWait;
    case XenbusState.initWait:
      if (wantsClosed(view) || view.frontend === XenbusState.closing) return XenbusState.closing;
      if (isReady(view.frontend)) return XenbusState.connected;
      return XenbusState.initWait;
    case XenbusState.connected:
      // A frontend that is initialising again has forgotten its rings (kexec, a crashed driver):
      // what we have mapped is stale, so we close before we offer a new handshake.
      if (isReady(view.frontend) && view.online) return XenbusState.connected;
      if (view.frontend === XenbusState.unknown && view.frontendPresent && view.online) {
        return XenbusState.connected;
      }
      return XenbusState.closing;
    case XenbusState.closing:
      // Closing is never skipped, and a frontend that still closes is given the time for it.
      if (view.frontend === XenbusState.closing) return XenbusState.closing;
      if (isReady(view.frontend)) return XenbusState.closing;
      return XenbusState.closed;
    case XenbusState.closed:
      if (wantsClosed(view) || view.frontend !== XenbusState.initialising)
        return XenbusState.closed;
      return XenbusState.initWait;
    default:
      return view.own;
  }
}

function isReady(frontend: XenbusState): boolean {
  return frontend === XenbusState.connected || frontend === XenbusState.initialised;
}

function wantsClosed(view: BackendView): boolean {
  return !view.online || !view.frontendPresent || view.frontend === XenbusState.closed;
}
