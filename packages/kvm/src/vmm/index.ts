/**
 * The VMM's half of SEV live migration as far as every host needs it: which pages the guest shares, and whether it agreed to
 * migrate. It answers KVM's exits in `kvm_run`; it calls no ioctl but the three that make those exits happen.
 *
 * ```ts
 * watchGuest(vm, kvm.abi);                                   // before vCPUs see the features in CPUID
 * const status = createGuestStatus({ abi: kvm.abi, isExposed: true, isEncrypted: true, onChange: sendAgain });
 * if (!status.answer(vcpu.run)) answerOtherExit();           // after each KVM_RUN
 * status.msr.blocker;                                        // undefined: the guest may migrate
 * status.pages.has(gfn);                                     // shared: send as it is; else through the firmware
 * ```
 *
 * @packageDocumentation
 */
export type { FrameRange } from '../page-status/ranges.js';
export { createGuestStatus, type GuestStatus } from './guest-status.js';
export { answerHypercall, type HypercallOptions } from './hypercall.js';
export {
	createMigrationMsr,
	type MigrationMsr,
	type MigrationMsrOptions,
	type WatchedVm,
	watchGuest,
} from './migration-msr.js';
export { createRamPageStatus, type RamPageStatus, type RamSplitter } from './ram-status.js';
export {
	createSharedPages,
	decodeRanges,
	encodeRanges,
	type PageStatusTracker,
	type SharedPages,
	type SharedPagesOptions,
} from './shared-pages.js';
