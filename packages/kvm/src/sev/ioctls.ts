import type { Hva } from '@cvm/layout';
import { ATTESTATION_SIZE, COMMANDS } from '@cvm/sev-hw/abi';
import { Errno } from '../abi/errno.js';
import { SevCommand } from '../abi/sev.js';
import { fails, type SevResult } from '../ccp/sev-device.js';
import { isSince } from '../kernel.js';
import type { VmContext } from '../vm/context.js';
import { type AttestationRequest, type AttestationResult, getAttestationReport } from './attestation.js';
import { type BatchGeometry, type BatchResult, createReceiveBatch, createSendBatch } from './batch.js';
import type { SevContext } from './context.js';
import { type DebugRequest, dbgDecrypt, dbgEncrypt } from './debug.js';
import { launchUpdateVmsa } from './es/launch.js';
import { type ReceiveVmsaRequest, receiveUpdateVmsa, type SendVmsaRequest, sendUpdateVmsa } from './es/transport.js';
import { createGuard, refusal } from './guard.js';
import { given } from './handlers/argument.js';
import { type GuestStatus, guestStatus as readGuestStatus } from './handlers/launch.js';
import { type SevInit2, sevInit, sevInit2 } from './init.js';
import {
	type LaunchSecretRequest,
	type LaunchStartRequest,
	launchMeasure,
	launchSecret,
	launchStart,
	launchUpdateData,
	type MeasureResult,
} from './launch.js';
import { type ReceiveStartRequest, type ReceiveUpdateRequest, receiveStart, receiveUpdateData } from './receive.js';
import {
	onHandle,
	type SendStartRequest,
	type SendStartResult,
	type SendUpdateRequest,
	type SendUpdateResult,
	sendStart,
	sendUpdateData,
} from './send.js';

/** GUEST_STATUS: handle and policy of the firmware's guest; `state` is a `GuestState` of `@cvm/sev-hw/abi`. */
export type GuestStatusResult = SevResult & {
	readonly handle: number;
	readonly policy: number;
	readonly state: number;
};

/**
 * KVM_MEMORY_ENCRYPT_OP of one VM, one method per KVM_SEV_* command. Before `init` succeeded all are −ENOTTY (but
 * `receiveUpdateData`, −EINVAL); before a `*Start` the others are −EBADF, as no /dev/sev descriptor is stored.
 * −EIO: the firmware refused, `error` is its status.
 */
export interface SevIoctls {
	/** Takes an ASID and brings the platform up. −EBUSY: it was done, or no ASID is left. upstream −EINVAL: there are vCPUs. */
	init(): SevResult;
	/** The same for a guest with SEV-ES. −ENOTTY: the host has it off, or has no ASIDs for it. */
	esInit(): SevResult;
	/** KVM_SEV_INIT2 (Linux 6.10), for VMs of a SEV type; all fields are 0 by default. −EINVAL: what the VM cannot have. */
	init2(request?: Partial<SevInit2>): SevResult;
	/** Encrypts and measures the save areas of all vCPUs; see `launchUpdateVmsa` in `sev/es/launch.ts`. −ENOTTY: not SEV-ES. */
	launchUpdateVmsa(): SevResult;
	/** KVM_SEV_GET_ATTESTATION_REPORT (Linux 5.13; before −EINVAL). */
	getAttestationReport(request: AttestationRequest): AttestationResult;
	/** PROJECT: −EINVAL, as in Linux, unless `createKvm({ vmsaTransport: 'model' })`. */
	sendUpdateVmsa(request: SendVmsaRequest): SendUpdateResult;
	/** PROJECT: as `sendUpdateVmsa`. The VM's vCPUs exist. */
	receiveUpdateVmsa(request: ReceiveVmsaRequest): SevResult;
	launchStart(request: LaunchStartRequest): SevResult;
	launchUpdateData(request: { readonly uaddr: Hva; readonly len: number }): SevResult;
	/** `len` is 48 by default. */
	launchMeasure(request?: { readonly len?: number }): MeasureResult;
	launchSecret(request: LaunchSecretRequest): SevResult;
	launchFinish(): SevResult;
	sendStart(request: SendStartRequest): SendStartResult;
	sendUpdateData(request: SendUpdateRequest): SendUpdateResult;
	/** Whole pages, as `sendUpdateData` one after the other; `out` is memory of `HostMemory.mmap`. */
	sendUpdateDataBatch(pages: readonly Hva[], count: number, out: Uint8Array, geometry: BatchGeometry): BatchResult;
	sendFinish(): SevResult;
	/** upstream; v12 does not know it: −EINVAL. */
	sendCancel(): SevResult;
	receiveStart(request: ReceiveStartRequest): SevResult;
	receiveUpdateData(request: ReceiveUpdateRequest): SevResult;
	/** Whole pages, as `receiveUpdateData` one after the other; `input` is memory of `HostMemory.mmap`. */
	receiveUpdateDataBatch(pages: readonly Hva[], count: number, input: Uint8Array, geometry: BatchGeometry): BatchResult;
	receiveFinish(): SevResult;
	guestStatus(): GuestStatusResult;
	dbgDecrypt(request: DebugRequest): SevResult;
	dbgEncrypt(request: DebugRequest): SevResult;
}

