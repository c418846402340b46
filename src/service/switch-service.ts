/** SwitchService: this version has one hub, and nothing to configure. */
import type { Logger } from 'pino';
import type { SwitchServiceServer } from '../gen/xenvif/v1/switch_service.js';
import { unimplemented } from './calls.js';

export function switchHandlers(logger: Logger): SwitchServiceServer {
  return {
    createSwitch: unimplemented(logger, 'CreateSwitch'),
    getSwitch: unimplemented(logger, 'GetSwitch'),
    listSwitches: unimplemented(logger, 'ListSwitches'),
    deleteSwitch: unimplemented(logger, 'DeleteSwitch'),
    listForwardingEntries: unimplemented(logger, 'ListForwardingEntries'),
  };
}
