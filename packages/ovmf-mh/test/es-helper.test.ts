import { gpa } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { HelperGeometry, saveAreasOf } from '../src/geometry.js';
import { HelperCommand } from '../src/mailbox/abi.js';
import { ResumeProblem, ResumeState } from '../src/resume/index.js';
import {
	CANARY,
	connectEs,
	createEsMachine,
	type EsMachine,
	type EsOptions,
	GUEST,
	GUEST_BYTES,
	PAGE,
	RESULTS,
} from './es-helper-rig.js';

const SLOT = 0x100;
const done = (machine: EsMachine): Uint8Array => {
	machine.runUntil('work.done');
	return machine.read(GUEST, GUEST_BYTES);
};
const u32 = (machine: EsMachine, at: number): number => {
	const page = machine.read(at - (at % PAGE), PAGE);
	return new DataView(page.buffer).getUint32(at % PAGE, true);
};
const resumeOf = (machine: EsMachine, vcpu: number): [number, number] => {
	const slot = HelperGeometry.resume + SLOT * vcpu;
	return [u32(machine, slot + 0xf8), u32(machine, slot + 0xfc)];
};
const little = (value: bigint): Buffer => {
	const out = Buffer.alloc(8);
	out.writeBigUInt64LE(value);
	return out;
};
let still: Uint8Array | undefined;
/** The memory of a guest that never moved. */
const stillMemory = (): Uint8Array => {
	still ??= done(createEsMachine({ seed: 'still', role: 'source' }));
	return still;
};
/** The source is at work, the target waits. */
function pair(o: Partial<EsOptions> = {}) {
	const source = createEsMachine({ seed: 'source', ...o, role: 'source' });
	const target = createEsMachine({ seed: 'target', ...o, role: 'target' });
	return { source, target, link: connectEs(source, target, o.vcpus) };
}
const workABit = (machine: EsMachine): void => {
	for (let i = 0; i < 20; i++) machine.turn(i % machine.vcpus.length, 10);
};
async function migrate({ source, link }: ReturnType<typeof pair>): Promise<void> {
	await link.copy(() => workABit(source));
	await link.helper.prove(link.peer);
	await link.helper.commit(link.peer);
	await link.helper.conclude(link.peer);
}
/** Runs the target's vCPUs until each has failed. */
const turns = (machine: EsMachine, count = 20): number[] =>
	Array.from({ length: count }, (_, i) => machine.turn(i % machine.vcpus.length, 5));

describe.each([
	['one vCPU', { vcpus: 1 }],
	['two vCPUs, one of them in user mode', {}],
	['x87, SSE and AVX state in a VM of type SEV_ES', { typed: true }],
	['a task segment in the GDT', { hasTask: true }],
] satisfies [string, Partial<EsOptions>][])('a SEV-ES guest with %s, moved by the helper', (_, o) => {
	it('goes on as one that never moved: memory and everything that it can see of its registers', async () => {
		const expected = done(createEsMachine({ seed: 'still', ...o, role: 'source' }));
		const two = pair(o);
		await migrate(two);
		expect(two.link.state.runs).toBe(1);
		// It was in the middle of it.
		expect(two.source.trace[0]?.at(-1)).toBe(two.source.program.address('work.step'));
		expect(Buffer.compare(done(two.target), expected)).toBe(0);
		expect(expected.subarray(RESULTS - GUEST).includes(0xc0)).toBe(true);
		for (const i of two.target.vcpus.keys()) expect(resumeOf(two.target, i)).toEqual([ResumeState.running, 0]);
	});
});

it('goes on from B to C', async () => {
	const two = pair();
	await migrate(two);
	const b = two.target;
	for (let i = 0; i < 10; i++) b.turn(i % 2, 20);
	for (const [i, at] of saveAreasOf(2).entries()) expect(b.mirror.vm?.mapSaveArea(i, gpa(at), b.vm)).toBe(0);
	const c = createEsMachine({ seed: 'third', role: 'target' });
	await migrate({ source: b, target: c, link: connectEs(b, c) });
	expect(Buffer.compare(done(c), stillMemory())).toBe(0);
});

