/**
 * The errors of the project: one class a fault, each with a stable UPPER_SNAKE code that clients
 * may match on. Everything below the service throws these; src/service/status.ts turns the ones
 * that are deliberate into gRPC statuses and hides the rest.
 */

/** The base of every deliberate error. `message` is written for the person who reads it. */
export abstract class XenvifError extends Error {
  /** Stable, machine-readable name of the fault. */
  abstract readonly code: string;
  /** Facts about the fault, safe to show to a client. */
  readonly metadata: Readonly<Record<string, string>>;

  constructor(message: string, metadata: Record<string, string> = {}, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.metadata = metadata;
  }
}

/** A value given by a caller or a file breaks a rule. `field` names it the way the caller wrote it. */
export class InvalidArgumentError extends XenvifError {
  readonly code: string;
  readonly field: string;

  constructor(code: string, field: string, message: string, metadata: Record<string, string> = {}) {
    super(message, metadata);
    this.code = code;
    this.field = field;
  }
}

/** The named thing does not exist. */
export class NotFoundError extends XenvifError {
  readonly code: string;

  constructor(code: string, message: string, metadata: Record<string, string> = {}) {
    super(message, metadata);
    this.code = code;
  }
}

/** The named thing exists already, or is taken by somebody else. */
export class AlreadyExistsError extends XenvifError {
  readonly code: string;

  constructor(code: string, message: string, metadata: Record<string, string> = {}) {
    super(message, metadata);
    this.code = code;
  }
}

/** The thing is in a state in which the call makes no sense. */
export class FailedPreconditionError extends XenvifError {
  readonly code: string;

  constructor(code: string, message: string, metadata: Record<string, string> = {}) {
    super(message, metadata);
    this.code = code;
  }
}

/** The caller asked for more than a limit allows, or did not read what it asked for. */
export class ResourceExhaustedError extends XenvifError {
  readonly code: string;

  constructor(code: string, message: string, metadata: Record<string, string> = {}) {
    super(message, metadata);
    this.code = code;
  }
}

/** The call was given up because its deadline passed. */
export class TimeoutError extends XenvifError {
  readonly code: string;

  constructor(code: string, message: string, metadata: Record<string, string> = {}) {
    super(message, metadata);
    this.code = code;
  }
}

/** A position or a range that is not there any more. */
export class OutOfRangeError extends XenvifError {
  readonly code: string;

  constructor(code: string, message: string, metadata: Record<string, string> = {}) {
    super(message, metadata);
    this.code = code;
  }
}

/** The call was overtaken by something else, such as the removal of what it works on. */
export class AbortedError extends XenvifError {
  readonly code: string;

  constructor(code: string, message: string, metadata: Record<string, string> = {}) {
    super(message, metadata);
    this.code = code;
  }
}

/** The contract names it; this version does not do it yet. */
export class UnimplementedError extends XenvifError {
  readonly code: string = 'UNIMPLEMENTED';
}

/** Xen, or a part of it that the call needs, cannot be reached. */
export class UnavailableError extends XenvifError {
  readonly code: string;

  constructor(
    code: string,
    message: string,
    metadata: Record<string, string> = {},
    options?: ErrorOptions,
  ) {
    super(message, metadata, options);
    this.code = code;
  }
}

/** The NIC was given up before: NETWORK's `Disconnected`. */
export class DisconnectedError extends XenvifError {
  readonly code = 'DISCONNECTED';
}

/** The daemon cannot start: wrong configuration, an occupied socket, a second daemon. */
export class StartupError extends XenvifError {
  readonly code: string;

  constructor(
    code: string,
    message: string,
    metadata: Record<string, string> = {},
    options?: ErrorOptions,
  ) {
    super(message, metadata, options);
    this.code = code;
  }
}

/** XenStore refused a request. `errno` is the name xenstored answered (xs_wire.h, xsd_errors). */
export class StoreError extends XenvifError {
  readonly code: string;
  readonly errno: string;

  constructor(errno: string, message: string, metadata: Record<string, string> = {}) {
    super(message, metadata);
    this.errno = errno;
    this.code = `XENSTORE_${errno}`;
  }
}

/** A grant could not be mapped, copied, shared or given back. */
export class GrantError extends XenvifError {
  readonly code = 'GRANT_FAILED';
}

/** An event channel could not be bound, allocated or used. */
export class EventChannelError extends XenvifError {
  readonly code = 'EVENT_CHANNEL_FAILED';
}

/** Our own code broke a rule of Xen: a bug here, never a peer's fault. Emulated Xen throws it. */
export class MisuseError extends XenvifError {
  readonly code = 'XEN_MISUSE';
}

/** A peer broke the protocol so badly that its device must stop. `code` is the audit reason. */
export class ProtocolError extends XenvifError {
  readonly code: string;

  constructor(code: string, message: string, metadata: Record<string, string> = {}) {
    super(message, metadata);
    this.code = code;
  }
}
