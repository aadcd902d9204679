import { ExitReason, RunOffset } from '../abi/run-page.js';

/** The devices of a machine, as vCPUs reach them: the main VM's and the mirror's exits go to the same ones. */
export interface MachineDevices {
	/** One access to a port; `data` is written by the guest, or to be filled in by the device. */
	io(port: number, isOut: boolean, data: Uint8Array): void;
	/** One access to guest-physical memory that is not RAM. */
	mmio(gpa: number, isWrite: boolean, data: Uint8Array): void;
	/** The machine is to be reset, or switched off; done later, by whoever runs it. */
	requestReset(): void;
	requestShutdown(): void;
	/** The guest said that it crashed. */
	guestPanicked(): void;
	/** Any other exit: 0 = go on, negative = the vCPU cannot. */
	other(reason: number, run: Uint8Array): number;
}

/** What a vCPU's thread does next: call KVM_RUN again, look at what else there is to do, or give up. */
export type AfterExit = 'run' | 'interrupted' | 'failed';

const SystemEvent = { shutdown: 1, reset: 2, crash: 3 } as const;

/**
 * Handles an exit of a mirror vCPU, by the run loop of the mirror_vm branch: port I/O and MMIO by the machine's devices, a triple
 * fault as a reset of the machine. A mirror has no interrupt controller: windows for interrupts are not asked for, and the dirty
 * ring is not looked at (`other` gets such an exit).
 *
 * @param run the vCPU's `kvm_run` mapping after KVM_RUN returned 0
 */
export function handleMirrorExit(run: Uint8Array, devices: MachineDevices): AfterExit {
	const view = new DataView(run.buffer, run.byteOffset, run.byteLength);
	const reason = view.getUint32(RunOffset.exitReason, true);
	switch (reason) {
		case ExitReason.IO:
			forwardIo(view, run, devices);
			return 'run';
		case ExitReason.MMIO: {
			const length = Math.min(view.getUint32(RunOffset.mmioLen, true), 8);
			const data = run.subarray(RunOffset.mmioData, RunOffset.mmioData + length);
			const isWrite = view.getUint8(RunOffset.mmioIsWrite) !== 0;
			devices.mmio(Number(view.getBigUint64(RunOffset.mmioPhysAddr, true)), isWrite, data);
			return 'run';
		}
		case ExitReason.SHUTDOWN:
			devices.requestReset();
			return 'interrupted';
		case ExitReason.UNKNOWN:
		case ExitReason.INTERNAL_ERROR:
			return 'failed';
		case ExitReason.SYSTEM_EVENT:
			return systemEvent(view.getUint32(RunOffset.systemEventType, true), run, devices);
		default:
			return answer(devices.other(reason, run));
	}
}

const answer = (result: number): AfterExit => (result < 0 ? 'failed' : result > 0 ? 'interrupted' : 'run');

function systemEvent(type: number, run: Uint8Array, devices: MachineDevices): AfterExit {
	if (type === SystemEvent.shutdown) devices.requestShutdown();
	else if (type === SystemEvent.reset) devices.requestReset();
	else if (type === SystemEvent.crash) {
		devices.guestPanicked();
		return 'run';
	} else return answer(devices.other(ExitReason.SYSTEM_EVENT, run));
	return 'interrupted';
}

/** KVM_EXIT_IO: `count` accesses of `size` bytes, one after the other. The offset is KVM's; it is kept inside the mapping anyway. */
function forwardIo(view: DataView, run: Uint8Array, devices: MachineDevices): void {
	const size = view.getUint8(RunOffset.ioSize);
	const count = view.getUint32(RunOffset.ioCount, true);
	const port = view.getUint16(RunOffset.ioPort, true);
	const isOut = view.getUint8(RunOffset.ioDirection) === 1;
	const at = Number(view.getBigUint64(RunOffset.ioDataOffset, true));
	if (size === 0) return;
	for (let i = 0; i < count && at + (i + 1) * size <= run.length; i++) {
		devices.io(port, isOut, run.subarray(at + i * size, at + (i + 1) * size));
	}
}
