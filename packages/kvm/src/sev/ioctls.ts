import type { Hva } from '@cvm/layout';
import { COMMANDS } from '@cvm/sev-hw/abi';
import { Errno } from '../abi/errno.js';
import { fails, SEV_OK, type SevResult } from '../ccp/sev-device.js';
import { isSince } from '../kernel.js';
import type { VmContext } from '../vm-context.js';
import { VmWord } from '../vm-state.js';
import { type BatchGeometry, type BatchResult, createReceiveBatch, createSendBatch } from './batch.js';
import { issueOnGuest } from './context.js';
import { type DebugRequest, dbgDecrypt, dbgEncrypt } from './debug.js';
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
	/** −ENOTTY: the host of this model has SEV-ES off. */
	esInit(): SevResult;
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
	return {
		init: () => sevInit(vm),
		esInit: () => fails(Errno.ENOTTY),
		launchStart: (request) => launchStart(sev, request),
		launchUpdateData: (request) => launchUpdateData(sev, request),
		launchMeasure: (request) => launchMeasure(sev, request?.len ?? 48),
		launchSecret: (request) => launchSecret(sev, request),
		launchFinish: () => onHandle(sev, COMMANDS.LAUNCH_FINISH),
		sendStart: (request) => sendStart(sev, request),
		sendUpdateData: (request) => sendUpdateData(sev, request),
		sendUpdateDataBatch: sendBatch,
		sendFinish: () => onHandle(sev, COMMANDS.SEND_FINISH),
		sendCancel: () => (isSince(sev.kernel, '5.13') ? onHandle(sev, COMMANDS.SEND_CANCEL) : fails(Errno.EINVAL)),
		receiveStart: (request) => receiveStart(sev, request),
		receiveUpdateData: (request) => receiveUpdateData(sev, request),
		receiveUpdateDataBatch: receiveBatch,
		receiveFinish: () => onHandle(sev, COMMANDS.RECEIVE_FINISH),
		guestStatus: () => {
			const unknown = { handle: 0, policy: 0, state: 0 };
			if (!sev.active) return { ...fails(Errno.ENOTTY), ...unknown };
			const { ret, error, out } = issueOnGuest(sev, COMMANDS.GUEST_STATUS, {});
			if (ret !== 0 || out === undefined) return { ret, error, ...unknown };
			return { ret, error, handle: out.handle, policy: out.policy, state: out.state };
		},
		dbgDecrypt: (request) => dbgDecrypt(sev, request),
		dbgEncrypt: (request) => dbgEncrypt(sev, request),
	};
}

/** sev_guest_init. */
function sevInit(vm: VmContext): SevResult {
	const { sev, kernel, host } = vm;
	if (!vm.isSupported()) return fails(Errno.ENOTTY);
	if (isSince(kernel, '5.13') && vm.vcpus.size > 0) return fails(Errno.EINVAL);
	if (sev.active) return fails(isSince(kernel, '6.10') ? Errno.EINVAL : Errno.EBUSY);
	const asid = host.asids.allocate();
	if (asid === 0) return fails(Errno.EBUSY);
	const ready = sev.driver.platformInit();
	if (ready.ret !== 0) {
		host.asids.release(asid);
		return ready;
	}
	sev.active = true;
	sev.asid = asid;
	Atomics.store(vm.words, VmWord.asid, asid);
	Atomics.store(vm.words, VmWord.pageEncHcEnable, kernel.abi === 'v12' ? 1 : 0);
	Atomics.store(vm.words, VmWord.sevActive, 1);
	return SEV_OK;
}
