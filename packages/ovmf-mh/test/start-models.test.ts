import { guestCpuView, parseSmp } from '@cvm/kvm/mirror';
import { PAGE_SIZE } from '@cvm/layout';
import {
	type ApProcedure,
	cpuMismatch,
	createHelperService,
	createMpServices,
	EfiMemoryType,
	enumerateCpus,
	type IdlePolicy,
	type MainVcpus,
	type MpOptions,
	madtCpus,
	type StartModel,
} from '@cvm/ovmf-mh/uefi';
import { describe, expect, it } from 'vitest';

/** A handler as a procedure: it takes a command a step, and some make it meet an exception. */
function handler() {
	const state = { posted: undefined as 'plain' | 'faults' | undefined, served: 0 };
	const procedure: ApProcedure = (cpu) => {
		if (state.posted === 'faults') cpu.raise();
		if (state.posted !== undefined) state.served++;
		state.posted = undefined;
		return 'again';
	};
	return { state, procedure };
}
const HELPER = 2;
/** A machine in which the last of three processors runs the handler. */
function started(changes: Partial<MpOptions> = {}) {
	const mp = createMpServices({ processors: 3, ...changes });
	const { state, procedure } = handler();
	expect(mp.startupThisAp(HELPER, procedure)).toBe('success');
	const serve = (command: 'plain' | 'faults') => {
		state.posted = command;
		const report = mp.step(HELPER);
		return report.state === 'busy' ? 'served' : (report.cause ?? report.state);
	};
	return { mp, serve, state };
}
const BOOLEANS = [false, true];
const COMBINATIONS = BOOLEANS.flatMap((keepApsRunning) =>
	BOOLEANS.flatMap((runtimeMpBuffer) =>
		BOOLEANS.map((runtimeExceptionMemory) => ({ keepApsRunning, runtimeMpBuffer, runtimeExceptionMemory })),
	),
);

describe('a handler on an application processor', () => {
	it.each(COMBINATIONS)('at ExitBootServices with %o', (changes) => {
		const { keepApsRunning, runtimeMpBuffer, runtimeExceptionMemory } = changes;
		const { mp, serve } = started(changes);
		expect([serve('plain'), serve('faults')]).toEqual(['served', 'served']);
		mp.exitBootServices();
		// Until the OS uses what is its own now, nothing is wrong: the kind of fault that a short test does not see.
		expect(serve('plain')).toBe(keepApsRunning ? 'served' : 'parked');
		mp.osUsesMemory();
		const survives = keepApsRunning && runtimeMpBuffer;
		expect(serve('plain')).toBe(survives ? 'served' : keepApsRunning ? 'stack' : 'parked');
		if (!survives) return;
		expect(serve('faults')).toBe(runtimeExceptionMemory ? 'served' : 'exception');
		expect(mp.report(HELPER).state).toBe(runtimeExceptionMemory ? 'busy' : 'dead');
	});

	it.each(COMBINATIONS)('has memory of the types that %o ask for', (changes) => {
		const { allocations } = createMpServices({ processors: 2, ...changes });
		const typeOf = (name: string) => allocations.find((a) => a.name === name)?.type;
		const { bootServicesData, runtimeServicesData } = EfiMemoryType;
		const mp = changes.runtimeMpBuffer ? runtimeServicesData : bootServicesData;
		const exceptions = changes.runtimeExceptionMemory ? runtimeServicesData : bootServicesData;
		expect(['stack 1', 'exception stack 1', 'IDT'].map(typeOf)).toEqual([mp, exceptions, exceptions]);
		expect(allocations.every(({ bytes }) => bytes % PAGE_SIZE === 0)).toBe(true);
	});

	it('is killed by an OS that sends INIT to all but itself', () => {
		const { mp, serve } = started({ keepApsRunning: true, runtimeMpBuffer: true, runtimeExceptionMemory: true });
		mp.exitBootServices();
		for (const processor of [1, HELPER]) mp.receiveInit(processor);
		expect(serve('plain')).toBe('init');
	});

	it('keeps its processor: nobody else can start it or disable it', () => {
		const { mp } = started();
		expect(mp.startupThisAp(HELPER, () => 'done')).toBe('notReady');
		expect(mp.enableDisableAp(HELPER, false)).toBe('unsupported');
	});
});

describe('MP services', () => {
	it('count, start, disable and refuse', () => {
		const mp = createMpServices({ processors: 3 });
		expect(mp.numberOfProcessors()).toEqual({ total: 3, enabled: 3 });
		expect(mp.enableDisableAp(1, false)).toBe('success');
		expect(mp.numberOfProcessors()).toEqual({ total: 3, enabled: 2 });
		expect(mp.startupThisAp(1, () => 'done')).toBe('invalidParameter');
		expect(mp.enableDisableAp(1, true)).toBe('success');
		expect(mp.startupThisAp(1, () => 'done')).toBe('success');
		expect(mp.step(1)).toEqual({ state: 'idle' });
		expect(mp.startupThisAp(0, () => 'done')).toBe('invalidParameter');
		expect(mp.startupThisAp(3, () => 'done')).toBe('notFound');
		mp.exitBootServices();
		expect(mp.startupThisAp(1, () => 'done')).toBe('unsupported');
		expect(() => createMpServices({ processors: 0 })).toThrow(/^processors: expected at least 1/);
	});

	it('a processor is free again when its procedure ends, even after ExitBootServices', () => {
		const mp = createMpServices({ processors: 2, keepApsRunning: true, runtimeMpBuffer: true });
		mp.startupThisAp(1, () => 'done');
		mp.exitBootServices();
		mp.osUsesMemory();
		expect(mp.step(1)).toEqual({ state: 'idle' });
	});
});

