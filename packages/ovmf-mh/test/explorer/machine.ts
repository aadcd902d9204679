import type { RandomSource } from '@cvm/crypto';
import { PAGE_SIZE } from '@cvm/layout';
import { type GpaRange, HelperGeometry, streamOfFrame } from '../../src/geometry.js';
import { HelperCommand, HelperStatus, helperReport } from '../../src/mailbox/abi.js';
import type { HelperCore, HelperMemory, HelperPlatform } from '../../src/session/ports.js';
import { flipShared, isShared, pageOf } from './guest.js';
import { type Image, Interned, imageKey, nameOf, type PageStore, WorkingMemory, ZERO } from './memory.js';
import { countedRandom, symbolicProvider } from './symbolic.js';

/** How a helper comes to be; tests put one in between that breaks a rule. */
export type MakeCore = (platform: HelperPlatform) => HelperCore;

/** What of a machine counts in a world. Everything but the counters is the guest's memory. */
export interface Local {
	readonly image: Image;
	/** Random numbers drawn so far. */
	readonly draws: number;
	/** Sessions begun as a source and answered as a target, for the limits of a world. */
	readonly hellos: number;
	readonly accepts: number;
	/** Since the last hello. */
	readonly saves: number;
	readonly epochs: number;
}

/** Something that a helper gave out, and that the hosts know from then on. */
export interface Message {
	/** {@link MessageKind}, or `record`. */
	readonly kind: string;
	readonly bytes: Uint8Array;
	/** Of a record. */
	readonly stream: number;
	readonly gpas: readonly number[];
	readonly header: Uint8Array;
	/** Of a vCPU's record. */
	readonly vcpu: number;
	/** Key and IV of every seal that went into it. */
	readonly seals: readonly string[];
}

/** One step of one machine that changes something. */
export interface Outcome {
	/** `accept`, `save/0[1]`, `write[0]`. */
	readonly label: string;
	readonly status: number;
	/** Number of the next {@link Local}. */
	readonly next: number;
	/** Number of a {@link Message}; −1: none. */
	readonly output: number;
	/** Seals of a step without output. */
	readonly seals: readonly string[];
}

/** What a look at a machine tells. */
export interface View {
	readonly phase: number;
	/** The gate is open, which is all that the guest asks: its vCPUs may run. */
	readonly canRun: boolean;
	/** Number of what the guest would find: private pages and page status. */
	readonly content: number;
}

/** Which message goes into which command, and what comes out of it. */
const TAKES: Readonly<Record<string, string>> = {
	accept: 'HELLO',
	confirm: 'ACCEPT',
	establish: 'CONFIRM',
	nextEpoch: 'EPOCH',
	verify: 'MANIFEST',
	start: 'READY',
	run: 'START',
	retire: 'RUNNING',
	revive: 'ABORT',
	restoreVcpu: 'VCPU',
};
const GIVES: Readonly<Record<string, string>> = {
	hello: 'HELLO',
	accept: 'ACCEPT',
	confirm: 'CONFIRM',
	epoch: 'EPOCH',
	manifest: 'MANIFEST',
	verify: 'READY',
	start: 'START',
	run: 'RUNNING',
	abort: 'ABORT',
	reset: 'ABORT',
	saveVcpu: 'VCPU',
};
type Named = keyof typeof HelperCommand;
const TAKING = Object.keys(TAKES) as Named[];
const FREE: readonly Named[] = ['epoch', 'freeze', 'manifest', 'cancel', 'abort', 'reset'];

/** What all machines of a world share. */
export interface Surroundings {
	readonly store: PageStore;
	readonly messages: Interned<Message>;
	readonly contents: Interned<string>;
	readonly ram: readonly GpaRange[];
	/** Private pages that the guest works with. */
	readonly pages: readonly number[];
	readonly streams: number;
	/** Most vCPUs with save areas; none on plain SEV. */
	readonly saveAreas: readonly number[];
	readonly limits: Limits;
	/** Every message into every command, and altered ones. */
	readonly anyInput: boolean;
	/** Each slice of long work is a step of its own, and anything may come in between. */
	readonly inSlices: boolean;
}

