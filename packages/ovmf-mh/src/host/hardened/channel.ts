import { type Infer, PAGE_SIZE } from '@cvm/layout';
import { BATCH_PAGES } from '../../geometry.js';
import {
	commandBlock,
	commandExtension,
	EXTENSION_OFFSET,
	GPA_LIST_OFFSET,
	IO_HEADER_OFFSET,
	MAX_IO_HEADER,
	READY_MAGIC,
	RET_NONE,
} from '../../mailbox/abi.js';
import { HelperError } from './error.js';

/** One helper as its host reaches it: guest memory as it is, which the guest changes whenever it likes. */
export interface HelperPort {
	/** The page at `mailboxOf(helper)`, over a SharedArrayBuffer, 4-byte aligned. */
	readonly mailbox: Uint8Array;
	/** The pages from `bodiesOf(helper)` on: {@link BATCH_PAGES} of them. */
	readonly bodies: Uint8Array;
	/** Wakes the helper's vCPU. Without it a helper that sleeps sees a command at its next tick. */
	readonly kick?: () => void;
}

/** A command for a helper. */
interface Command {
	/** {@link HelperCommand}. */
	readonly nr: number;
	/** Page addresses, with how many of them `count` says. */
	readonly gpas?: Float64Array;
	readonly count?: number;
	/** Header of a record. */
	readonly header?: Uint8Array;
	/** Bodies or a message. */
	readonly input?: Uint8Array;
}

/** Results as they stood at one moment. */
export interface Answer {
	/** i32. */
	readonly status: number;
	readonly detail: number;
	readonly outputLength: number;
}

/** The mailbox of one helper. Nothing in it is read twice, and no length from it is used before it was capped. */
export interface Channel {
	readonly index: number;
	isReady(): boolean;
	/** Whether the helper has a command, also one that was given up: nothing can be posted then. */
	isAtWork(): boolean;
	/** Another one for each command. */
	readonly ticket: number;
	/** Whether a command is posted whose answer was neither collected nor given up. */
	readonly isPosted: boolean;
	/**
	 * @throws HelperError `not-ready`; `busy` while somebody waits for the last command; `timeout` while the helper has one that
	 * was given up
	 */
	post(command: Command): void;
	/** Whether the answer to the last command is there; an answer to an earlier one is not. */
	isDone(): boolean;
	/** The answer. @throws HelperError `bad-answer` for more output than there is room for */
	collect(): Answer;
	/** Nobody waits for the last command any more. */
	giveUp(): void;
	/** The header behind its length, copied. @throws HelperError `bad-answer` */
	header(): Uint8Array;
	/** The window, copied. @param out as long as what is wanted */
	copyBodies(out: Uint8Array): void;
}

const word = (offset: number): number => offset / 4;
const block = (field: 'ret' | 'go' | 'done'): number => word(commandBlock.offsetOf(field));
type Extra = Exclude<keyof Infer<typeof commandExtension>, 'pad'>;
const extra = (field: Extra): number => word(EXTENSION_OFFSET + commandExtension.offsetOf(field));
const Word = {
	...{ ret: block('ret'), go: block('go'), done: block('done') },
	...{ sequence: extra('sequence'), echo: extra('echo'), ready: extra('ready'), asleep: extra('asleep') },
	...{ count: extra('count'), inputLength: extra('inputLength') },
	...{ outputLength: extra('outputLength'), detail: extra('detail') },
} as const;
const BODIES_BYTES = BATCH_PAGES * PAGE_SIZE;
const LAST_SEQUENCE = 0xffffffff;

