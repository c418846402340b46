/** grpc.health.v1.Health/Check: two small messages, written here for want of a generated codec. */
import { BinaryReader, BinaryWriter } from '@bufbuild/protobuf/wire';
import { type CallOptions, callUnary, type Method } from './call.js';
import type { Connection } from './connection.js';
import { XenvifClientError } from './errors.js';
import { type WordOf, wordOf } from './words.js';

/** `HealthCheckResponse.ServingStatus`. */
const ServingStatus = {
  UNKNOWN: 0,
  SERVING: 1,
  NOT_SERVING: 2,
  SERVICE_UNKNOWN: 3,
} as const;

/** `serving`, `not-serving`, `unknown`, `service-unknown`; `unspecified` for a value of the future. */
export type Health = WordOf<typeof ServingStatus> | 'unspecified';

const CHECK: Method<string, number> = {
  path: '/grpc.health.v1.Health/Check',
  // HealthCheckRequest { string service = 1; }
  requestSerialize: (service) => Buffer.from(new BinaryWriter().tag(1, 2).string(service).finish()),
  // HealthCheckResponse { ServingStatus status = 1; }
  responseDeserialize: (bytes) => {
    const reader = new BinaryReader(bytes);
    let servingStatus = 0;
    while (reader.pos < reader.len) {
      const [field, wireType] = reader.tag();
      if (field === 1 && wireType === 0) servingStatus = reader.int32();
      else reader.skip(wireType);
    }
    return servingStatus;
  },
};

/**
 * Asks whether `service` (empty: the daemon as a whole) can be used.
 * @throws XenvifClientError
 */
export async function checkHealth(
  connection: Connection,
  service: string,
  options: CallOptions,
): Promise<Health> {
  try {
    return wordOf(ServingStatus, await callUnary(connection, CHECK, service, options));
  } catch (error) {
    // The protocol answers an unknown service with a status, not with the enumeration's own value.
    if (error instanceof XenvifClientError && error.grpcStatus === 'NOT_FOUND') {
      return 'service-unknown';
    }
    throw error;
  }
}
