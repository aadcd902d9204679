import type { Vcpu } from '@cvm/kvm';
import { ExitReason, IoDirection, MSR_KVM_MIGRATION_CONTROL, RunOffset } from '@cvm/kvm/abi';
import { PAGE_SIZE } from '@cvm/layout';
import type { FwCfgDevice } from '@cvm/ovmf-mh/host';
import type { HostContext } from './context.js';
import { echo } from './echo-device.js';
import { touch } from './pages.js';
import { ECHO_PORT, SERIAL_PORT } from './ports.js';
import type { SerialOutput } from './serial.js';

const HYPERCALL_12 = 12n;
const ENCRYPTED = 0x10n;
const KVM_EINVAL = -22n;
const KVM_E2BIG = -7n;
/** A guest that fragments its list further than this is refused: the list is the host's memory. */
const MAX_REGIONS = 1 << 16;

/** What KVM hands to its VMM: port I/O, page status, the migration MSR. */
export class ExitAnswers {
	readonly #host: () => HostContext;
	readonly #fwCfg: FwCfgDevice;
	readonly #serial: SerialOutput;

	constructor(host: () => HostContext, fwCfg: FwCfgDevice, serial: SerialOutput) {
		this.#host = host;
		this.#fwCfg = fwCfg;
		this.#serial = serial;
	}

	/** Fills in the answer of one exit. */
	answer(vcpu: Vcpu): 'continue' | { readonly halt: string } {
		const run = new DataView(vcpu.run.buffer, vcpu.run.byteOffset, vcpu.run.byteLength);
		const reason = run.getUint32(RunOffset.exitReason, true);
		switch (reason) {
			case ExitReason.IO:
				this.#io(run);
				return 'continue';
			case ExitReason.HYPERCALL:
				run.setBigInt64(RunOffset.hypercallRet, this.#hypercall(run), true);
				return 'continue';
			case ExitReason.X86_RDMSR:
			case ExitReason.X86_WRMSR:
				run.setUint8(RunOffset.msrError, this.#msr(run, reason === ExitReason.X86_WRMSR) ? 0 : 1);
				return 'continue';
			case ExitReason.SHUTDOWN:
				return { halt: 'triple fault' };
			case ExitReason.FAIL_ENTRY:
				return { halt: 'the hardware refused VMRUN: the firmware has not enabled this guest' };
			default:
				return { halt: `unexpected exit ${reason}` };
		}
	}

	#io(run: DataView): void {
		const size = run.getUint8(RunOffset.ioSize);
		const port = run.getUint16(RunOffset.ioPort, true);
		const at = Number(run.getBigUint64(RunOffset.ioDataOffset, true));
		const get = () => (size === 1 ? run.getUint8(at) : size === 2 ? run.getUint16(at, true) : run.getUint32(at, true));
		const set = (value: number) => {
			if (size === 1) run.setUint8(at, value);
			else if (size === 2) run.setUint16(at, value, true);
			else run.setUint32(at, value, true);
		};
		if (run.getUint8(RunOffset.ioDirection) === IoDirection.out) {
			if (port === SERIAL_PORT) this.#serial.write(get() & 0xff);
			else if (port === ECHO_PORT) echo(this.#host().machine, get());
			else this.#fwCfg.ioWrite(port, size as 1 | 2 | 4, get());
			return;
		}
		set(this.#fwCfg.ioRead(port, size as 1 | 2 | 4));
	}

	/** The guest's page status changed: KVM_HC_MAP_GPA_RANGE, Linux Documentation/virt/kvm/x86/hypercalls.rst. */
	#hypercall(run: DataView): bigint {
		const { machine } = this.#host();
		const arg = (i: number) => run.getBigUint64(RunOffset.hypercallArgs + 8 * i, true);
		if (run.getBigUint64(RunOffset.hypercallNr, true) !== HYPERCALL_12) return KVM_EINVAL;
		const start = arg(0) / BigInt(PAGE_SIZE);
		const end = start + arg(1);
		// Frames are 40 bits wide: what does not fit is not an address of this machine.
		if (end > 1n << 40n) return KVM_EINVAL;
		const encrypted = machine.kvm.abi === 'v12' ? arg(2) !== 0n : (arg(2) & ENCRYPTED) !== 0n;
		if (machine.shared.list.length >= MAX_REGIONS) return KVM_E2BIG;
		machine.shared.set(Number(start), Number(end - start), !encrypted);
		// A page that changed its status must travel again, in its new form, even if nobody writes to it.
		for (const { gpa, usedLength } of machine.blocks) {
			const from = Math.max(Number(start), gpa / PAGE_SIZE);
			const to = Math.min(Number(end), (gpa + usedLength) / PAGE_SIZE);
			for (let gfn = from; gfn < to; gfn++) touch(machine, gfn);
		}
		return 0n;
	}

	/** The migration MSR belongs to the VMM. @returns whether the access is legal; otherwise the guest gets #GP */
	#msr(run: DataView, write: boolean): boolean {
		const host = this.#host();
		if (!host.machine.sev || run.getUint32(RunOffset.msrIndex, true) !== MSR_KVM_MIGRATION_CONTROL) return false;
		if (!write) {
			run.setBigUint64(RunOffset.msrData, BigInt(host.migrationMsr), true);
			return true;
		}
		const value = run.getBigUint64(RunOffset.msrData, true);
		if (value > 1n) return false; // bits 63:1 are reserved
		host.migrationMsr = Number(value);
		return true;
	}
}