export function createSevIoctls(vm: VmContext): SevIoctls {
	const { sev } = vm;
	const sendBatch = createSendBatch(sev);
	const receiveBatch = createReceiveBatch(sev);
	const guard = createGuard(vm);
	return {
		init: () => refusal(vm, SevCommand.INIT) ?? sevInit(vm, false),
		esInit: () => refusal(vm, SevCommand.ES_INIT) ?? sevInit(vm, true),
		init2: ({ vmsaFeatures = 0n, flags = 0, ghcbVersion = 0 } = {}) =>
			refusal(vm, SevCommand.INIT2) ?? sevInit2(vm, given<SevInit2, never>({ vmsaFeatures, flags, ghcbVersion })),
		launchUpdateVmsa: () => refusal(vm, SevCommand.LAUNCH_UPDATE_VMSA) ?? launchUpdateVmsa(vm),
		getAttestationReport: (request) =>
			guard(SevCommand.GET_ATTESTATION_REPORT, (sev) =>
				isSince(sev.kernel, '5.13')
					? getAttestationReport(sev, request)
					: { ...fails(Errno.EINVAL), report: new Uint8Array(0), len: request.len ?? ATTESTATION_SIZE },
			),
		sendUpdateVmsa: (request) => {
			const refused = refusal(vm, SevCommand.SEND_UPDATE_VMSA);
			const nothing = { header: new Uint8Array(0), data: new Uint8Array(0), headerLen: 0, transLen: 0 };
			return refused === undefined ? sendUpdateVmsa(vm, request) : { ...refused, ...nothing };
		},
		receiveUpdateVmsa: (request) => refusal(vm, SevCommand.RECEIVE_UPDATE_VMSA) ?? receiveUpdateVmsa(vm, request),
		launchStart: (request) => guard(SevCommand.LAUNCH_START, (sev) => launchStart(sev, request)),
		launchUpdateData: (request) => guard(SevCommand.LAUNCH_UPDATE_DATA, (sev) => launchUpdateData(sev, request)),
		launchMeasure: (request) => guard(SevCommand.LAUNCH_MEASURE, (sev) => launchMeasure(sev, request?.len ?? 48)),
		launchSecret: (request) => guard(SevCommand.LAUNCH_SECRET, (sev) => launchSecret(sev, request)),
		launchFinish: () => guard(SevCommand.LAUNCH_FINISH, (sev) => onHandle(sev, COMMANDS.LAUNCH_FINISH)),
		sendStart: (request) => guard(SevCommand.SEND_START, (sev) => sendStart(sev, request)),
		sendUpdateData: (request) => guard(SevCommand.SEND_UPDATE_DATA, (sev) => sendUpdateData(sev, request)),
		sendUpdateDataBatch: (...batch) => {
			const refused = refusal(vm, SevCommand.SEND_UPDATE_DATA);
			return refused === undefined ? sendBatch(...batch) : { ...refused, done: 0 };
		},
		sendFinish: () => guard(SevCommand.SEND_FINISH, (sev) => onHandle(sev, COMMANDS.SEND_FINISH)),
		sendCancel: () =>
			guard(SevCommand.SEND_CANCEL, (sev) =>
				isSince(sev.kernel, '5.13') ? onHandle(sev, COMMANDS.SEND_CANCEL) : fails(Errno.EINVAL),
			),
		receiveStart: (request) => guard(SevCommand.RECEIVE_START, (sev) => receiveStart(sev, request)),
		receiveUpdateData: (request) => guard(SevCommand.RECEIVE_UPDATE_DATA, (sev) => receiveUpdateData(sev, request)),
		receiveUpdateDataBatch: (...batch) => {
			const refused = refusal(vm, SevCommand.RECEIVE_UPDATE_DATA);
			return refused === undefined ? receiveBatch(...batch) : { ...refused, done: 0 };
		},
		receiveFinish: () => guard(SevCommand.RECEIVE_FINISH, (sev) => onHandle(sev, COMMANDS.RECEIVE_FINISH)),
		guestStatus: () => guard(SevCommand.GUEST_STATUS, guestStatus),
		dbgDecrypt: (request) => guard(SevCommand.DBG_DECRYPT, (sev) => dbgDecrypt(sev, request)),
		dbgEncrypt: (request) => guard(SevCommand.DBG_ENCRYPT, (sev) => dbgEncrypt(sev, request)),
	};
}

function guestStatus(sev: SevContext): GuestStatusResult {
	const argument = given<unknown, GuestStatus>(undefined);
	const result = readGuestStatus(sev, argument);
	return { ...result, handle: 0, policy: 0, state: 0, ...argument.answer };
}
