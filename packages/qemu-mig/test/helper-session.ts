import { PAGE_SIZE } from '@cvm/layout';
import type { EmitHelperPage, HelperPeer, PageHelper, PageHelperTarget } from '../src/index.js';
import type { FakeSource } from '../src/testing.js';
import { createFakeSource } from '../src/testing.js';

const text = (message: Uint8Array): string => new TextDecoder().decode(message);
const bytes = (message: string): Uint8Array => new TextEncoder().encode(message);

type Hook = 'open' | 'seal' | 'epoch' | 'freeze' | 'prove' | 'commit' | 'conclude';
type Access = (block: number, page: number) => Uint8Array;

export interface SessionOptions {
	readonly batchPages?: number;
	/** Pages that stay inside until more are asked for, or a flush. */
	readonly depth?: number;
	/** The hook that throws, before it does anything. */
	readonly refuse?: Hook;
	/** The answer that the hook refuses after it has come. */
	readonly refuseAnswer?: 'ACCEPT' | 'READY' | 'RUNNING';
}

/**
 * A source's helper without cryptography: its session is a few words, its records say which page of which epoch they are.
 * Notices calls out of order, overlapping ones, and a page sealed twice in an epoch.
 */
class SessionHelper implements PageHelper {
	state: 'idle' | 'sending' | 'frozen' | 'proven' | 'committed' | 'retired' = 'idle';
	readonly log: string[] = [];
	readonly batches: number[] = [];
	failures = 0;
	readonly batchPages: number;
	readonly #o: SessionOptions;
	readonly #access: Access;
	readonly #inside: { block: number; page: number; header: Uint8Array; bytes: Uint8Array }[] = [];
	readonly #sealed = new Set<string>();
	#epoch = 0;
	#records = 0;
	#busy = false;

	constructor(access: Access, options: SessionOptions = {}) {
		this.#access = access;
		this.#o = options;
		this.batchPages = options.batchPages ?? 1;
	}

	seal(block: number, pages: Uint32Array, count: number, emit: EmitHelperPage): void {
		this.#enter('seal', 'sending', 'frozen');
		this.log.push('seal');
		this.batches.push(count);
		for (const page of pages.subarray(0, count)) {
			const key = `${block}:${page}`;
			if (this.#sealed.has(key)) throw new Error(`session helper: expected page ${key} once in an epoch`);
			this.#sealed.add(key);
			const header = bytes(JSON.stringify([this.#records++, this.#epoch, block, page]));
			this.#inside.push({ block, page, header, bytes: this.#access(block, page).map((byte) => byte ^ 0xff) });
		}
		this.#emit(this.#o.depth ?? 0, emit);
	}

	flush(emit: EmitHelperPage): void {
		this.log.push('flush');
		this.#emit(0, emit);
	}

	async open(peer: HelperPeer): Promise<void> {
		await this.#hook('open', ['idle'], async () => {
			peer.send(bytes('HELLO'));
			await this.#answer(peer, 'ACCEPT');
			peer.send(bytes('CONFIRM'));
			this.state = 'sending';
		});
	}

	epoch(peer: HelperPeer): void {
		this.#enter('epoch', 'sending');
		this.log.push('epoch');
		if (this.#inside.length > 0) throw new Error('session helper: expected a flush before the epoch');
		this.#sealed.clear();
		peer.send(bytes(`EPOCH ${++this.#epoch} ${this.#records}`));
	}

	freeze(): void {
		this.#enter('freeze', 'sending');
		this.log.push('freeze');
		this.state = 'frozen';
	}

	async prove(peer: HelperPeer): Promise<void> {
		await this.#hook('prove', ['frozen'], async () => {
			peer.send(bytes(`MANIFEST ${this.#epoch} ${this.#records}`));
			await this.#answer(peer, 'READY');
			this.state = 'proven';
		});
	}

	async commit(peer: HelperPeer): Promise<void> {
		await this.#hook('commit', ['proven'], async () => {
			await Promise.resolve();
			this.state = 'committed';
			peer.send(bytes('START'));
		});
	}

	async conclude(peer: HelperPeer): Promise<void> {
		await this.#hook('conclude', ['committed'], async () => {
			await this.#answer(peer, 'RUNNING');
			this.state = 'retired';
		});
	}

	failed(): void {
		if (this.#busy) throw new Error('session helper: expected no hook at work');
		this.failures++;
		this.log.push('failed');
		if (this.state !== 'committed' && this.state !== 'retired') this.state = 'idle';
	}

	/** Whether the guest may run here. */
	get holdsGuest(): boolean {
		return this.state !== 'committed' && this.state !== 'retired';
	}

	#emit(keep: number, emit: EmitHelperPage): void {
		while (this.#inside.length > keep) {
			const record = this.#inside.shift();
			if (record !== undefined) emit(record.block, record.page, record.header, record.bytes);
		}
	}

	#enter(hook: Hook, ...states: readonly string[]): void {
		if (this.#o.refuse === hook) throw new Error(`session helper: told to refuse ${hook}`);
		if (!states.includes(this.state)) throw new Error(`session helper: ${hook} while ${this.state}`);
		if (this.#busy) throw new Error(`session helper: ${hook} while another hook is at work`);
	}

	async #hook(hook: Hook, states: readonly string[], work: () => Promise<void>): Promise<void> {
		this.#enter(hook, ...states);
		this.log.push(hook);
		this.#busy = true;
		try {
			await work();
		} finally {
			this.#busy = false;
		}
	}

	async #answer(peer: HelperPeer, expected: 'ACCEPT' | 'READY' | 'RUNNING'): Promise<void> {
		const got = text(await peer.receive());
		if (got === 'ABORT' && expected === 'RUNNING') {
			this.state = 'idle';
			throw Object.assign(new Error('session helper: the target gave up'), { name: 'HelperRevived' });
		}
		if (got !== expected || this.#o.refuseAnswer === expected) throw new Error(`session helper: refuses ${got}`);
	}
}