interface Limits {
	readonly hellos: number;
	readonly accepts: number;
	/** Records of one session. */
	readonly saves: number;
	readonly epochs: number;
	/** Of all machines together. */
	readonly writes: number;
	readonly shares: number;
}

/**
 * A machine with its helper: a function from a local state and an input to the next, each looked up once. States, messages and
 * contents are numbers of interned values.
 */
export class Machine {
	readonly name: string;
	private readonly world: Surroundings;
	readonly locals = new Interned<Local>();
	readonly start: number;
	private readonly views = new Map<number, View>();
	private readonly freeSteps = new Map<number, readonly Outcome[]>();
	private readonly inputSteps = new Map<number, Map<number, readonly Outcome[]>>();
	private readonly guestSteps = new Map<string, readonly Outcome[]>();
	private seals: string[] = [];
	/** Commands that really ran. */
	ran = 0;
	private memory: HelperMemory;
	private random: RandomSource = countedRandom('', 0);
	/** One core for all states: whatever it keeps besides memory would show. */
	private readonly core: HelperCore;

	constructor(
		name: string,
		role: 'idle' | 'empty',
		world: Surroundings,
		makeCore: MakeCore,
		/** The owner's secret and whatever else stands in memory at first. */
		prepare: (write: (gpa: number, data: Uint8Array) => void) => void,
	) {
		this.name = name;
		this.world = world;
		const memory = new WorkingMemory(world.store, new Map(), world.ram);
		prepare((gpa, data) => memory.write(gpa, data));
		if (role === 'idle') {
			for (const [i, gpa] of [...world.pages, ...world.saveAreas].entries()) memory.write(gpa, pageOf(i + 1));
		}
		const random = countedRandom(name, 0);
		this.memory = memory;
		this.core = makeCore({
			memory: {
				ram: world.ram,
				read: (gpa, out) => this.memory.read(gpa, out),
				write: (gpa, data) => this.memory.write(gpa, data),
				exchange: (gpa, value) => this.memory.exchange(gpa, value),
			},
			provider: symbolicProvider((key, iv) => void this.seals.push(`${key}/${iv}`)),
			random: {
				fill: (out) => this.random.fill(out),
				bytes: (length) => this.random.bytes(length),
			},
			saveAreas: world.saveAreas,
		});
		this.coreOver(memory, random).install(role);
		const counters = { hellos: 0, accepts: 0, saves: 0, epochs: 0 };
		this.start = this.numberOf({ image: memory.result(), draws: random.draws, ...counters });
	}

	view(local: number): View {
		let view = this.views.get(local);
		if (view === undefined) {
			view = this.look(this.locals.at(local));
			this.views.set(local, view);
		}
		return view;
	}

	/** Steps that need nothing of the network. */
	free(local: number): readonly Outcome[] {
		let steps = this.freeSteps.get(local);
		if (steps === undefined) {
			steps = this.findFree(local);
			this.freeSteps.set(local, steps);
		}
		return steps;
	}

	/** Steps that a message allows. */
	given(local: number, message: number): readonly Outcome[] {
		let byMessage = this.inputSteps.get(local);
		if (byMessage === undefined) {
			byMessage = new Map();
			this.inputSteps.set(local, byMessage);
		}
		let steps = byMessage.get(message);
		if (steps === undefined) {
			steps = this.findGiven(local, message);
			byMessage.set(message, steps);
		}
		return steps;
	}

	/** What the guest does if it runs. @param writes how many there were in this world; the next one writes that number */
	guest(local: number, writes: number, shares: number): readonly Outcome[] {
		if (!this.view(local).canRun) return [];
		const key = `${local}/${writes}/${shares}`;
		let steps = this.guestSteps.get(key);
		if (steps === undefined) {
			steps = this.findGuest(local, writes, shares);
			this.guestSteps.set(key, steps);
		}
		return steps;
	}

	/** A control command by its name, for checks that look ahead. */
	control(local: number, command: Named, message?: number): Outcome {
		const input = message === undefined ? new Uint8Array() : this.world.messages.at(message).bytes;
		return this.run(local, command, command, input, 0, 0);
	}

