import type { PrecopyErrorCode } from '../precopy/failure.js';

/** How the target answers. */
export type ReturnPathMode =
	/** No answer: the migration is complete when the stream is out. */
	| 'none'
	/** QEMU's capability `return-path`: complete when the target sends SHUT 0. */
	| 'return-path'
	/** This project's extension: the target acknowledges, the source commits, only then does the target run. */
	| 'handover';

/** Where the source's half of the end of a migration stands. */
export type SourceState =
	| { readonly at: 'streaming' }
	/** All is sent; the target has not said that it holds everything. */
	| { readonly at: 'awaiting-ack' }
	/** The commit callback runs. The target cannot run yet. */
	| { readonly at: 'committing' }
	/** The target may be running. */
	| { readonly at: 'awaiting-shut' }
	| { readonly at: 'completed' }
	| {
			readonly at: 'failed';
			readonly code: PrecopyErrorCode;
			readonly message: string;
			readonly mayResume: boolean;
	  };

/** What can happen to it. */
export type SourceInput =
	/** The last byte of the description has been given to the transport, perhaps not yet delivered. */
	| { readonly type: 'sent' }
	/** The commit callback succeeded; the command, or the in-guest helper's commit, is about to be given to the transport. */
	| { readonly type: 'committed' }
	| { readonly type: 'pong' }
	/** A message of the target's in-guest helper, for the source's. What it says changes nothing here. */
	| { readonly type: 'message' }
	| { readonly type: 'ack' }
	| { readonly type: 'shut'; readonly value: number }
	| { readonly type: 'closed' }
	| { readonly type: 'malformed'; readonly message: string };

/**
 * The source's half of the hand-over, an extension of this project: QEMU's own protocol lets the target run as soon as
 * it has read EOF, so a lost SHUT leaves two running copies or none. Here the target first acknowledges, the source
 * gives the guest up (`commit`), and only COMMAND 0x4356 lets the target run.
 *
 * ```mermaid
 * sequenceDiagram
 *   participant S as source
 *   participant T as target
 *   S->>T: configuration (capability x-handover-commit), OPEN_RETURN_PATH, PING 1
 *   T->>S: PONG 1
 *   opt the in-guest helpers hold a session
 *     S->>T: COMMAND 0x4357, messages: agree on keys, end epochs
 *     T->>S: helper messages
 *   end
 *   S->>T: RAM
 *   opt session
 *     S->>T: COMMAND 0x4357: what the target must have
 *     T->>S: helper message: it has
 *   end
 *   S->>T: devices, EOF, VMDESCRIPTION
 *   T->>S: SWITCHOVER_ACK: everything is here, nothing runs
 *   Note over S: commit (SEND_FINISH): the source never runs again
 *   opt session
 *     S->>T: COMMAND 0x4357: the guest is yours
 *     T->>S: helper message: it is
 *   end
 *   S->>T: COMMAND 0x4356
 *   Note over T: finish (RECEIVE_FINISH), run
 *   T->>S: SHUT 0
 * ```
 *
 * | State | Input | Next | May the source run again? |
 * | --- | --- | --- | --- |
 * | any before the end | pong; with hand-over: message | unchanged | as before |
 * | streaming | sent, mode `none` | completed | no |
 * | streaming | sent, mode `return-path` | awaiting-shut | no |
 * | streaming | sent, mode `handover` | awaiting-ack | yes |
 * | awaiting-ack | ack | committing | yes |
 * | committing | committed | awaiting-shut | no |
 * | awaiting-shut | shut 0 | completed | no |
 * | any before the end | shut other than 0 | failed | unless committed |
 * | any before the end | closed, malformed, any other input | failed | as the state it was in |
 *
 * In mode `return-path` QEMU resumes the source when the connection closes before SHUT; this table answers "no",
 * because the target may be running.
 */
export function stepSource(mode: ReturnPathMode, state: SourceState, input: SourceInput): SourceState {
	if (state.at === 'completed' || state.at === 'failed') return state;
	switch (input.type) {
		case 'sent':
			if (state.at === 'streaming') return AFTER_SENT[mode];
			break;
		case 'pong':
			return state;
		case 'message':
			if (mode === 'handover') return state;
			break;
		case 'ack':
			if (state.at === 'awaiting-ack') return { at: 'committing' };
			break;
		case 'committed':
			if (state.at === 'committing') return { at: 'awaiting-shut' };
			break;
		case 'shut':
			if (input.value !== 0) {
				const message = `return path: expected SHUT 0, got SHUT ${input.value}: the target failed`;
				return { at: 'failed', code: 'target', message, mayResume: mode !== 'handover' || mayResume(state) };
			}
			if (state.at === 'awaiting-shut') return { at: 'completed' };
			break;
		case 'closed':
		case 'malformed':
			break;
	}
	const got = input.type === 'malformed' ? input.message : input.type;
	const message = `return path: expected ${EXPECTED[state.at]} while ${state.at}, got ${got}`;
	return { at: 'failed', code: 'return-path', message, mayResume: mayResume(state) };
}

/** Whether it is certain that the target does not and will not run this guest. */
export function mayResume(state: SourceState): boolean {
	if (state.at === 'failed') return state.mayResume;
	return state.at !== 'awaiting-shut' && state.at !== 'completed';
}

const AFTER_SENT = {
	none: { at: 'completed' },
	'return-path': { at: 'awaiting-shut' },
	handover: { at: 'awaiting-ack' },
} as const satisfies Record<ReturnPathMode, SourceState>;

const EXPECTED = {
	streaming: 'PONG',
	'awaiting-ack': 'SWITCHOVER_ACK',
	committing: 'no message',
	'awaiting-shut': 'SHUT 0',
} as const;
