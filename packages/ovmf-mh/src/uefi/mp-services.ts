import { PAGE_SIZE } from '@cvm/layout';
import { type Allocation, EfiMemoryType, isFreeToOs } from './memory-map.js';

/**
 * The three changes to UefiCpuPkg by which the handler of March 2021 was to survive ExitBootServices (edk2-devel, 2021-03-02, patches
 * 8 to 10; the author calls them temporary). Default false: UefiCpuPkg as it was.
 */
export interface UefiCpuChanges {
	/** MpInitLib: the callback at ExitBootServices that parks the application processors does not run. */
	readonly keepApsRunning?: boolean;
	/** MpInitLib: stacks and data of application processors are runtime memory. */
	readonly runtimeMpBuffer?: boolean;
	/** CpuExceptionHandlerLib: IDT and exception stacks are runtime memory. */
	readonly runtimeExceptionMemory?: boolean;
}

export interface MpOptions extends UefiCpuChanges {
	/** Processors of the machine, the boot processor among them: it is number 0. */
	readonly processors: number;
}

/** EFI_STATUS of the calls below, by name. */
export type MpStatus = 'success' | 'invalidParameter' | 'notFound' | 'notReady' | 'unsupported';

/**
 * Where an application processor stands. `idle`: it waits for a procedure. `busy`: it runs one. `disabled`: not to be used. `parked`:
 * ExitBootServices put it into a loop in reserved memory. `dead`: it went down with a triple fault, see `cause`.
 */
export type ApState = 'idle' | 'busy' | 'disabled' | 'parked' | 'dead';

/** What a procedure can do in one step besides computing. */
export interface ApContext {
	/** An exception that the firmware's handler returns from. Needs the IDT and the exception stack. */
	raise(): void;
}
/** Runs on an application processor: one step at a time, until it says that it is done. */
export type ApProcedure = (cpu: ApContext) => 'again' | 'done';

export interface ApReport {
	readonly state: ApState;
	/** What was gone when it was needed: its stack, or exception memory; or INIT from somebody else. */
	readonly cause?: 'stack' | 'exception' | 'init';
}

/** The processors of a machine as UEFI firmware sees them, and what its memory does to them. */
export interface MpServices {
	/** EFI_MP_SERVICES_PROTOCOL.GetNumberOfProcessors. */
	numberOfProcessors(): { readonly total: number; readonly enabled: number };
	/** StartupThisAP, not waiting for the end. */
	startupThisAp(processor: number, procedure: ApProcedure): MpStatus;
	/** EnableDisableAP. */
	enableDisableAp(processor: number, enable: boolean): MpStatus;
	/** Lets an application processor go one step on. */
	step(processor: number): ApReport;
	report(processor: number): ApReport;
	/** What UefiCpuPkg allocated. */
	readonly allocations: readonly Allocation[];
	/** The OS takes over: the event ExitBootServices, then its memory map counts. */
	exitBootServices(): void;
	/** The OS writes to memory that is free to it, as it will sooner or later. */
	osUsesMemory(): void;
	/** INIT by interprocessor interrupt, as from an OS that sends it to all but itself. */
	receiveInit(processor: number): void;
}

/** PROJECT: where the buffers are; 32 KiB of stack for each processor, with its data at the end, and a page of exception stack. */
const BUFFERS = 0x7e000000;
const STACK_BYTES = 8 * PAGE_SIZE;

interface Ap {
	state: ApState;
	cause?: ApReport['cause'];
	procedure?: ApProcedure;
	readonly stack: Allocation;
	readonly exceptionStack: Allocation;
}

/**
 * The state machine of MpInitLib (PI 1.7 vol. 2 §13.4; edk2 UefiCpuPkg/Library/MpInitLib), with the memory that it stands on.
 *
 * UNCERTAIN(edk2-devel, March 2021): how the posted handler started its processor; here by StartupThisAP without an end. That the
 * parking of MpInitLib takes a busy processor away from its procedure follows from its waking them by INIT.
 *
 * @throws RangeError for a machine without processors
 */
