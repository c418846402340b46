/**
 * From errors to gRPC statuses. Deliberate errors become a status with google.rpc details; all
 * else becomes INTERNAL with a fixed text, for a client must learn nothing of our insides.
 */
import { Metadata, type ServiceError, status } from '@grpc/grpc-js';
import type { Logger } from 'pino';
import {
  AbortedError,
  AlreadyExistsError,
  DisconnectedError,
  FailedPreconditionError,
  InvalidArgumentError,
  NotFoundError,
  OutOfRangeError,
  ResourceExhaustedError,
  StoreError,
  TimeoutError,
  UnavailableError,
  UnimplementedError,
  XenvifError,
} from '../errors.js';
import { BadRequest, ErrorInfo } from '../gen/google/rpc/error_details.js';
import { Status } from '../gen/google/rpc/status.js';

const DOMAIN = 'xenvif';

type ErrorClass = new (...parameters: never[]) => XenvifError;

const CODES: readonly (readonly [ErrorClass, status])[] = [
  [InvalidArgumentError, status.INVALID_ARGUMENT],
  [NotFoundError, status.NOT_FOUND],
  [AlreadyExistsError, status.ALREADY_EXISTS],
  [FailedPreconditionError, status.FAILED_PRECONDITION],
  [ResourceExhaustedError, status.RESOURCE_EXHAUSTED],
  [TimeoutError, status.DEADLINE_EXCEEDED],
  [OutOfRangeError, status.OUT_OF_RANGE],
  [AbortedError, status.ABORTED],
  [UnimplementedError, status.UNIMPLEMENTED],
  [UnavailableError, status.UNAVAILABLE],
  [DisconnectedError, status.FAILED_PRECONDITION],
  [StoreError, status.UNAVAILABLE],
];

/** A status that grpc-js sends as it is, the details in its trailers. */
export type StatusError = Pick<ServiceError, 'code' | 'details' | 'metadata'>;

export function toStatus(error: unknown, logger: Logger): StatusError {
  if (!(error instanceof XenvifError)) {
    logger.error({ error }, 'a call failed for an internal error');
    return withDetails(status.INTERNAL, 'Internal error.', 'INTERNAL', {}, undefined);
  }
  const found = CODES.find(([errorClass]) => error instanceof errorClass);
  if (found === undefined) logger.error({ error }, 'a call failed for an unexpected error');
  const field = error instanceof InvalidArgumentError ? error.field : undefined;
  const code = found?.[1] ?? status.INTERNAL;
  return withDetails(code, error.message, error.code, error.metadata, field);
}

function withDetails(
  code: status,
  message: string,
  reason: string,
  facts: Readonly<Record<string, string>>,
  field: string | undefined,
): StatusError {
  const info = ErrorInfo.fromPartial({ reason, domain: DOMAIN, metadata: { ...facts } });
  const details = [
    {
      typeUrl: 'type.googleapis.com/google.rpc.ErrorInfo',
      value: Buffer.from(ErrorInfo.encode(info).finish()),
    },
  ];
  if (field !== undefined) {
    const bad = BadRequest.fromPartial({
      fieldViolations: [{ field, description: message }],
    });
    details.push({
      typeUrl: 'type.googleapis.com/google.rpc.BadRequest',
      value: Buffer.from(BadRequest.encode(bad).finish()),
    });
  }
  const metadata = new Metadata();
  const full = Status.fromPartial({ code, message, details });
  metadata.set('grpc-status-details-bin', Buffer.from(Status.encode(full).finish()));
  return { code, details: message, metadata };
}
