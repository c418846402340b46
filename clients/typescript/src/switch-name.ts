/** The names of switches and their ports, and the short forms that people type. */
import { invalidArgument } from './errors.js';

/** What a port's name is made of. */
export interface PortNameParts {
  /** The switch, `switches/<id>`. */
  readonly switch: string;
  /** The last part of the port's name. */
  readonly portId: string;
}

/**
 * Brings the name of a switch into the contract's form.
 * @param name `switches/default` or `default`.
 * @throws XenvifClientError SWITCH_NAME_INVALID
 */
export function switchName(name: string): string {
  return `switches/${switchId(name)}`;
}

/** The last part of a switch's name. As `switchName`. */
export function switchId(name: string): string {
  const id = /^(?:switches\/)?([A-Za-z0-9._-]{1,15})$/.exec(name)?.[1];
  if (id !== undefined) return id;
  const form = 'write switches/<id> or <id>, an id of 1 to 15 letters, digits, ".", "_" and "-".';
  const message = `"${name}" names no switch: ${form}`;
  throw invalidArgument('SWITCH_NAME_INVALID', 'name', message);
}

/**
 * Brings the name of a port into the contract's form.
 * @param name `switches/default/ports/tap0` or `default/tap0`.
 * @throws XenvifClientError PORT_NAME_INVALID
 */
export function portName(name: string): string {
  const parts = parsePortName(name);
  return `${parts.switch}/ports/${parts.portId}`;
}

/** Takes the name of a port apart. Takes the same forms as `portName`. */
export function parsePortName(name: string): PortNameParts {
  const [, long, longPort, short, shortPort] =
    /^(?:(switches\/[^/]+)\/ports\/([^/]+)|([^/]+)\/([^/]+))$/.exec(name) ?? [];
  const parent = long ?? short;
  const portId = longPort ?? shortPort ?? '';
  if (parent !== undefined && /^[A-Za-z0-9._-]{1,32}$/.test(portId)) {
    return { switch: switchName(parent), portId };
  }
  const message = `"${name}" names no port: write switches/<id>/ports/<port> or <id>/<port>.`;
  throw invalidArgument('PORT_NAME_INVALID', 'name', message);
}