export function createMpServices(options: MpOptions): MpServices {
	const { processors, keepApsRunning = false, runtimeMpBuffer = false, runtimeExceptionMemory = false } = options;
	if (!Number.isSafeInteger(processors) || processors < 1) {
		throw new RangeError(`processors: expected at least 1, got ${processors}`);
	}
	const { bootServicesData, runtimeServicesData } = EfiMemoryType;
	const typeOf = (runtime: boolean) => (runtime ? runtimeServicesData : bootServicesData);
	const allocations: Allocation[] = [];
	const overwritten = new Set<Allocation>();
	let next = BUFFERS;
	const allocate = (name: string, bytes: number, runtime: boolean): Allocation => {
		const allocation = { name, start: next, bytes, type: typeOf(runtime) };
		allocations.push(allocation);
		next += bytes;
		return allocation;
	};
	const idt = allocate('IDT', PAGE_SIZE, runtimeExceptionMemory);
	const aps = Array.from(
		{ length: processors - 1 },
		(_, i): Ap => ({
			state: 'idle',
			stack: allocate(`stack ${i + 1}`, STACK_BYTES, runtimeMpBuffer),
			exceptionStack: allocate(`exception stack ${i + 1}`, PAGE_SIZE, runtimeExceptionMemory),
		}),
	);
	let bootServices = true;

	const apOf = (processor: number): Ap | undefined => aps[processor - 1];
	const die = (ap: Ap, cause: NonNullable<ApReport['cause']>): void => {
		ap.state = 'dead';
		ap.cause = cause;
		delete ap.procedure;
	};
	const reportOf = ({ state, cause }: Ap): ApReport => (cause === undefined ? { state } : { state, cause });
	const isGone = (...parts: readonly Allocation[]): boolean => parts.some((part) => overwritten.has(part));

	const check = (processor: number): MpStatus | Ap => {
		if (!bootServices) return 'unsupported';
		if (processor === 0) return 'invalidParameter';
		return apOf(processor) ?? 'notFound';
	};
	return {
		allocations,
		numberOfProcessors: () => ({
			total: processors,
			enabled: 1 + aps.filter(({ state }) => state !== 'disabled').length,
		}),
		startupThisAp: (processor, procedure) => {
			const ap = check(processor);
			if (typeof ap === 'string') return ap;
			if (ap.state === 'disabled') return 'invalidParameter';
			if (ap.state !== 'idle') return 'notReady';
			ap.state = 'busy';
			ap.procedure = procedure;
			return 'success';
		},
		enableDisableAp: (processor, enable) => {
			const ap = check(processor);
			if (typeof ap === 'string') return ap;
			if (ap.state !== 'idle' && ap.state !== 'disabled') return 'unsupported';
			ap.state = enable ? 'idle' : 'disabled';
			return 'success';
		},
		step: (processor) => {
			const ap = apOf(processor);
			if (ap === undefined) throw new RangeError(`processor: expected 1 to ${aps.length}, got ${processor}`);
			const { procedure } = ap;
			if (ap.state !== 'busy' || procedure === undefined) return reportOf(ap);
			// Its frames and return addresses are there.
			if (isGone(ap.stack)) die(ap, 'stack');
			else {
				let raised = false;
				const end = procedure({
					raise: () => {
						raised = true;
					},
				});
				if (raised && isGone(idt, ap.exceptionStack)) die(ap, 'exception');
				else if (end === 'done') {
					ap.state = 'idle';
					delete ap.procedure;
				}
			}
			return reportOf(ap);
		},
		report: (processor) => {
			const ap = apOf(processor);
			if (ap === undefined) throw new RangeError(`processor: expected 1 to ${aps.length}, got ${processor}`);
			return reportOf(ap);
		},
		exitBootServices: () => {
			bootServices = false;
			if (keepApsRunning) return;
			for (const ap of aps) {
				if (ap.state === 'dead') continue;
				ap.state = 'parked';
				delete ap.procedure;
			}
		},
		osUsesMemory: () => {
			if (bootServices) return;
			for (const allocation of allocations) if (isFreeToOs(allocation.type)) overwritten.add(allocation);
		},
		receiveInit: (processor) => {
			const ap = apOf(processor);
			if (ap !== undefined) die(ap, 'init');
		},
	};
}
