/**
 * The one error class of the SDK. The daemon answers a failed call with a gRPC status whose
 * `grpc-status-details-bin` trailer is a `google.rpc.Status`; the `ErrorInfo` of domain `xenvif` in
 * it has the stable reason that programs match on, and `BadRequest` names the fields at fault.
 */
import { type Metadata, type StatusObject, status } from '@grpc/grpc-js';
import { BadRequest, ErrorInfo } from './gen/google/rpc/error_details.js';
import { Status } from './gen/google/rpc/status.js';

/** The name of a gRPC status code, for example `NOT_FOUND`. */
export type GrpcStatusName = keyof typeof status;

/** A field of the request that broke a rule. */
export interface FieldViolation {
  /** The field's path as the contract writes it, for example `vif.spec.mac`. */
  readonly field: string;
  /** What is wrong with it, one sentence. */
  readonly description: string;
}

/** What an error knows besides its code and message. */
export interface ClientErrorDetails {
  readonly fieldViolations?: readonly FieldViolation[];
  readonly metadata?: Readonly<Record<string, string>>;
  readonly cause?: unknown;
  /** Whether `code` is a reason that the daemon gave, rather than one found by the SDK. */
  readonly fromDaemon?: boolean;
}

/** Every failure of a call, whether the daemon refused it or it never got there. */
export class XenvifClientError extends Error {
  override readonly name = 'XenvifClientError';
  /**
   * A stable UPPER_SNAKE word. The daemon's own reason where it gave one (`VIF_NOT_FOUND`,
   * `VIF_ATTACHED`, ...); else one of the SDK's: `DAEMON_UNREACHABLE` (no connection could be made),
   * `CONNECTION_LOST` (there was one), `CANCELLED`, `DEADLINE_EXCEEDED`, `RESPONSE_MALFORMED`,
   * `FRAME_TOO_SHORT`, `FRAME_TOO_LONG`, `DISCONNECTED`, `INVALID_ARGUMENT`, or the name of the
   * gRPC status.
   */
  readonly code: string;
  /** The gRPC status. For a fault found in the SDK, the one the daemon would have answered. */
  readonly grpcStatus: GrpcStatusName;
  /** The fields at fault; empty where none are named. */
  readonly fieldViolations: readonly FieldViolation[];
  /** Facts about the fault, for example which vif. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Whether `code` is a reason that the daemon gave. */
  readonly fromDaemon: boolean;

  constructor(
    code: string,
    grpcStatus: GrpcStatusName,
    message: string,
    details: ClientErrorDetails = {},
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.grpcStatus = grpcStatus;
    this.fieldViolations = details.fieldViolations ?? [];
    this.metadata = details.metadata ?? {};
    this.fromDaemon = details.fromDaemon ?? false;
  }
}

/** An argument that the SDK refuses before it calls the daemon. */
export function invalidArgument(code: string, field: string, message: string): XenvifClientError {
  return new XenvifClientError(code, 'INVALID_ARGUMENT', message, {
    fieldViolations: [{ field, description: message }],
  });
}

/** The caller's signal ended the call. */
export function cancelled(cause?: unknown): XenvifClientError {
  return new XenvifClientError('CANCELLED', 'CANCELLED', 'The call was cancelled.', { cause });
}

/** The daemon did not answer within `timeoutMs`. */
export function timedOut(timeoutMs: number): XenvifClientError {
  const message = `The daemon did not answer within ${timeoutMs} ms.`;
  return new XenvifClientError('DEADLINE_EXCEEDED', 'DEADLINE_EXCEEDED', message);
}

/** What an error needs to know of the connection that a call was made on. */
export interface ConnectionFacts {
  readonly address: string;
  /** Whether the client has been closed, which cancels its calls. */
  readonly isClosed: boolean;
}

/** Makes the error of a call that ended with `failure` and that its caller did not cancel. */
export function errorFromStatus(
  failure: StatusObject,
  { address, isClosed }: ConnectionFacts,
): XenvifClientError {
  const grpcStatus = statusName(failure.code);
  const details = statusDetails(failure.metadata);
  if (details.reason !== undefined) {
    return new XenvifClientError(details.reason, grpcStatus, failure.details, {
      fieldViolations: details.fieldViolations,
      metadata: details.metadata,
      fromDaemon: true,
    });
  }
  if (grpcStatus === 'UNAVAILABLE') return connectionError(failure.details, address);
  // A daemon that goes down may reset its streams before it closes the connection.
  if (grpcStatus === 'CANCELLED' && !isClosed) return connectionLost(failure.details, address);
  const message = failure.details === '' ? `The call failed with ${grpcStatus}.` : failure.details;
  return new XenvifClientError(grpcStatus, grpcStatus, message, {
    fieldViolations: details.fieldViolations,
  });
}

/** Whether the same call, made again a little later, may succeed. */
export function isUnavailable(error: unknown): error is XenvifClientError {
  return error instanceof XenvifClientError && error.grpcStatus === 'UNAVAILABLE';
}

function statusName(code: number): GrpcStatusName {
  return (status[code] as GrpcStatusName | undefined) ?? 'UNKNOWN';
}

interface StatusDetails {
  readonly reason: string | undefined;
  readonly metadata: Readonly<Record<string, string>>;
  readonly fieldViolations: readonly FieldViolation[];
}

/** Takes the details out of the trailers. Details that cannot be read are as good as none. */
function statusDetails(trailers: Metadata): StatusDetails {
  let reason: string | undefined;
  let metadata: Readonly<Record<string, string>> = {};
  let fieldViolations: readonly FieldViolation[] = [];
  for (const value of trailers.get('grpc-status-details-bin')) {
    if (typeof value === 'string') continue;
    try {
      for (const detail of Status.decode(value).details) {
        if (detail.typeUrl.endsWith('/google.rpc.ErrorInfo')) {
          const info = ErrorInfo.decode(detail.value);
          if (info.domain !== 'xenvif') continue;
          reason = info.reason;
          metadata = info.metadata;
        } else if (detail.typeUrl.endsWith('/google.rpc.BadRequest')) {
          const violations = BadRequest.decode(detail.value).fieldViolations;
          fieldViolations = violations.map(({ field, description }) => ({ field, description }));
        }
      }
    } catch {
      // The status code and its text still stand.
    }
  }
  return { reason, metadata, fieldViolations };
}

/** UNAVAILABLE without a reason of the daemon's comes from the transport: say what is wrong there. */
function connectionError(details: string, address: string): XenvifClientError {
  if (!neverConnected(details)) return connectionLost(details, address);
  const message = `Cannot reach xenvifd at ${address}: ${transportFault(details)}`;
  return new XenvifClientError('DAEMON_UNREACHABLE', 'UNAVAILABLE', message, {
    metadata: { address },
    cause: details,
  });
}

/** There was a connection to `address`, and it broke. */
export function connectionLost(details: string, address: string): XenvifClientError {
  const message = `The connection to xenvifd at ${address} was lost.`;
  return new XenvifClientError('CONNECTION_LOST', 'UNAVAILABLE', message, { cause: details });
}

function neverConnected(details: string): boolean {
  return /No connection established|Name resolution failed|connect E|Failed to connect/.test(
    details,
  );
}

function transportFault(details: string): string {
  if (details.includes('ENOENT')) return 'there is no such socket. Is xenvifd running?';
  if (details.includes('ECONNREFUSED')) return 'nothing listens there. Is xenvifd running?';
  if (details.includes('EACCES')) {
    return 'permission denied. Is this user in the group that owns the socket?';
  }
  if (details.includes('Name resolution failed')) return 'the host name cannot be resolved.';
  return `${details}.`;
}
