import type { CryptoProvider, RandomSource } from '@cvm/crypto';
import { HelperStatus } from '../mailbox/abi.js';
import type { GuestFrames } from './frames.js';
import type { HelperMemory } from './ports.js';
import type { SessionState, StreamState } from './state.js';

/** What the handler of a command works with. It changes `state`, which is stored if the command succeeds, and nothing otherwise. */
export interface SessionContext {
	readonly memory: HelperMemory;
	readonly provider: CryptoProvider;
	readonly random: RandomSource;
	readonly saveAreas: readonly number[];
	readonly isSaveArea: (page: Uint8Array) => boolean;
	readonly versions: { readonly min: number; readonly max: number };
	readonly capabilities: number;
	readonly frames: GuestFrames;
	readonly state: SessionState;
	/** A place to work on one stream's state. */
	readonly stream: StreamState;
}

/** One command as it came in. */
interface Request {
	readonly input: Uint8Array;
	readonly argument: number;
	readonly stream: number;
}

/** What a handler came to. */
export interface Outcome {
	readonly status: HelperStatus;
	readonly output?: Uint8Array;
	readonly more?: boolean;
	/** Of the guest: closed before the new state counts, opened afterwards. */
	readonly gate?: 'close' | 'open';
}

export type Handler = (context: SessionContext, request: Request) => Outcome;

export const DONE: Outcome = { status: HelperStatus.success };
/** Long work that is not at its end. */
export const MORE: Outcome = { status: HelperStatus.success, more: true };
export const refuse = (status: Exclude<HelperStatus, 0>): Outcome => ({ status });
export const answer = (output: Uint8Array): Outcome => ({ status: HelperStatus.success, output });
