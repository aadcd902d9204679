import type { Infer } from '@cvm/layout';
import { COMMANDS } from '@cvm/sev-hw/abi';
import { Errno } from '../abi/errno.js';
import { kvmSevCmd, SevCommand } from '../abi/sev.js';
import type { SevResult } from '../ccp/sev-device.js';
import { isSince } from '../kernel.js';
import { launchUpdateVmsa } from '../sev/es/launch.js';
import { entryErrno, mirrorErrno } from '../sev/guard.js';
import { getAttestationReport } from '../sev/handlers/attestation.js';
import { debugDecrypt, debugEncrypt } from '../sev/handlers/debug.js';
import { guestStatus, launchMeasure, launchSecret, launchStart, launchUpdateData } from '../sev/handlers/launch.js';
import { receiveStart, receiveUpdateData } from '../sev/handlers/receive.js';
import { sendStart, sendUpdateData } from '../sev/handlers/send.js';
import { receiveUpdateVmsa, sendUpdateVmsa } from '../sev/handlers/vmsa.js';
import { sevInit, sevInit2 } from '../sev/init.js';
import { onHandle } from '../sev/send.js';
import type { VmContext } from '../vm/context.js';
import * as at from './sev-structures.js';
import { readStructure, type UserPointer, type UserSpace } from './user-space.js';

/** One KVM_MEMORY_ENCRYPT_OP on its way to its handler. */
interface SevCall extends at.Place {
	readonly vm: VmContext;
	/** Whether `kvm_sev_cmd.sev_fd` is an open /dev/sev: looked up at each use. */
	readonly isDeviceOpen: () => boolean;
}

type SevHandler = (call: SevCall) => SevResult;

const HANDLERS: ReadonlyMap<number, SevHandler> = new Map<number, SevHandler>([
	[SevCommand.INIT, ({ vm }) => sevInit(vm, false)],
	[SevCommand.ES_INIT, ({ vm }) => sevInit(vm, true)],
	[SevCommand.INIT2, (call) => sevInit2(call.vm, at.init2At(call))],
	[SevCommand.LAUNCH_START, (call) => launchStart(call.vm.sev, at.launchStartAt(call), call.isDeviceOpen)],
	[SevCommand.LAUNCH_UPDATE_VMSA, ({ vm }) => launchUpdateVmsa(vm)],
	[SevCommand.LAUNCH_UPDATE_DATA, (call) => launchUpdateData(call.vm.sev, at.launchUpdateDataAt(call))],
	[SevCommand.LAUNCH_SECRET, (call) => launchSecret(call.vm.sev, at.launchSecretAt(call))],
	[SevCommand.LAUNCH_MEASURE, (call) => launchMeasure(call.vm.sev, at.launchMeasureAt(call))],
	[SevCommand.LAUNCH_FINISH, ({ vm }) => onHandle(vm.sev, COMMANDS.LAUNCH_FINISH)],
	[SevCommand.SEND_START, (call) => sendStart(call.vm.sev, at.sendStartAt(call))],
	[SevCommand.SEND_UPDATE_DATA, (call) => sendUpdateData(call.vm.sev, at.sendUpdateDataAt(call))],
	[SevCommand.SEND_FINISH, ({ vm }) => onHandle(vm.sev, COMMANDS.SEND_FINISH)],
	[SevCommand.SEND_CANCEL, ({ vm }) => onHandle(vm.sev, COMMANDS.SEND_CANCEL)],
	[SevCommand.RECEIVE_START, (call) => receiveStart(call.vm.sev, at.receiveStartAt(call), call.isDeviceOpen)],
	[SevCommand.RECEIVE_UPDATE_DATA, (call) => receiveUpdateData(call.vm.sev, at.receiveUpdateDataAt(call))],
	[SevCommand.RECEIVE_FINISH, ({ vm }) => onHandle(vm.sev, COMMANDS.RECEIVE_FINISH)],
	[SevCommand.SEND_UPDATE_VMSA, (call) => sendUpdateVmsa(call.vm, at.sendUpdateVmsaAt(call))],
	[SevCommand.RECEIVE_UPDATE_VMSA, (call) => receiveUpdateVmsa(call.vm, at.receiveUpdateVmsaAt(call))],
	[SevCommand.GET_ATTESTATION_REPORT, (call) => getAttestationReport(call.vm.sev, at.attestationReportAt(call))],
	[SevCommand.GUEST_STATUS, (call) => guestStatus(call.vm.sev, at.guestStatusAt(call))],
	[SevCommand.DBG_DECRYPT, (call) => debugDecrypt(call.vm.sev, at.debugAt(call))],
	[SevCommand.DBG_ENCRYPT, (call) => debugEncrypt(call.vm.sev, at.debugAt(call))],
]);

