import { openSaveAreas } from '@cvm/sev-hw/silicon';
import { ExitCode, IoInfo, MSR_GHCB, MSR_SEV_STATUS } from '../abi/ghcb.js';
import { VmWord } from '../vm/state.js';
import { FIRST_HOST_REGISTER, REGISTER_COUNT, Register, VcpuWord, XSAVE_SIZE } from '../vm/vcpu-state.js';
import { type Core, type CoreParts, EXIT, GO_ON, VMEXIT_INVALID } from './core.js';
import { Ending } from './guest-cpu.js';
import { ecxOf } from './host-instructions.js';
import { edxEax, setEdxEax } from './msrs.js';
import { createOwnMsrs } from './own-msrs.js';
import { requirePrivilege } from './plain-core.js';
import { createProcessor } from './processor.js';
import { ProgramError } from './program.js';
import { registersFromSaveArea, saveAreaFromRegisters } from './save-area.js';
import { TripleFault } from './triple-fault.js';
import { createVmgexit } from './vmgexit/index.js';

const PAGE = 4096;
/** VMRUN wants EFER.SVME in the save area; the guest does not see it. */
const EFER_SVME = 1n << 12n;
const SEV_STATUS_DEBUG_SWAP = 1n << 7n;
const FEATURE_DEBUG_SWAP = 1 << 5;
/** Registers of which KVM traps writes, and so keeps copies. */
const TRAPPED = [Register.cr0, Register.cr4, Register.cr8, Register.efer];

/**
 * A vCPU of a SEV-ES guest (APM vol. 2 §15.35). The guest's registers are in a file of this thread, which VMRUN fills from
 * the save area and #VMEXIT writes back; KVM and the VMM see another, with what the GHCB says and copies of CR0, CR4, CR8
 * and EFER. What KVM intercepts and the save area hides from it is #VC in the guest; HLT and VMGEXIT exit by themselves.
 *
 * PROJECT: the save area is loaded and stored once per KVM_RUN; in between it lags behind the registers.
 *
 * UNCERTAIN(APM vol. 2 §15.35): how VMRUN reports a save area whose checksum is wrong; here, and for one that the firmware
 * has not encrypted, as VMEXIT_INVALID, which is KVM_EXIT_FAIL_ENTRY.
 */
