/** VchanService: not in this version. */
import type { Logger } from 'pino';
import { UnimplementedError } from '../errors.js';
import type { VchanServiceServer } from '../gen/xenvif/v1/vchan_service.js';
import { failCall } from './calls.js';

export function vchanHandlers(logger: Logger): VchanServiceServer {
  return {
    connect: (call) => {
      const text = 'VchanService.Connect is not implemented in this version.';
      failCall(call, new UnimplementedError(text), logger);
    },
  };
}
