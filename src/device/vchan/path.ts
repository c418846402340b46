/**
 * Where a vchan's server tells its grant and its port in XenStore. Mirage and Qubes keep it at
 * /local/domain/<server>/data/vchan/<client>/<port>; libxenvchan takes any path from its caller.
 */
import { InvalidArgumentError } from '../../errors.js';
import { pathProblem } from '../../xen/xenstore/path.js';

/** DOMID_FIRST_RESERVED: from here on numbers mean something else (xen.h). */
const DOMID_END = 0x7ff0;
/** Below a domain's directory a path has 2048 bytes, and `data/vchan/` and the nodes need some. */
const PORT_LENGTH_MAX = 255;

/** Which vchan: a port, or the path itself. */
export interface VchanAddress {
  /** The peer's domain. */
  readonly domid: number;
  /** Letters, digits, `_` and `-`, as Mirage has it. */
  readonly port?: string | undefined;
  /** The directory in XenStore, in place of the one that domid and port give. */
  readonly path?: string | undefined;
}

/**
 * The directory of a vchan between `server` and `client`.
 * @throws InvalidArgumentError DOMID_INVALID, VCHAN_PORT_INVALID, VCHAN_PATH_INVALID.
 */
export function vchanPath(address: VchanAddress, server: number, client: number): string {
  const { domid, path, port } = address;
  if (!Number.isInteger(domid) || domid < 0 || domid >= DOMID_END) {
    throw new InvalidArgumentError('DOMID_INVALID', 'domid', `${domid} is no number of a domain.`);
  }
  if (path === undefined) return `/local/domain/${server}/data/vchan/${client}/${checkPort(port)}`;
  const problem = port === undefined ? problemOf(path) : 'comes with a port';
  if (problem === undefined) return path;
  throw new InvalidArgumentError('VCHAN_PATH_INVALID', 'path', `The vchan's path ${problem}.`);
}

function problemOf(path: string): string | undefined {
  return pathProblem(path) ?? pathProblem(`${path}/event-channel`);
}

function checkPort(port = ''): string {
  if (/^[A-Za-z0-9_-]+$/.test(port) && port.length <= PORT_LENGTH_MAX) return port;
  const text = `A vchan port is 1 to ${PORT_LENGTH_MAX} letters, digits, "_" and "-"; ${JSON.stringify(port.slice(0, 64))} is not.`;
  throw new InvalidArgumentError('VCHAN_PORT_INVALID', 'port', text);
}