describe('a command', () => {
	const after = (model: StartModel, main: MainVcpus, ms = 100) => {
		const service = createHelperService({ model, pollMs: 20 });
		service.setMainVcpus(main);
		service.advance(5);
		service.post();
		service.advance(ms);
		return service;
	};
	it.each([
		['applicationProcessor', 'running', true],
		['applicationProcessor', 'stopped', true],
		['applicationProcessor', 'hung', true],
		['mirrorVcpu', 'running', true],
		['mirrorVcpu', 'stopped', true],
		['mirrorVcpu', 'hung', true],
		['kernelPolled', 'running', true],
		['kernelPolled', 'stopped', false],
		['kernelPolled', 'hung', false],
	] as const)('to %s with main vCPUs %s is answered: %s', (model, main, answered) => {
		expect(after(model, main).isPending()).toBe(!answered);
	});

	it.each([1, 10, 50])('to a kernel that polls every %i ms takes up to that long', (pollMs) => {
		const service = createHelperService({ model: 'kernelPolled', pollMs });
		for (let i = 0; i < 100; i++) {
			service.post();
			service.advance(pollMs + (i % 7));
		}
		expect(service.latencies).toHaveLength(100);
		expect(Math.max(...service.latencies)).toBe(pollMs);
		expect(after('mirrorVcpu', 'running').latencies).toEqual([1]);
	});

	it('to a kernel that polls is answered once the guest runs again', () => {
		const service = after('kernelPolled', 'stopped');
		service.setMainVcpus('running');
		service.advance(20);
		expect(service.isPending()).toBe(false);
	});

	it('waits for the one before', () => {
		const service = createHelperService({ model: 'mirrorVcpu' });
		service.post();
		expect(() => service.post()).toThrow(/^mailbox: expected it to be free/);
		expect(() => createHelperService({ model: 'kernelPolled', pollMs: 0 })).toThrow(/^pollMs/);
	});
});

describe.each(['applicationProcessor', 'mirrorVcpu'] as const)('an idle handler on %s', (model) => {
	const service = (idle: IdlePolicy) => createHelperService({ model, idle });

	it('spin: answers at once and costs a whole CPU', () => {
		const s = service('spin');
		s.advance(1000);
		expect(s.idleMs()).toBe(1000);
		s.post();
		s.advance(1);
		expect(s.latencies).toEqual([1]);
	});

	it('hostDescheduled: costs nothing until it is run, and then spins until it is suspended', () => {
		const s = service('hostDescheduled');
		s.advance(1000);
		s.post();
		s.advance(1000);
		expect([s.idleMs(), s.isPending()]).toEqual([0, true]);
		s.requestRun();
		s.advance(10);
		expect([s.idleMs(), s.isPending()]).toEqual([9, false]);
		s.suspend();
		s.advance(1000);
		expect(s.idleMs()).toBe(9);
		expect(() => service('spin').suspend()).toThrow(/^suspend/);
	});

	it('hltExit: a posted command needs a run request, each time', () => {
		const s = service('hltExit');
		for (let i = 0; i < 3; i++) {
			s.post();
			// What a host that only polls would see: its time-out.
			s.advance(100);
			expect(s.isPending()).toBe(true);
			s.requestRun();
			s.advance(1);
			expect(s.isPending()).toBe(false);
		}
		s.advance(1000);
		expect(s.idleMs()).toBe(0);
	});

	it('hltExit: a request that comes before the command is not lost', () => {
		const s = service('hltExit');
		s.requestRun();
		s.post();
		s.advance(1);
		expect(s.isPending()).toBe(false);
	});
});

describe('the CPUs of a machine, counted three ways', () => {
	it('disagree about an application processor that ACPI hides', () => {
		// Three CPUs and the handler's: the MADT leaves it out, MP services and the interrupt controllers do not.
		const shown = guestCpuView(parseSmp('3'));
		const views = enumerateCpus(shown.madtEntries, 4, [0, 1, 2, 3]);
		expect(views).toEqual({ madt: [0, 1, 2], mpServices: [0, 1, 2, 3], broadcast: [0, 1, 2, 3] });
		expect(cpuMismatch(views)).toBe('CPU 3: expected by all, got only MP services and broadcast');
	});

	it.each(['4,mirrorvcpus=1', '5,mirrorvcpus=2', '2,mirrorvcpus=1', '260,mirrorvcpus=3'])(
		'agree with -smp %s: a mirror vCPU is in another VM, without interrupt controller',
		(smp) => {
			const topology = parseSmp(smp);
			const main = topology.cpus - topology.mirrorVcpus;
			const { madtEntries, bootCpuCount } = guestCpuView(topology);
			const firmwareCpus = new DataView(bootCpuCount.buffer).getUint16(0, true);
			const lapics = Array.from({ length: main }, (_, i) => i);
			const views = enumerateCpus(madtEntries, firmwareCpus, lapics, 1 % main);
			expect(cpuMismatch(views)).toBeUndefined();
			expect(views.madt).toEqual(lapics);
		},
	);

	it('are read from MADT entries of any kind and of none', () => {
		const entries = Uint8Array.of(...[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], ...[0, 8, 7, 7, 1, 0, 0, 0]);
		expect(madtCpus(entries)).toEqual([7]);
		expect(madtCpus(Uint8Array.of(...entries, 0, 8, 1, 1, 0, 0, 0, 0))).toEqual([7]);
		expect(madtCpus(entries.subarray(0, 19))).toEqual([]);
		expect(madtCpus(Uint8Array.of(0, 0))).toEqual([]);
	});
});
