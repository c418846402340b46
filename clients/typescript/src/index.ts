/** `@xenvif/client`: virtual NICs and frame streams of a xenvif daemon. */
export { defaultAddress, parseAddress } from './address.js';
export { decodeFrameBatch } from './batch-decoder.js';
export { FRAME_BYTES_MAX, FRAME_BYTES_MIN } from './batch-encoder.js';
export type { CallOptions } from './call.js';
export { type ClientConfig, type ConnectOptions, XenvifClient } from './client.js';
export { type FieldViolation, type GrpcStatusName, XenvifClientError } from './errors.js';
export { type Frame, frameAt } from './frame.js';
export {
  type ChecksumState,
  type Direction,
  FrameBatchView,
  type Segmentation,
} from './frame-batch-view.js';
export type { InjectionOutcome, LossCause, LossStage, Lost } from './frame-messages.js';
export type { FrameSelectionOptions, FrameStreamOptions, OpenedFrames } from './frame-options.js';
export { expectYoungGarbage } from './garbage.js';
export type { Health } from './health.js';
export type { Domain, Host, HostInfo, ListDomainsOptions } from './host.js';
export type { LostTotals } from './loss.js';
export type { MirrorInput } from './mirror.js';
export type {
  BatchListener,
  FillFrame,
  FrameListener,
  FrameRequest,
  ListenOptions,
  MirageNetwork,
  Network,
  NicListenOptions,
  NicStats,
} from './network.js';
export { Nic } from './nic.js';
export type { AttachOptions, ClientPortOptions } from './nic-options.js';
export {
  BatchObservation,
  FrameObservation,
  Observation,
  type ObservationEvent,
  type ObserveOptions,
} from './observation.js';
export type { PortPolicy, PortPolicyInput } from './port-policy.js';
export type { RateLimit } from './rate-limit.js';
export type { DropCounter, FrameCounters, QueueStats, Stats, VifStats } from './stats.js';
export type { StatsEvent, StatsStream, StatsStreamOptions } from './stats-stream.js';
export type {
  ForwardingEntry,
  Mirror,
  Port,
  PortKind,
  Switch,
  SwitchSpec,
  SwitchStatus,
} from './switch.js';
export { type PortNameParts, parsePortName, portName, switchName } from './switch-name.js';
export type {
  CreatePortOptions,
  CreateSwitchOptions,
  CreateTapOptions,
  DeletePortOptions,
  DeleteSwitchOptions,
  ForwardingEntriesOptions,
  ListSwitchesOptions,
  Switches,
} from './switches.js';
export { Vchan, type VchanOptions } from './vchan.js';
export type {
  NegotiatedFeatures,
  Vif,
  VifChanges,
  VifPhase,
  VifSpec,
  VifSpecInput,
  VifStatus,
  XenbusState,
} from './vif.js';
export { parseVifName, type VifNameParts, vifName } from './vif-name.js';
export type { VifWatch, WatchEvent, WatchOptions } from './vif-watch.js';
export type {
  CreateVifOptions,
  DeleteVifOptions,
  ListVifsOptions,
  UpdateVifOptions,
  VifFilter,
  Vifs,
} from './vifs.js';
