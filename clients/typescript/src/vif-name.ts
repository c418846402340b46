/** The names of vifs: `vifs/<domid>.<handle>`, and the short forms that people type. */
import { invalidArgument } from './errors.js';

/** What a vif's name is made of. */
export interface VifNameParts {
  readonly domid: number;
  readonly handle: number;
}

/**
 * Brings a name into the contract's form.
 * @param name `vifs/1.0`, `1.0`, or `vif1.0` as Linux's netback calls it.
 * @throws XenvifClientError VIF_NAME_INVALID
 */
export function vifName(name: string): string {
  const { domid, handle } = parseVifName(name);
  return `vifs/${domid}.${handle}`;
}

/**
 * Takes a name apart. Takes the same forms as `vifName`.
 * @throws XenvifClientError VIF_NAME_INVALID
 */
export function parseVifName(name: string): VifNameParts {
  const match = /^(?:vifs\/|vif)?(0|[1-9]\d{0,4})\.(0|[1-9]\d{0,4})$/.exec(name);
  const domid = Number(match?.[1]);
  const handle = Number(match?.[2]);
  if (match === null || domid > 0x7fff || handle > 0xffff) {
    const message = `"${name}" names no vif: write vifs/<domid>.<handle> or <domid>.<handle>.`;
    throw invalidArgument('VIF_NAME_INVALID', 'name', message);
  }
  return { domid, handle };
}
