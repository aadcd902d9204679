import { VMSA_SIZE } from '@cvm/sev-hw/abi';
import type { SevResult } from '../../ccp/sev-device.js';
import type { VmContext } from '../../vm/context.js';
import { answerBuffer, bytesBuffer, given } from '../handlers/argument.js';
import type { PacketLengths } from '../handlers/send.js';
import * as handlers from '../handlers/vmsa.js';
import type { SendUpdateResult } from '../send.js';

/** PROJECT: KVM_SEV_SEND_UPDATE_VMSA. */
export interface SendVmsaRequest {
	/** As in KVM_CREATE_VCPU. */
	readonly vcpuId: number;
	/** 52 by default; 0 here or in `transLen` asks for the lengths: −EIO with INVALID_LENGTH. */
	readonly headerLen?: number;
	/** 4096 by default. */
	readonly transLen?: number;
}

/** PROJECT: KVM_SEV_RECEIVE_UPDATE_VMSA: one packet. */
export interface ReceiveVmsaRequest {
	readonly vcpuId: number;
	readonly header: Uint8Array;
	readonly data: Uint8Array;
}

const HEADER_LENGTH = 52;

/** The packet; empty unless `ret` is 0. */
export function sendUpdateVmsa(vm: VmContext, request: SendVmsaRequest): SendUpdateResult {
	const { vcpuId, headerLen = HEADER_LENGTH, transLen = VMSA_SIZE } = request;
	const header = answerBuffer(headerLen);
	const data = answerBuffer(transLen);
	const argument = given<handlers.UpdateVmsa, PacketLengths>({ vcpuId, header, data });
	const { ret, error } = handlers.sendUpdateVmsa(vm, argument);
	const lengths = {
		headerLen: argument.answer?.headerLen ?? headerLen,
		transLen: argument.answer?.transLen ?? transLen,
	};
	return { ret, error, header: header.answer, data: data.answer, ...lengths };
}

/** Puts a packet into the save area of a vCPU. */
export function receiveUpdateVmsa(vm: VmContext, { vcpuId, header, data }: ReceiveVmsaRequest): SevResult {
	const argument = given<handlers.UpdateVmsa, never>({ vcpuId, header: bytesBuffer(header), data: bytesBuffer(data) });
	return handlers.receiveUpdateVmsa(vm, argument);
}