/** The commands that came after the kernel of patch v12. */
const SINCE = new Map<number, '5.13' | '6.10'>([
	[SevCommand.GET_ATTESTATION_REPORT, '5.13'],
	[SevCommand.SEND_CANCEL, '5.13'],
	[SevCommand.INIT2, '6.10'],
]);

/** Numbers without a handler in Linux. */
const VMSA_TRANSPORT: ReadonlySet<number> = new Set([SevCommand.SEND_UPDATE_VMSA, SevCommand.RECEIVE_UPDATE_VMSA]);

function handlerOf({ kernel, host }: VmContext, id: number): SevHandler | number {
	const since = SINCE.get(id);
	const handler = since === undefined || isSince(kernel, since) ? HANDLERS.get(id) : undefined;
	if (handler === undefined) return -Errno.EINVAL;
	if (VMSA_TRANSPORT.has(id) && host.vmsaTransport !== 'model') return -Errno.EINVAL;
	// Tested where the id is, since 5.13: nothing is copied back.
	return id === SevCommand.ES_INIT && !host.hasSevEs ? -Errno.ENOTTY : handler;
}

const INITS: ReadonlySet<number> = new Set([SevCommand.INIT, SevCommand.ES_INIT, SevCommand.INIT2]);

/**
 * What becomes of `kvm_sev_cmd.error`: the firmware's status if it was reached, else what the caller stored. An INIT that
 * succeeds finds the platform up, as the driver's module parameter `psp_init_on_probe` has it.
 *
 * UNCERTAIN(Linux drivers/crypto/ccp/sev-dev.c): newer kernels preset −1 (SEV_RET_NO_FW_CALL) where the platform's INIT may
 * fail without the firmware; the model's platform has no such failure.
 */
function errorAfter(
	vm: VmContext,
	{ id, error: before }: Infer<typeof kvmSevCmd>,
	{ ret, error, reached }: SevResult,
): number {
	const hasNoVcpus = id === SevCommand.LAUNCH_UPDATE_VMSA && vm.vcpus.size === 0;
	const isAnswered = reached || error !== 0 || ret === -Errno.ETIMEDOUT;
	const isKept = ret === 0 ? INITS.has(id) || hasNoVcpus : !isAnswered;
	return isKept ? before : error;
}

/**
 * KVM_MEMORY_ENCRYPT_OP: sev_mem_enc_ioctl of Linux 5.12 to 6.10 arch/x86/kvm/svm/sev.c. In order: −EIO for a VM whose context was
 * moved away; −ENOTTY without SEV; 0 for a null pointer; −EFAULT; −EINVAL for what a mirror may not do and for unknown ids,
 * both without writing back; then the command's own answer, and the structure is written back whatever that is.
 *
 * @param isDevice whether a descriptor of the process is an open /dev/sev
 */
export function memoryEncryptOp(
	vm: VmContext,
	space: UserSpace,
	argument: UserPointer,
	isDevice: (fd: number) => boolean,
): number {
	const refused = entryErrno(vm);
	if (refused !== 0) return -refused;
	if (argument.value === 0n) return 0;
	const command = readStructure(argument, kvmSevCmd);
	if (command === undefined) return -Errno.EFAULT;
	const { id, data, sevFd } = command;
	const forbidden = mirrorErrno(vm, id);
	if (forbidden !== 0) return -forbidden;
	const handler = handlerOf(vm, id);
	if (typeof handler === 'number') return handler;
	const result = handler({ vm, space, data, isDeviceOpen: () => isDevice(sevFd) });
	const bytes = argument.read(0, kvmSevCmd.size);
	if (bytes === undefined) return -Errno.EFAULT;
	kvmSevCmd.patch(bytes, { error: errorAfter(vm, command, result) });
	return argument.write(0, bytes) ? result.ret : -Errno.EFAULT;
}
