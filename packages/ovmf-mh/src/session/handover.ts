import { constantTimeEqual, wipe } from '@cvm/crypto';
import { MAX_HELPERS } from '../geometry.js';
import { HelperPhase, HelperStatus } from '../mailbox/abi.js';
import { wipeSlice } from './digest.js';
import { openMessage, sealMessage } from './message.js';
import { answer, DONE, type Handler, MORE, type Outcome, refuse, type SessionContext } from './outcome.js';
import { areVcpusAtRest } from './rounds.js';
import { MessageType, messageHeader } from './wire.js';

const ANSWERS = { from: messageHeader.offsetOf('answers'), to: messageHeader.size } as const;

/** Ends the session in the state at hand: its keys and all else but the last ABORT and RUNNING. */
function endSession({ memory, state, stream }: SessionContext): void {
	state.endSession();
	// Digests of memory are no keys, but nobody needs them any more.
	for (let i = 0; i < MAX_HELPERS; i++) {
		stream.load(memory, i);
		stream.digest.fill(0);
		stream.digestGroup = 0;
		stream.store(memory, i);
	}
}

/** A token without a body that answers the message whose digest is in `answers`. */
function takeToken({ provider, state }: SessionContext, type: MessageType, input: Uint8Array): HelperStatus {
	const opened = openMessage(provider, state, type, input, state.num('epoch'));
	if (opened.status !== HelperStatus.success) return opened.status;
	if (opened.body.length !== 0) return HelperStatus.length;
	return constantTimeEqual(opened.answers, state.bytes('answers')) ? HelperStatus.success : HelperStatus.authentication;
}

/** `start`: input is READY; the first one commits the source, later ones get the same START. */
export const start: Handler = (context, { input }) => {
	const { provider, state } = context;
	const digest = provider.digest('sha256', input);
	if (state.num('phase') === HelperPhase.committed) {
		const isSame = input.length === 0 || constantTimeEqual(digest, state.bytes('ready'));
		return isSame ? answer(state.bytes('start').slice()) : refuse(HelperStatus.authentication);
	}
	const status = takeToken(context, MessageType.ready, input);
	if (status !== HelperStatus.success) return refuse(status);
	// A vCPU that ran since then is ahead of its copy: no START for that one.
	if (!areVcpusAtRest(context)) return refuse(HelperStatus.incomplete);
	const message = sealMessage(provider, state, MessageType.start, { answers: digest });
	state.bytes('ready').set(digest);
	state.bytes('start').set(message);
	state.bytes('answers').set(provider.digest('sha256', message));
	return answer(message);
};

/** `run`: input is START; the first one lets the guest run here, later ones get the same RUNNING. */
export const run: Handler = (context, { input }) => {
	const { provider, state } = context;
	const digest = provider.digest('sha256', input);
	if (state.num('phase') === HelperPhase.idle) {
		const running = state.bytes('running');
		const isSame = state.has('running') && constantTimeEqual(running.subarray(ANSWERS.from, ANSWERS.to), digest);
		return isSame ? answer(running.slice()) : refuse(HelperStatus.phase);
	}
	const status = takeToken(context, MessageType.start, input);
	if (status !== HelperStatus.success) return refuse(status);
	const message = sealMessage(provider, state, MessageType.running, { answers: digest });
	endSession(context);
	wipe(state.bytes('abort'));
	state.bytes('running').set(message);
	return { ...answer(message), gate: 'open' };
};

/** `retire`: input is RUNNING. The keys go first, at once; then the guest's memory, in slices. */
export const retire: Handler = (context, { input }) => {
	const { state } = context;
	if (state.num('phase') === HelperPhase.retired) {
		return wipeSlice(context) ? MORE : DONE;
	}
	const status = takeToken(context, MessageType.running, input);
	if (status !== HelperStatus.success) return refuse(status);
	endSession(context);
	wipe(state.bytes('abort'), state.bytes('running'));
	return MORE;
};

/** `cancel`: the guest stays. The target's half dies of its own: it never gets START. */
export const cancel: Handler = (context) => {
	endSession(context);
	return { ...DONE, gate: 'open' };
};

/** `abort`: this copy of the guest never runs. */
export const abort: Handler = (context) => {
	const { state } = context;
	const phase = state.num('phase');
	if (phase === HelperPhase.empty) return DONE;
	if (phase !== HelperPhase.aborted) abortSession(context);
	return answer(state.bytes('abort').slice());
};

/** Ends the session and makes its ABORT, in the copy of the state. */
export function abortSession(context: SessionContext): void {
	const { provider, state } = context;
	// A HELLO can be one that somebody recorded: as long as no source proved itself by CONFIRM, the ABORT before stays the one that
	// counts. The source of this session can do without: it has not even begun to send.
	const isUnproven = state.num('phase') === HelperPhase.answered && state.has('abort');
	const message = isUnproven ? undefined : sealMessage(provider, state, MessageType.abort);
	state.endSession();
	if (message !== undefined) state.bytes('abort').set(message);
	state.setNum('phase', HelperPhase.aborted);
}

/** `revive`: input is ABORT: the target gave its word never to run. */
export const revive: Handler = (context, { input }) => {
	const { provider, state } = context;
	const opened = openMessage(provider, state, MessageType.abort, input, state.num('epoch'));
	if (opened.status !== HelperStatus.success) return opened;
	if (opened.body.length !== 0) return refuse(HelperStatus.length);
	endSession(context);
	return { ...DONE, gate: 'open' };
};

/** `reset`: `cancel` or `abort`, whichever it is here. */
export const reset: Handler = (context, request): Outcome => {
	const { state } = context;
	switch (state.num('phase')) {
		case HelperPhase.idle:
		case HelperPhase.empty:
			return DONE;
		case HelperPhase.offered:
		case HelperPhase.sending:
		case HelperPhase.frozen:
		case HelperPhase.proven:
			return cancel(context, request);
		default:
			return abort(context, request);
	}
};