	private findFree(local: number): readonly Outcome[] {
		const { limits, pages, streams, saveAreas } = this.world;
		const before = this.locals.at(local);
		const steps: Outcome[] = [];
		const add = (outcome: Outcome): void => {
			if (outcome.next !== local || outcome.output >= 0) steps.push(outcome);
		};
		const none = new Uint8Array();
		if (before.hellos < limits.hellos) add(this.run(local, 'hello', 'hello', none, streams, 0));
		for (const command of FREE) {
			if (command === 'epoch' && before.epochs >= limits.epochs) continue;
			add(this.run(local, command, command, none, 0, 0));
		}
		for (let s = 0; s < streams; s++) add(this.run(local, `digest/${s}`, 'digest', none, 0, s));
		for (let i = 0; i < saveAreas.length; i++) add(this.run(local, `saveVcpu/${i}`, 'saveVcpu', none, i, 0));
		if (before.saves < limits.saves) {
			for (let s = 0; s < streams; s++) {
				const own = pages.filter((gpa) => streamOfFrame(gpa / PAGE_SIZE, streams) === s);
				for (const gpa of own) add(this.save(local, s, [gpa]));
				if (own.length > 1) add(this.save(local, s, own));
			}
		}
		return steps;
	}

	private findGiven(local: number, message: number): readonly Outcome[] {
		const { limits, anyInput, messages, saveAreas } = this.world;
		const { kind, bytes, vcpu } = messages.at(message);
		const before = this.locals.at(local);
		const steps: Outcome[] = [];
		const add = (outcome: Outcome): void => {
			if (outcome.next !== local || outcome.output >= 0) steps.push(outcome);
		};
		if (kind === 'record') {
			add(this.restore(local, message, false));
			if (anyInput) add(this.restore(local, message, true));
			return steps;
		}
		for (const command of TAKING) {
			if (command === 'accept' && before.accepts >= limits.accepts) continue;
			if (command === 'restoreVcpu' && saveAreas.length === 0) continue;
			const argument = command === 'restoreVcpu' ? vcpu : 0;
			if (TAKES[command] === kind || anyInput) add(this.run(local, command, command, bytes, argument, 0));
			if (TAKES[command] === kind && anyInput) {
				const altered = bytes.slice();
				altered[altered.length - 1] = (altered.at(-1) ?? 0) ^ 1;
				add(this.run(local, `${command}~`, command, altered, argument, 0));
			}
		}
		return steps;
	}

	private findGuest(local: number, writes: number, shares: number): readonly Outcome[] {
		const { limits, pages, ram, store } = this.world;
		const before = this.locals.at(local);
		const steps: Outcome[] = [];
		const add = (label: string, change: (memory: WorkingMemory) => void): void => {
			const memory = new WorkingMemory(store, before.image, ram);
			change(memory);
			const next = this.numberOf({ ...before, image: memory.result() });
			steps.push({ label, status: HelperStatus.success, next, output: -1, seals: [] });
		};
		for (const [i, gpa] of pages.entries()) {
			if (writes < limits.writes) add(`write[${i}]`, (memory) => memory.write(gpa, pageOf(0x100 + writes)));
			if (shares < limits.shares) add(`share[${i}]`, (memory) => flipShared(memory, gpa));
		}
		return steps;
	}

	private save(local: number, stream: number, gpas: readonly number[]): Outcome {
		const header = new Uint8Array(1024);
		const bodies = new Uint8Array(gpas.length * PAGE_SIZE);
		const indices = gpas.map((gpa) => this.world.pages.indexOf(gpa));
		return this.step(local, `save/${stream}[${indices.join()}]`, (core) => {
			const result = core.seal(stream, Float64Array.from(gpas), gpas.length, { header, bodies });
			if (result.status !== HelperStatus.success) return { status: result.status };
			const out = { header: header.slice(0, result.headerLength), bytes: bodies.slice(0, result.bodies * PAGE_SIZE) };
			return { status: result.status, message: { kind: 'record', stream, gpas, vcpu: 0, ...out } };
		});
	}