/** The counterpart of {@link SessionHelper}. */
export class SessionTarget implements PageHelperTarget {
	state: 'empty' | 'answered' | 'receiving' | 'verified' | 'owner' | 'aborted' = 'empty';
	readonly log: string[] = [];
	failures = 0;
	/** The message that is refused. */
	refuse: string | undefined;
	readonly #access: Access;
	readonly #gathered: { header: number[]; block: number; page: number; bytes: Uint8Array }[] = [];
	#epoch = 0;
	#records = 0;

	constructor(access: Access) {
		this.#access = access;
	}

	open(block: number, page: number, header: Uint8Array, data: Uint8Array): void {
		if (this.state !== 'receiving') throw new Error(`session target: page while ${this.state}`);
		this.#gathered.push({ header: JSON.parse(text(header)) as number[], block, page, bytes: data.slice() });
	}

	flush(): void {
		for (const { header, block, page, bytes: data } of this.#gathered.splice(0)) {
			const [record, epoch, ...place] = header;
			if (record !== this.#records++ || epoch !== this.#epoch || place[0] !== block || place[1] !== page) {
				throw new Error(`session target: expected record ${this.#records - 1} of epoch ${this.#epoch}, got ${header}`);
			}
			this.#access(block, page).set(data.map((byte) => byte ^ 0xff));
		}
	}

	message(data: Uint8Array, reply: (message: Uint8Array) => void): void {
		if (this.#gathered.length > 0) throw new Error('session target: expected a flush before the message');
		const [word = '', epoch, records] = text(data).split(' ');
		this.log.push(word);
		if (this.refuse === word) throw new Error(`session target: told to refuse ${word}`);
		const totals = (): void => {
			if (Number(epoch) !== this.#epoch || Number(records) !== this.#records) {
				throw new Error(`session target: expected epoch ${this.#epoch}, record ${this.#records}, got ${text(data)}`);
			}
		};
		switch (`${this.state} ${word}`) {
			case 'empty HELLO':
				this.state = 'answered';
				reply(bytes('ACCEPT'));
				return;
			case 'answered CONFIRM':
				this.state = 'receiving';
				return;
			case 'receiving EPOCH':
				this.#epoch++;
				totals();
				return;
			case 'receiving MANIFEST':
				totals();
				this.state = 'verified';
				reply(bytes('READY'));
				return;
			case 'verified START':
				this.state = 'owner';
				reply(bytes('RUNNING'));
				return;
			default:
				throw new Error(`session target: ${word} while ${this.state}`);
		}
	}

	failed(reply: (message: Uint8Array) => void): void {
		this.failures++;
		if (this.state === 'owner') return;
		this.state = 'aborted';
		reply(bytes('ABORT'));
	}
}

export interface SessionSource extends Omit<FakeSource, 'helper' | 'sealer'> {
	readonly helper: SessionHelper;
}

/** A source whose private pages a {@link SessionHelper} seals. */
export function sessionSource(blocks: FakeSource['blocks'], options?: SessionOptions): SessionSource {
	const { helper: _, sealer: __, ...source } = createFakeSource({ blocks, confidential: 'helper' });
	const helper = new SessionHelper((block, page) => source.plainPage(block, page), options);
	return { ...source, helper };
}

/** Its memory, to be given to a {@link SessionTarget}. */
export const pagesOf =
	(memory: readonly Uint8Array[]): Access =>
	(block, page) =>
		(memory[block] ?? new Uint8Array(0)).subarray(page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