describe('what the hosts get to know', () => {
	it('no register: not from KVM, not in DRAM, not in what they carried; the source’s vCPUs are of no use afterwards', async () => {
		const two = pair();
		const { source, target, link } = two;
		const canaries = [0n, 1n].map((vcpu) => little(CANARY + vcpu));
		const look = (): void => {
			for (const { vcpus, sev } of [source, target]) {
				for (const vcpu of vcpus) {
					expect(Object.values(vcpu.getRegs()).every((value) => value === 0n)).toBe(true);
					expect(vcpu.getSregs().cr3).toBe(0n);
				}
				const dram = Buffer.from(sev.dram.buffer, sev.dram.byteOffset, sev.dram.byteLength);
				for (const canary of canaries) expect(dram.includes(canary)).toBe(false);
			}
			for (const message of link.seen)
				for (const canary of canaries) expect(Buffer.from(message).includes(canary)).toBe(false);
		};
		look();
		await migrate(two);
		look();
		turns(target, 40);
		look();
		// They are there all the same.
		const plain = target.read(HelperGeometry.resume, PAGE);
		expect(Buffer.from(plain).includes(canaries[0] ?? expect.fail())).toBe(true);
		for (const at of saveAreasOf(2)) expect(target.read(at, PAGE).every((byte) => byte === 0)).toBe(true);
		expect(source.turn(0, 5)).toBe(0);
		expect(source.threads[0]?.fault?.code).toBe('translation');
	});
});

const ENVELOPE = 8;
/** A record of a vCPU in its envelope: u32 command, u32 argument, then the record. */
const isVcpu = (message: Uint8Array): boolean =>
	new DataView(message.buffer, message.byteOffset).getUint32(0, true) === HelperCommand.restoreVcpu;

describe('vCPU records on their way', () => {
	const refused = async (
		tamper: (message: Uint8Array) => readonly Uint8Array[],
		code: string,
		command = 'restoreVcpu',
	): Promise<void> => {
		const two = pair();
		two.link.state.tamper = tamper;
		await two.link.copy(() => workABit(two.source));
		await expect(two.link.helper.prove(two.link.peer)).rejects.toMatchObject({ name: 'HelperError', command, code });
		// The target never runs, and the source is as it was.
		expect(two.link.state.runs).toBe(0);
		turns(two.target);
		expect(resumeOf(two.target, 0)[0]).toBe(ResumeState.mhReady);
		two.link.helper.failed();
		expect(Buffer.compare(done(two.source), stillMemory())).toBe(0);
	};

	it.each([
		[0, 'length'],
		[0x48, 'length'],
		[0x30, 'authentication'],
		[80, 'authentication'],
		[80 + 0x178, 'authentication'],
		[80 + 4095, 'authentication'],
	])('altered at byte %i: refused as %s', async (offset, code) => {
		const at = ENVELOPE + offset;
		await refused((message) => {
			if (isVcpu(message)) message[at] = (message[at] ?? 0) ^ 1;
			return [message];
		}, code);
	});
	it('dropped: the proof fails', async () => {
		let count = 0;
		await refused((message) => (isVcpu(message) && count++ === 1 ? [] : [message]), 'incomplete', 'verify');
	});
	it('repeated: refused', async () => {
		await refused((message) => (isVcpu(message) ? [message, message] : [message]), 'order');
	});
	it('swapped: refused, with the numbers as they were and with the numbers swapped', async () => {
		for (const renumber of [false, true]) {
			const kept: Uint8Array[] = [];
			await refused((message) => {
				if (!isVcpu(message)) return [message];
				kept.push(message);
				if (kept.length < 2) return [];
				const swapped = kept.reverse();
				if (renumber) for (const [i, one] of swapped.entries()) new DataView(one.buffer).setUint32(4, i, true);
				return swapped;
			}, 'order');
		}
	});
});

describe('a target that cannot go on never runs', () => {
	const fails = async (
		o: Partial<EsOptions>,
		problem: keyof typeof ResumeProblem,
		before?: (two: ReturnType<typeof pair>) => void,
	) => {
		const two = pair(o);
		before?.(two);
		await migrate(two);
		turns(two.target);
		const states = [0, 1].map((vcpu) => resumeOf(two.target, vcpu));
		expect(states.map(([state]) => state)).toEqual([ResumeState.failed, ResumeState.failed]);
		expect(states.map(([, reason]) => reason)).toContain(ResumeProblem[problem]);
		const running = ['mh.resume.enter', 'work.step'].map((label) => two.target.program.address(label));
		for (const rips of two.target.trace) for (const rip of running) expect(rips).not.toContain(rip);
	};
	const PDPT = GUEST + PAGE;

	it('the source’s tables do not map the trampoline, or not as it needs it', async () => {
		await fails({ spoil: (cpu) => cpu.storeU64(PDPT + 24, 0n) }, 'notMapped');
		// Not executable: bit 63.
		await fails({ spoil: (cpu) => cpu.storeU64(PDPT + 24, cpu.loadU64(PDPT + 24) | (1n << 63n)) }, 'notMapped');
	});
	it('the kernel has it at another address than the firmware was told', async () => {
		await fails({ resume: { directMap: 2 ** 39 } }, 'notMapped');
	});
	it('the descriptor of its task is not the task’s', async () => {
		await fails({ hasTask: true, spoil: (cpu) => cpu.storeU8(GUEST + 0x3045, 0x92) }, 'taskSegment');
	});
});