	private restore(local: number, message: number, isAltered: boolean): Outcome {
		const { stream, gpas, header, bytes } = this.world.messages.at(message);
		const given = header.slice();
		if (isAltered) given[0x30] = (given[0x30] ?? 0) ^ 1;
		return this.step(local, isAltered ? 'restore~' : 'restore', (core) => ({
			status: core.open(stream, Float64Array.from(gpas), gpas.length, given, bytes.slice()).status,
		}));
	}

	private run(
		local: number,
		label: string,
		command: Named,
		input: Uint8Array,
		argument: number,
		stream: number,
	): Outcome {
		return this.step(local, label, (core) => {
			let result = core.control(HelperCommand[command], input.slice(), argument, stream);
			while (result.more && !this.world.inSlices)
				result = core.control(HelperCommand[command], new Uint8Array(), argument, stream);
			const { status, output } = result;
			if (output.length === 0) return { status };
			const kind = GIVES[command] ?? command;
			const none = { gpas: [], header: new Uint8Array() };
			return { status, message: { kind, stream, vcpu: argument, bytes: output.slice(), ...none } };
		});
	}

	private step(
		local: number,
		label: string,
		act: (core: HelperCore) => { status: number; message?: Omit<Message, 'seals'> },
	): Outcome {
		const before = this.locals.at(local);
		const memory = new WorkingMemory(this.world.store, before.image, this.world.ram);
		const random = countedRandom(this.name, before.draws);
		this.seals = [];
		this.ran += 1;
		const { status, message } = act(this.coreOver(memory, random));
		const seals = this.seals;
		const isDone = status === HelperStatus.success;
		const command = label.split('/')[0];
		const counters = {
			hellos: before.hellos + (isDone && command === 'hello' ? 1 : 0),
			accepts: before.accepts + (isDone && command === 'accept' ? 1 : 0),
			saves: isDone && command === 'hello' ? 0 : before.saves + (isDone && command === 'save' ? 1 : 0),
			epochs: isDone && command === 'hello' ? 0 : before.epochs + (isDone && command === 'epoch' ? 1 : 0),
		};
		// A refusal that changed nothing in memory is no step, whatever it drew.
		const image = memory.result();
		const draws = isDone || imageKey(image) !== imageKey(before.image) ? random.draws : before.draws;
		const next = this.numberOf({ image, draws, ...counters });
		const output = message === undefined ? -1 : this.messageNumber({ ...message, seals });
		return { label, status, next, output, seals };
	}

	private coreOver(memory: WorkingMemory, random: RandomSource): HelperCore {
		this.memory = memory;
		this.random = random;
		return this.core;
	}

	private numberOf(local: Local): number {
		const { image, draws, hellos, accepts, saves, epochs } = local;
		return this.locals.number(`${imageKey(image)}/${draws}/${hellos}/${accepts}/${saves}/${epochs}`, () => local);
	}

	private messageNumber(message: Message): number {
		const { kind, stream, gpas, header, bytes, seals } = message;
		const key = `${kind}/${stream}/${gpas.join()}/${nameOf(header)}/${nameOf(bytes)}/${seals.join()}`;
		return this.world.messages.number(key, () => message);
	}

	private look({ image }: Local): View {
		const { store, ram, pages, saveAreas, contents } = this.world;
		const memory = new WorkingMemory(store, image, ram);
		const core = this.coreOver(memory, countedRandom(this.name, 0));
		const report = helperReport.decode(core.control(HelperCommand.query, new Uint8Array(), 0).output);
		const gate = new Uint8Array(4);
		memory.read(HelperGeometry.gate, gate);
		const found = [...pages, ...saveAreas].map((gpa) =>
			isShared(memory, gpa) ? 'shared' : (image.get(gpa / PAGE_SIZE) ?? ZERO),
		);
		const key = found.join();
		return {
			phase: report.phase,
			canRun: gate.every((byte) => byte === 0),
			content: contents.number(key, () => key),
		};
	}
}
