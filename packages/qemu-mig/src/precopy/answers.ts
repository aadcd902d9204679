import { ReturnMessage } from '../abi/return-path.js';
import type { DecodedReturn } from '../handover/return-message.js';
import { decodeReturn } from '../handover/return-message.js';
import { ReturnPathReader } from '../handover/return-path.js';
import type { ReturnPathMode, SourceInput, SourceState } from '../handover/source.js';
import { mayResume, stepSource } from '../handover/source.js';
import { PrecopyError } from './failure.js';
import type { HelperInbox } from './helper-inbox.js';
import type { Output } from './output.js';

/** What postcopy makes of the target's messages, once the target may run. */
export interface PostcopyAnswers {
	/** @returns what is wrong with it */
	message(message: DecodedReturn): string | undefined;
	/** The reverse direction ended, or what came cannot be understood. */
	broken(message: string): void;
}

/** The reverse direction of an outgoing migration, and what it says about who may run the guest. */
export class Answers {
	/** Takes over what is no failure in postcopy. */
	postcopy: PostcopyAnswers | undefined;
	readonly #mode: ReturnPathMode;
	readonly #output: Output;
	readonly #bitmaps: boolean;
	readonly #inbox: HelperInbox | undefined;
	#reader: ReturnPathReader;
	#state: SourceState = { at: 'streaming' };
	#changed: () => void = () => {};

	/**
	 * @param bitmaps whether a recovery may ask for some
	 * @param inbox where messages of the target's in-guest helper go; without one they are refused
	 */
	constructor(mode: ReturnPathMode, output: Output, bitmaps: boolean, inbox: HelperInbox | undefined) {
		this.#mode = mode;
		this.#output = output;
		this.#bitmaps = bitmaps;
		this.#inbox = inbox;
		this.#reader = this.#newReader();
	}

	get state(): SourceState {
		return this.#state;
	}

	get mayResume(): boolean {
		return this.postcopy === undefined && mayResume(this.#state);
	}

	push(chunk: Uint8Array): void {
		this.#receive(() => this.#reader.push(chunk));
	}

	end(): void {
		this.#receive(() => {
			this.#reader.end();
			this.step({ type: 'closed' });
		});
	}

	/** Another connection: half a message of the old one is none of it. */
	reconnect(): void {
		this.#reader = this.#newReader();
	}

	step(input: SourceInput): void {
		if (this.postcopy !== undefined && (input.type === 'closed' || input.type === 'malformed')) {
			// Completed is completed, also when the target closes the connection then.
			if (this.#state.at !== 'completed') this.postcopy.broken(input.type === 'malformed' ? input.message : 'closed');
			return;
		}
		this.#state = stepSource(this.#mode, this.#state, input);
		if (this.#state.at === 'failed') {
			const error = new PrecopyError(this.#state.code, this.#state.message);
			this.#output.waiter.interrupt(error);
			this.#inbox?.end(error);
		} else if (input.type === 'closed' || input.type === 'malformed') {
			this.#inbox?.end(new PrecopyError('return-path', 'return path: expected a message of the helper, got its end'));
		}
		this.#changed();
	}

	/** Resolves after the next change of `state`. */
	changed(): Promise<void> {
		return new Promise((resolve) => {
			this.#changed = resolve;
		});
	}

	#receive(work: () => void): void {
		if (this.#mode === 'none') return;
		try {
			work();
		} catch (error) {
			this.step({ type: 'malformed', message: error instanceof Error ? error.message : 'an error' });
		}
	}

	#newReader(): ReturnPathReader {
		return new ReturnPathReader((type, data, bitmap) => this.#message(type, data, bitmap), {
			bitmaps: this.#bitmaps,
			helperMessages: this.#inbox !== undefined,
		});
	}

	#message(type: number, data: Uint8Array, bitmap: Uint8Array | undefined): void {
		const message = decodeReturn(type, data, bitmap);
		switch (message?.type) {
			case ReturnMessage.pong:
				this.step({ type: 'pong' });
				return;
			case ReturnMessage.switchoverAck:
				this.step({ type: 'ack' });
				return;
			case ReturnMessage.shut:
				this.step({ type: 'shut', value: message.value });
				return;
		}
		if (message?.type === ReturnMessage.helperMessage && this.#inbox !== undefined) {
			const fault = this.#inbox.push(message.message.slice());
			this.step(fault === undefined ? { type: 'message' } : { type: 'malformed', message: fault });
			return;
		}
		const { postcopy } = this;
		const fault = message === undefined || postcopy === undefined ? `message type ${type}` : postcopy.message(message);
		if (fault !== undefined) this.step({ type: 'malformed', message: fault });
	}
}