describe('a source whose save areas cannot be carried goes on itself', () => {
	const refuses = async (two: ReturnType<typeof pair>, expected = stillMemory()): Promise<void> => {
		await two.link.copy(() => workABit(two.source));
		const refusal = { name: 'HelperError', command: 'saveVcpu', code: 'incomplete' };
		await expect(two.link.helper.prove(two.link.peer)).rejects.toMatchObject(refusal);
		two.link.helper.failed();
		expect(Buffer.compare(done(two.source), expected)).toBe(0);
	};
	it('the host shows the helper a page that is none', async () => {
		const two = pair();
		// What is under it: memory of the helper's, zeros.
		expect(two.source.mirror.vm?.unmapSaveArea(gpa(saveAreasOf(2)[1] ?? 0))).toBe(0);
		await refuses(two);
	});
	it('the host shows it a page of the guest’s memory', async () => {
		const two = pair();
		const at = saveAreasOf(2)[1] ?? 0;
		const { mirror, ram } = two.source;
		expect(mirror.vm?.unmapSaveArea(gpa(at))).toBe(0);
		// By the slots, as any host can: the frame of the guest's first page of work.
		const shown = 0x1010000;
		const slot = { flags: 0, memorySize: PAGE };
		const low = { ...slot, slot: 0, guestPhysAddr: gpa(0) };
		expect(mirror.vm?.setUserMemoryRegion({ ...low, memorySize: 0, userspaceAddr: ram.hva })).toBe(0);
		expect(mirror.vm?.setUserMemoryRegion({ ...low, memorySize: at, userspaceAddr: ram.hva })).toBe(0);
		const over = { ...slot, slot: 1, guestPhysAddr: gpa(at), userspaceAddr: (ram.hva + shown) as typeof ram.hva };
		expect(mirror.vm?.setUserMemoryRegion(over)).toBe(0);
		const rest = at + PAGE;
		expect(
			mirror.vm?.setUserMemoryRegion({
				...{ slot: 2, flags: 0, guestPhysAddr: gpa(rest), memorySize: ram.bytes.length - rest },
				userspaceAddr: (ram.hva + rest) as typeof ram.hva,
			}),
		).toBe(0);
		await refuses(two);
	});
});

describe('interruptions', () => {
	it('between all blocks: the vCPU goes on', async () => {
		const expected = stillMemory();
		const two = pair();
		await migrate(two);
		// KVM_RUN of each vCPU ends after every block.
		for (let i = 0; i < 80; i++) expect(two.target.turn(i % 2, 1)).toBe(-4);
		expect(Buffer.compare(done(two.target), expected)).toBe(0);
	});
	it('a host that intercepts an MSR of the save area: an exception before phase 3a, and no guest', async () => {
		const two = pair();
		await migrate(two);
		const range = { flags: 3, base: 0xc0000081, nmsrs: 1, bitmap: new Uint8Array(8) };
		expect(two.target.vm.setMsrFilter({ flags: 0, ranges: [range] })).toBe(0);
		let vcpu = 0;
		while (two.target.turn(vcpu, 1) === -4) vcpu = 1 - vcpu;
		expect(two.target.threads[vcpu]?.fault?.code).toBe('vc');
		expect(resumeOf(two.target, 0)[0]).toBe(ResumeState.trampoline);
	});
	it('PROJECT: the blocks between 3a and 3e end in no instruction that is intercepted', async () => {
		const two = pair({ vcpus: 1 });
		await migrate(two);
		const { program, trace } = two.target;
		turns(two.target, 12);
		const rips = trace[0] ?? [];
		const from = rips.indexOf(program.address('mh.resume.enter'));
		// One after the other in one KVM_RUN each, without an exit to anyone.
		const labels = rips.slice(from, from + 3).map((rip) => program.label(rip));
		expect(labels).toEqual(['mh.resume.enter', 'mh.resume.registers', 'work.step']);
	});
});

describe('what a helper cannot see (docs/threat-model.md)', () => {
	it('a host that shows it the save area of another vCPU: both keys and looks are right, and the guest is not', async () => {
		const expected = stillMemory();
		const two = pair();
		const { mirror, vm } = two.source;
		const [first, second] = saveAreasOf(2).map((at) => gpa(at));
		if (first === undefined || second === undefined) return expect.fail();
		for (const at of [first, second]) expect(mirror.vm?.unmapSaveArea(at)).toBe(0);
		expect(mirror.vm?.mapSaveArea(1, first, vm)).toBe(0);
		expect(mirror.vm?.mapSaveArea(1, second, vm)).toBe(0);
		await migrate(two);
		turns(two.target, 300);
		expect([0, 1].map((vcpu) => resumeOf(two.target, vcpu)[0])).toEqual([ResumeState.running, ResumeState.running]);
		expect(Buffer.compare(two.target.read(GUEST, GUEST_BYTES), expected)).not.toBe(0);
	});
});
