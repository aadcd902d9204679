import { COMMANDS, VMSA_SIZE, vmsa } from '@cvm/sev-hw/abi';
import { Errno } from '../../abi/errno.js';
import { VmType } from '../../abi/vm-type.js';
import { fails, SEV_OK, type SevResult } from '../../ccp/sev-device.js';
import { isSince } from '../../kernel.js';
import { DR7_FIXED } from '../../registers/debug.js';
import { saveAreaFromRegisters } from '../../vcpu/save-area.js';
import type { VcpuContext, VmContext } from '../../vm/context.js';
import { FIRST_HOST_REGISTER, openVcpuState, Register, VcpuWord, XSAVE_SIZE } from '../../vm/vcpu-state.js';
import { issueOnGuest, withCbit } from '../context.js';
import { bindSaveArea, type SaveArea } from './save-area.js';

/** What a VMCB's save area has besides what the VMM set (Linux arch/x86/kvm/svm/svm.c). */
const EFER_SVME = 1n << 12n;
/** The host runs with machine checks on, and its guests get the bit. */
const CR4_MCE = 1n << 6n;
/** KVM_X86_QUIRK_CD_NW_CLEARED. */
const CR0_CD_NW = (1n << 30n) | (1n << 29n);
/** Registers that a VMCB does not hold, or not yet, when KVM copies it. */
const NOT_IN_VMCB = [
	...[Register.cr2, Register.dr0, Register.dr1, Register.dr2, Register.dr3, Register.tscAux],
	...[Register.exitInfo1, Register.exitInfo2, Register.nrip],
] as const;
/** Guest registers that KVM knows of a protected vCPU: its traps tell it. */
const TRAPPED: ReadonlySet<number> = new Set([Register.cr0, Register.cr4, Register.cr8, Register.efer]);

/**
 * KVM_SEV_LAUNCH_UPDATE_VMSA (Linux 5.11 to 6.10 arch/x86/kvm/svm/sev.c): encrypts and measures the save area of every vCPU,
 * in the order in which they were created. −ENOTTY: no SEV-ES guest. It ends at the first failure; the vCPUs before keep
 * their encrypted state. −EINVAL: a vCPU that is debugged, or has a breakpoint in DR7. A second call is accepted, and
 * measures the same pages again.
 *
 * DEVIATION(Linux): the second call measures what the first one did even if the VMM set registers in between, and if the
 * firmware refuses it the save area stays as it was; Linux leaves plaintext in there. A vCPU that was created before
 * KVM_SEV_ES_INIT, which Linux 5.12 allowed, has no save area: −EINVAL here, an oops there.
 */
export function launchUpdateVmsa(vm: VmContext): SevResult {
	const { sev } = vm;
	if (!sev.active || !sev.es) return fails(Errno.ENOTTY);
	let reached = false;
	for (const context of vm.vcpus.values()) {
		const result = updateVcpu(vm, context);
		if (result.ret !== 0) return reached ? { ...result, reached } : result;
		reached = true;
	}
	return SEV_OK;
}

function updateVcpu(vm: VmContext, context: VcpuContext): SevResult {
	const { saveArea } = context;
	if (saveArea === undefined) return fails(Errno.EINVAL);
	const image = saveArea.image ?? syncSaveArea(vm, context);
	if (image === undefined) return fails(Errno.EINVAL);
	const before = saveArea.bytes.slice();
	saveArea.bytes.set(image);
	const { ret, error } = issueOnGuest(vm.sev, COMMANDS.LAUNCH_UPDATE_VMSA, {
		paddr: withCbit(vm.sev, saveArea.spa),
		length: VMSA_SIZE,
	});
	if (ret !== 0) {
		saveArea.bytes.set(before);
		return { ret, error };
	}
	saveArea.image = image;
	protect(context, saveArea);
	return SEV_OK;
}

/** sev_es_sync_vmsa: the page that is measured, or `undefined` for a vCPU that is being debugged. */
function syncSaveArea({ sev, type, kernel }: VmContext, { vcpu }: VcpuContext): Uint8Array | undefined {
	const state = openVcpuState(vcpu.share());
	const registers = state.registers.slice();
	const get = (register: number): bigint => registers[register] ?? 0n;
	const isDebugged = Atomics.load(state.words, VcpuWord.guestDebug) !== 0;
	if (isDebugged || (get(Register.dr7) & ~DR7_FIXED) !== 0n) return undefined;
	registers[Register.dr7] = DR7_FIXED;
	registers[Register.efer] = get(Register.efer) | EFER_SVME;
	registers[Register.cr4] = get(Register.cr4) | CR4_MCE;
	registers[Register.cr0] = get(Register.cr0) & ~CR0_CD_NW;
	for (const register of NOT_IN_VMCB) registers[register] = 0n;
	// KVM_SET_SREGS brings CR3 to the VMCB at once only since Linux 5.16; before, at the first entry, which is too late.
	if (!isSince(kernel, '5.16')) registers[Register.cr3] = 0n;
	const xsave = new Uint8Array(XSAVE_SIZE);
	// Guests of KVM_SEV_ES_INIT start without it, so that their launch measurements stay what they were.
	if (type !== VmType.DEFAULT) xsave.set(state.xsave);
	const page = new Uint8Array(VMSA_SIZE);
	saveAreaFromRegisters(registers, xsave, page);
	vmsa.patch(page, { sevFeatures: sev.vmsaFeatures });
	return page;
}

/** guest_state_protected: from now on the registers are in the save area alone. */
export function protect(context: VcpuContext, saveArea: SaveArea): void {
	if (!context.guestStateProtected) {
		const { registers, xsave } = openVcpuState(context.vcpu.share());
		for (let i = 0; i < FIRST_HOST_REGISTER; i++) if (!TRAPPED.has(i)) registers[i] = 0n;
		xsave.fill(0);
	}
	bindSaveArea(context, saveArea, true);
}
