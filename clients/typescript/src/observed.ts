/**
 * What an observation is of: vifs, whose frames pass the daemon; or a port of a switch, or a whole
 * switch, whose frames a mirror brings.
 */
import { durationFromMs } from './duration.js';
import { invalidArgument } from './errors.js';
import type { FramePurpose } from './frame-options.js';
import { FrameMode } from './gen/xenvif/v1/frame_service.js';
import { mirrorToWire } from './mirror.js';
import { parsePortName, portName, switchName } from './switch-name.js';
import { vifName } from './vif-name.js';

export interface Observed {
  /** In the contract's form; `vifIndex` of a batch counts them. */
  readonly names: readonly string[];
  readonly purpose: FramePurpose;
}

/**
 * @param names vifs (`vifs/1.0`, `1.0`), or one port (`switches/lan/ports/tap0`, `lan/tap0`), or one
 *   switch (`switches/lan`).
 * @throws XenvifClientError VIF_NAME_INVALID, SWITCH_NAME_INVALID, PORT_NAME_INVALID, PORT_NOT_ALONE
 */
export function observed(names: string | readonly string[]): Observed {
  const list = typeof names === 'string' ? [names] : names;
  const [first = ''] = list;
  if (list.every((name) => !isOfSwitch(name))) {
    const vifs = list.map(observedVif);
    return { names: vifs, purpose: { mode: FrameMode.OBSERVE, vifs, reportResults: false } };
  }
  if (list.length > 1) {
    const message = 'A port or a switch is observed alone; only vifs can be observed together.';
    throw invalidArgument('PORT_NOT_ALONE', 'vifs', message);
  }
  if (!isPort(first)) return throughMirror(switchName(first), switchName(first), []);
  return throughMirror(portName(first), parsePortName(first).switch, [parsePortName(first).portId]);
}

/** A mirror of a port both ways; of no port, which is all that comes in anywhere. */
function throughMirror(name: string, parent: string, ports: readonly string[]): Observed {
  const port = {
    portId: '',
    mac: '',
    policy: undefined,
    anyMac: false,
    grace: durationFromMs(0),
    resumeKey: '',
    mirror: mirrorToWire({ sources: ports, destinations: ports }),
  };
  const purpose = { mode: FrameMode.ATTACH, vifs: [], switch: parent, port, reportResults: false };
  return { names: [name], purpose };
}

function observedVif(name: string): string {
  try {
    return vifName(name);
  } catch {
    const forms = 'a vif (<domid>.<handle>), a port (<switch>/<port>) or a switch (switches/<id>)';
    const message = `"${name}" names nothing that can be observed: write ${forms}.`;
    throw invalidArgument('VIF_NAME_INVALID', 'vifs', message);
  }
}

function isOfSwitch(name: string): boolean {
  return name.startsWith('switches/') || isPort(name);
}

function isPort(name: string): boolean {
  return /^switches\/[^/]*\/./.test(name) || /^(?!vifs\/|switches\/)[^/]+\/./.test(name);
}