/** @throws RangeError for views of other sizes, or not aligned to 4 bytes */
export function createChannel(port: HelperPort, index: number): Channel {
	const { mailbox, bodies, kick } = port;
	if (mailbox.length !== PAGE_SIZE || bodies.length !== BODIES_BYTES || mailbox.byteOffset % 4 !== 0) {
		throw new RangeError(
			`helper ${index}: expected an aligned page and ${BODIES_BYTES} bytes, got ${mailbox.length} and ${bodies.length}`,
		);
	}
	const words = new Int32Array(mailbox.buffer, mailbox.byteOffset, PAGE_SIZE / 4);
	const view = new DataView(mailbox.buffer, mailbox.byteOffset, PAGE_SIZE);
	const front = new Uint8Array(commandBlock.size);
	let sequence = 0;
	let nr = 0;
	let isPosted = false;
	const load = (at: number): number => Atomics.load(words, at);

	return {
		index,
		get ticket() {
			return sequence;
		},
		get isPosted() {
			return isPosted;
		},
		isReady: () => load(Word.ready) === READY_MAGIC,
		isAtWork: () => load(Word.go) !== 0,
		post: (command) => {
			const { gpas, count = 0, header, input } = command;
			const details = { helper: index, nr: command.nr };
			if (load(Word.ready) !== READY_MAGIC) {
				throw new HelperError('not-ready', { ...details, expected: 'a helper that is ready', got: 'none' });
			}
			if (isPosted || load(Word.go) !== 0) {
				const code = isPosted ? 'busy' : 'timeout';
				throw new HelperError(code, { ...details, expected: 'an idle helper', got: 'one at work' });
			}
			nr = command.nr;
			sequence = sequence === LAST_SEQUENCE ? 1 : sequence + 1;
			if (input !== undefined) bodies.set(input);
			if (header !== undefined) {
				view.setUint32(IO_HEADER_OFFSET, header.length, true);
				mailbox.set(header, IO_HEADER_OFFSET + 4);
			}
			if (gpas !== undefined) {
				for (let i = 0; i < count; i++) {
					const gpa = gpas[i] ?? 0;
					view.setUint32(GPA_LIST_OFFSET + 8 * i, gpa % 2 ** 32, true);
					view.setUint32(GPA_LIST_OFFSET + 8 * i + 4, gpa / 2 ** 32, true);
				}
			}
			commandBlock.encodeInto(front, { nr: BigInt(nr), gpa: BigInt(gpas?.[0] ?? 0), ret: RET_NONE });
			mailbox.set(front.subarray(0, 4 * Word.go));
			Atomics.store(words, Word.sequence, sequence);
			Atomics.store(words, Word.count, count);
			Atomics.store(words, Word.inputLength, input?.length ?? 0);
			Atomics.store(words, Word.outputLength, 0);
			Atomics.store(words, Word.detail, 0);
			Atomics.store(words, Word.done, 0);
			Atomics.store(words, Word.go, 1);
			isPosted = true;
			if (load(Word.asleep) !== 0) kick?.();
		},
		// A late answer to a command that was given up has another number (K13).
		isDone: () => load(Word.done) !== 0 && load(Word.echo) >>> 0 === sequence,
		collect: () => {
			isPosted = false;
			const outputLength = load(Word.outputLength) >>> 0;
			if (outputLength > BODIES_BYTES) {
				throw new HelperError('bad-answer', {
					...{ helper: index, nr, expected: `at most ${BODIES_BYTES} bytes`, got: `${outputLength}` },
				});
			}
			return { status: load(Word.ret), detail: load(Word.detail) >>> 0, outputLength };
		},
		giveUp: () => {
			isPosted = false;
		},
		header: () => {
			const length = view.getUint32(IO_HEADER_OFFSET, true);
			if (length > MAX_IO_HEADER) {
				throw new HelperError('bad-answer', {
					...{ helper: index, nr, expected: `a header of at most ${MAX_IO_HEADER} bytes`, got: `${length}` },
				});
			}
			return mailbox.slice(IO_HEADER_OFFSET + 4, IO_HEADER_OFFSET + 4 + length);
		},
		copyBodies: (out) => out.set(bodies.subarray(0, out.length)),
	};
}
