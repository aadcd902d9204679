import { ReturnMessage } from '../abi/return-path.js';
import { encodeReturn } from '../handover/return-message.js';
import type { TargetReply } from '../handover/target.js';
import type { ByteSink } from '../ports.js';
import { describe } from './ram.js';

const REPLIES: Record<TargetReply, () => Uint8Array> = {
	ack: () => encodeReturn({ type: ReturnMessage.switchoverAck }),
	'shut-success': () => encodeReturn({ type: ReturnMessage.shut, value: 0 }),
	'shut-failure': () => encodeReturn({ type: ReturnMessage.shut, value: 1 }),
};

/** The reverse direction of an incoming migration. */
export class LoadAnswers {
	/** Opened by the stream, or by a recovery. */
	open = false;
	#sink: ByteSink | undefined;
	readonly #warnings: string[];

	/** @param warnings where failures are noted */
	constructor(sink: ByteSink | undefined, warnings: string[]) {
		this.#sink = sink;
		this.#warnings = warnings;
	}

	get possible(): boolean {
		return this.#sink !== undefined;
	}

	/** The connection changed; undefined: there is none for now. */
	reconnect(sink: ByteSink | undefined): void {
		this.#sink = sink;
	}

	reply(reply: TargetReply): void {
		if (this.open) this.send(REPLIES[reply]());
	}

	/** The reverse direction is small and rare; its failure shows as the end of the forward one. */
	send(message: Uint8Array): void {
		const failed = (cause: unknown): void => {
			this.#warnings.push(`return path: ${describe(cause)}`);
		};
		try {
			this.#sink?.write(message)?.catch(failed);
		} catch (cause) {
			failed(cause);
		}
	}
}
