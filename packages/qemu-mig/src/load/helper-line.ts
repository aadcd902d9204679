import { ReturnMessage } from '../abi/return-path.js';
import { StreamError } from '../error.js';
import type { Place } from '../events.js';
import { encodeReturn } from '../handover/return-message.js';
import type { PageHelperTarget } from '../ports.js';
import type { LoadAnswers } from './answers.js';
import type { RamLoader } from './ram.js';
import { describe } from './ram.js';

/** The line between the in-guest helper of an incoming migration and that of its source. */
export class HelperLine {
	readonly #helper: PageHelperTarget | undefined;
	readonly #answers: LoadAnswers;
	readonly #ram: RamLoader;
	#failed = false;

	constructor(helper: PageHelperTarget | undefined, answers: LoadAnswers, ram: RamLoader) {
		this.#helper = helper;
		this.#ram = ram;
		this.#answers = answers;
	}

	/** Behind all pages before it. @throws StreamError if nobody takes messages, or the helper refuses this one */
	message(data: Uint8Array, at: Place): void {
		const helper = this.#helper;
		if (helper?.message === undefined) {
			const message = 'HELPER_MESSAGE: expected none on a host without a helper that takes messages, got one';
			throw new StreamError({ code: 'command', message }, at);
		}
		this.#ram.flushHelper(at);
		try {
			helper.message(data, this.#reply);
		} catch (cause) {
			const message = `HELPER_MESSAGE: expected the helper to take it, got ${describe(cause)}`;
			throw new StreamError({ code: 'helper', message, cause }, at);
		}
	}

	/** The load has failed; only the first time counts. */
	failed(): void {
		if (this.#failed) return;
		this.#failed = true;
		try {
			this.#helper?.failed?.(this.#reply);
		} catch {
			// The outcome is decided.
		}
	}

	readonly #reply = (message: Uint8Array): void => {
		const data = encodeReturn({ type: ReturnMessage.helperMessage, message });
		// Without a return path nobody would understand it.
		if (this.#answers.open) this.#answers.send(data);
	};
}