export function createProtectedCore(parts: CoreParts): Core {
	const { vm, handle, words, run, controller, registers: host } = parts;
	const own = new BigUint64Array(REGISTER_COUNT);
	const xsave = new Uint8Array(XSAVE_SIZE);
	const page = new Uint8Array(PAGE);
	const saveAreas = openSaveAreas(handle.vm.silicon, controller);
	const processor = createProcessor({ ...parts, registers: own, xsave });
	const { cpu } = processor;
	const ownMsrs = createOwnMsrs({ vm, registers: own, onEfer: processor.flushTlb });
	const vmgexit = createVmgexit(parts);
	/** Where the loaded save area is; −1: the guest's registers are not here. */
	let loaded = -1;
	let asid = 0;

	const refuse = (): number => {
		run.exitFailEntry(VMEXIT_INVALID, handle.index);
		return EXIT;
	};
	const goOn = (): number => {
		processor.jump(cpu.to);
		return GO_ON;
	};
	const intercepted = (errorCode: number, info1 = 0n): TripleFault =>
		new TripleFault('vc', `exit 0x${errorCode.toString(16)} of a SEV-ES guest: #VC`, {
			errorCode,
			info1,
			info2: errorCode === ExitCode.IOIO ? BigInt(cpu.to) : 0n,
		});
	const io = (isIn: boolean): TripleFault => {
		const size = BigInt(cpu.ioSize << IoInfo.sizeShift);
		const info = (BigInt(cpu.port & 0xffff) << BigInt(IoInfo.portShift)) | BigInt(IoInfo.address64) | size;
		return intercepted(ExitCode.IOIO, isIn ? info | BigInt(IoInfo.in) : info);
	};

	const sevStatus = (): bigint => {
		const features = Atomics.load(vm.words, VmWord.sevFeatures);
		return 3n | ((features & FEATURE_DEBUG_SWAP) !== 0 ? SEV_STATUS_DEBUG_SWAP : 0n);
	};
	const readMsr = (): number => {
		const index = ecxOf(own);
		const value =
			index === MSR_SEV_STATUS
				? sevStatus()
				: index === MSR_GHCB
					? (host[Register.ghcbMsr] ?? 0n)
					: ownMsrs.read(index);
		if (value === undefined) throw intercepted(ExitCode.MSR, 0n);
		setEdxEax(own, value);
		return goOn();
	};
	const writeMsr = (): number => {
		const index = ecxOf(own);
		if (index === MSR_SEV_STATUS) throw new TripleFault('gp', 'MSR SEV_STATUS: expected no write: #GP');
		if (index === MSR_GHCB) host[Register.ghcbMsr] = edxEax(own);
		else if (!ownMsrs.write(index, edxEax(own))) throw intercepted(ExitCode.MSR, 1n);
		return goOn();
	};

	return {
		processor,
		complete: vmgexit.complete,
		enter: () => {
			const frame = Atomics.load(words, VcpuWord.saveAreaPage);
			if (frame === 0 || Atomics.load(words, VcpuWord.guestStateProtected) === 0) return refuse();
			const spa = frame * PAGE;
			asid = vm.asid;
			if (!saveAreas.load(asid, spa, page)) return refuse();
			registersFromSaveArea(page, own, xsave);
			own[Register.efer] = (own[Register.efer] ?? 0n) & ~EFER_SVME;
			processor.flushTlb();
			loaded = spa;
			return GO_ON;
		},
		leave: () => {
			if (loaded < 0) return;
			for (const at of TRAPPED) host[at] = own[at] ?? 0n;
			own[Register.efer] = (own[Register.efer] ?? 0n) | EFER_SVME;
			saveAreaFromRegisters(own, xsave, page);
			// A VM that was destroyed meanwhile has no key to write with, and no save area.
			const isAlive = Atomics.load(vm.words, VmWord.dead) === 0 && vm.asid === asid;
			if (isAlive && controller.isRunnable(asid)) saveAreas.store(asid, loaded, page);
			loaded = -1;
			own.fill(0n);
			xsave.fill(0);
			page.fill(0);
		},
		finish: () => {
			switch (cpu.ending) {
				case Ending.jump:
					return goOn();
				case Ending.vmgexit:
					processor.jump(cpu.to);
					return vmgexit.handle();
				case Ending.hlt:
					requirePrivilege(own);
					processor.jump(cpu.to);
					parts.halt();
					return GO_ON;
				case Ending.cpuid:
					throw intercepted(ExitCode.CPUID);
				case Ending.rdmsr:
					requirePrivilege(own);
					return readMsr();
				case Ending.wrmsr:
					requirePrivilege(own);
					return writeMsr();
				case Ending.vmmcall:
					throw intercepted(ExitCode.VMMCALL);
				case Ending.vmcall:
					throw new TripleFault('ud', 'VMCALL in an SEV guest: #UD');
				case Ending.out:
					requirePrivilege(own);
					throw io(false);
				case Ending.in:
					requirePrivilege(own);
					throw io(true);
				case Ending.ud2:
					throw new TripleFault('ud', 'UD2: #UD');
				default:
					throw new ProgramError('unfinished', 'block: expected a terminator, got none');
			}
		},
		// KVM resets its own copies; the save area stays as the guest left it.
		reset: () => {
			host.fill(0n, 0, FIRST_HOST_REGISTER);
		},
		start: () => {
			// The first SIPI: the state is what the VMM put into the save area before it was measured. PROJECT: a vCPU in a
			// reset hold has run, perhaps on another host, whatever the note says.
			const isFirst = host[Register.sipiSeen] === 0n && host[Register.apResetHold] === 0n;
			host[Register.sipiSeen] = 1n;
			if (!isFirst) vmgexit.endResetHold();
		},
	};
}
