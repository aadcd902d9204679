/** Where the target's half of the end of a migration stands. */
export type TargetState = 'loading' | 'awaiting-commit' | 'finishing' | 'running' | 'failed';

/** What can happen to it. */
export type TargetInput =
	/** Everything of the stream is in place. */
	| 'loaded'
	/** A message of the source's in-guest helper arrived and was taken. */
	| 'message'
	/** COMMAND 0x4356 arrived. */
	| 'commit'
	/** The finish callback succeeded: the guest runs. */
	| 'finished'
	/** Malformed input, a refusal, a failed callback, or the end of the connection. */
	| 'failed';

/** A message to send on the return path, if one is open. */
export type TargetReply = 'ack' | 'shut-success' | 'shut-failure';

/** The state after an input, and what to answer. */
export interface TargetStep {
	readonly state: TargetState;
	readonly reply?: TargetReply;
}

/**
 * The target's half of the exchange drawn at {@link stepSource}.
 *
 * ```mermaid
 * stateDiagram-v2
 *   [*] --> loading
 *   loading --> loading: message
 *   awaiting_commit --> awaiting_commit: message
 *   loading --> awaiting_commit: loaded, hand-over / SWITCHOVER_ACK
 *   loading --> finishing: loaded, no hand-over
 *   awaiting_commit --> finishing: commit
 *   finishing --> running: finished / SHUT 0
 *   loading --> failed: failed / SHUT 1
 *   awaiting_commit --> failed: failed / SHUT 1
 *   finishing --> failed: failed / SHUT 1
 * ```
 *
 * | State | Input | Next | Reply |
 * | --- | --- | --- | --- |
 * | loading, awaiting-commit | message, hand-over | unchanged | |
 * | loading | loaded, hand-over | awaiting-commit | SWITCHOVER_ACK |
 * | loading | loaded, no hand-over | finishing | |
 * | awaiting-commit | commit | finishing | |
 * | finishing | finished | running | SHUT 0 |
 * | loading, awaiting-commit, finishing | failed or any other input | failed | SHUT 1 |
 * | running, failed | any | unchanged | |
 */
export function stepTarget(handover: boolean, state: TargetState, input: TargetInput): TargetStep {
	const open = state === 'loading' || state === 'awaiting-commit';
	if (input === 'message' && handover && open) return { state };
	switch (state) {
		case 'loading':
			if (input === 'loaded') return handover ? { state: 'awaiting-commit', reply: 'ack' } : { state: 'finishing' };
			return { state: 'failed', reply: 'shut-failure' };
		case 'awaiting-commit':
			if (input === 'commit') return { state: 'finishing' };
			return { state: 'failed', reply: 'shut-failure' };
		case 'finishing':
			if (input === 'finished') return { state: 'running', reply: 'shut-success' };
			return { state: 'failed', reply: 'shut-failure' };
		case 'running':
		case 'failed':
			return { state };
	}
}
