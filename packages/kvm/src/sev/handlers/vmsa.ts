import { COMMANDS, VMSA_SIZE } from '@cvm/sev-hw/abi';
import { Errno } from '../../abi/errno.js';
import { fails, failsLater, type SevResult } from '../../ccp/sev-device.js';
import type { VmContext } from '../../vm/context.js';
import { issueOnGuest, withCbit } from '../context.js';
import { protect } from '../es/launch.js';
import { type Argument, packetOut, readBlob, type UserBuffer } from './argument.js';
import type { PacketLengths } from './send.js';

/** PROJECT: the argument of KVM_SEV_SEND_UPDATE_VMSA and KVM_SEV_RECEIVE_UPDATE_VMSA. */
export interface UpdateVmsa {
	/** As in KVM_CREATE_VCPU. */
	readonly vcpuId: number;
	readonly header: UserBuffer;
	readonly data: UserBuffer;
}

/**
 * PROJECT: KVM_SEV_SEND_UPDATE_VMSA, the save area of one vCPU as a packet, by the rules of SEND_UPDATE_DATA. In order:
 * −EINVAL unless `vmsaTransport` is `model`, as in Linux; −ENOTTY without SEV-ES; −EFAULT; a length of 0 is a query, −EIO with
 * both lengths; −EINVAL for an absent buffer, no such vCPU, or one whose state is not encrypted; −ENOMEM; what the firmware
 * says; −EFAULT. The vCPU must be out of the guest.
 */
export function sendUpdateVmsa(vm: VmContext, argument: Argument<UpdateVmsa, PacketLengths>): SevResult {
	const { sev, host } = vm;
	if (host.vmsaTransport !== 'model') return fails(Errno.EINVAL);
	if (!sev.active || !sev.es) return fails(Errno.ENOTTY);
	const input = argument.read();
	if (input === undefined) return fails(Errno.EFAULT);
	const { vcpuId, header, data } = input;
	if (data.length === 0 || header.length === 0) {
		const { ret, error, out } = issueOnGuest(sev, COMMANDS.SEND_UPDATE_VMSA, {});
		if (argument.write({ headerLen: out?.hdrLen ?? 0, transLen: out?.transLen ?? 0 })) return { ret, error };
		return out === undefined ? fails(Errno.EFAULT) : { ret: -Errno.EFAULT, error, reached: true };
	}
	const context = vm.vcpus.get(vcpuId);
	if (data.isNull || header.isNull || context?.guestStateProtected !== true) return fails(Errno.EINVAL);
	const { saveArea } = context;
	if (saveArea === undefined) return fails(Errno.EINVAL);
	const packet = packetOut(sev.driver, header, data);
	if (packet === undefined) return fails(Errno.ENOMEM);
	const { ret, error } = issueOnGuest(sev, COMMANDS.SEND_UPDATE_VMSA, {
		...packet.fields,
		guestPaddr: withCbit(sev, saveArea.spa),
		guestLen: VMSA_SIZE,
	});
	if (ret !== 0) return { ret, error };
	return packet.copy() ? { ret, error } : failsLater(Errno.EFAULT);
}

/**
 * PROJECT: KVM_SEV_RECEIVE_UPDATE_VMSA, a packet into the save area of one vCPU, by the rules of RECEIVE_UPDATE_DATA: −EINVAL
 * without SEV-ES too. From then on the vCPU's registers are the guest's own. It may be done again.
 */
export function receiveUpdateVmsa(vm: VmContext, argument: Argument<UpdateVmsa>): SevResult {
	const { sev, host } = vm;
	if (host.vmsaTransport !== 'model' || !sev.active || !sev.es) return fails(Errno.EINVAL);
	const input = argument.read();
	if (input === undefined) return fails(Errno.EFAULT);
	const { vcpuId, header, data } = input;
	if ([header, data].some((blob) => blob.isNull || blob.length === 0)) return fails(Errno.EINVAL);
	const context = vm.vcpus.get(vcpuId);
	if (context?.saveArea === undefined) return fails(Errno.EINVAL);
	const hdr = readBlob(sev.driver.scratch(0), header);
	if (hdr.errno !== 0) return fails(hdr.errno);
	const trans = readBlob(sev.driver.scratch(1), data);
	if (trans.errno !== 0) return fails(trans.errno);
	const { ret, error } = issueOnGuest(sev, COMMANDS.RECEIVE_UPDATE_VMSA, {
		hdrPaddr: hdr.paddr,
		hdrLen: hdr.length,
		guestPaddr: withCbit(sev, context.saveArea.spa),
		guestLen: VMSA_SIZE,
		transPaddr: trans.paddr,
		transLen: trans.length,
	});
	if (ret === 0) protect(context, context.saveArea);
	return { ret, error };
}
