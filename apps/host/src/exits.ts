import type { Vcpu } from '@cvm/kvm';
import { ExitReason, IoDirection, RunOffset } from '@cvm/kvm/abi';
import { answerHypercall } from '@cvm/kvm/vmm';
import { PAGE_SIZE } from '@cvm/layout';
import type { FwCfgDevice } from '@cvm/ovmf-mh/host';
import type { HostContext } from './context.js';
import { echo } from './echo-device.js';
import { touch } from './pages.js';
import { ECHO_PORT, SERIAL_PORT } from './ports.js';
import type { SerialOutput } from './serial.js';

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
				this.#hypercall(vcpu.run);
				return 'continue';
			case ExitReason.X86_RDMSR:
			case ExitReason.X86_WRMSR:
				this.#host().migrationMsr.answer(vcpu.run);
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
		const data = new Uint8Array(run.buffer, run.byteOffset + at, size);
		this.io(port, run.getUint8(RunOffset.ioDirection) === IoDirection.out, data);
	}

	/** One access to a port by any vCPU, the mirrors' included: 1, 2 or 4 bytes, to be filled in if the guest reads. */
	io(port: number, isOut: boolean, data: Uint8Array): void {
		const view = new DataView(data.buffer, data.byteOffset, data.length);
		const size = data.length;
		if (!isOut) {
			const value = this.#fwCfg.ioRead(port, size as 1 | 2 | 4);
			if (size === 1) view.setUint8(0, value);
			else if (size === 2) view.setUint16(0, value, true);
			else view.setUint32(0, value, true);
			return;
		}
		const value = size === 1 ? view.getUint8(0) : size === 2 ? view.getUint16(0, true) : view.getUint32(0, true);
		if (port === SERIAL_PORT) this.#serial.write(value & 0xff);
		else if (port === ECHO_PORT) echo(this.#host().machine, value);
		else this.#fwCfg.ioWrite(port, size as 1 | 2 | 4, value);
	}

	/** The guest's page status changed: KVM_HC_MAP_GPA_RANGE, Linux Documentation/virt/kvm/x86/hypercalls.rst. */
	#hypercall(run: Uint8Array): void {
		const { machine } = this.#host();
		answerHypercall(run, {
			abi: machine.kvm.abi,
			pages: machine.shared,
			// A page that changed its status must travel again, in its new form, even if nobody writes to it.
			onChange: (start, end) => {
				for (const { gpa, usedLength } of machine.blocks) {
					const from = Math.max(start, gpa / PAGE_SIZE);
					const to = Math.min(end, (gpa + usedLength) / PAGE_SIZE);
					for (let gfn = from; gfn < to; gfn++) touch(machine, gfn);
				}
			},
		});
	}
}
