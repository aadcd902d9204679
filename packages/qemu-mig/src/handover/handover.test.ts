import { fromHex, toHex } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { thrown } from '../../test/streams.js';
import type { SourceInput, SourceState, TargetInput, TargetState } from '../index.js';
import {
	encodeReturnMessage,
	encodeReturnWord,
	mayResume,
	ReturnMessage,
	ReturnPathReader,
	stepSource,
	stepTarget,
} from '../index.js';

describe('the return path', () => {
	it('of a precopy is the 16 bytes real QEMU 7.2 sends: PONG 1, SHUT 0', () => {
		const bytes = [encodeReturnWord(ReturnMessage.pong, 1), encodeReturnWord(ReturnMessage.shut, 0)];
		expect(bytes.map(toHex).join('')).toBe('00020004000000010001000400000000');
	});

	it.each([1, 3, 20, 100])('is read in chunks of %i', (size) => {
		// The worked example of qemu 7.2 migration/migration.c's REQ_PAGES_ID, between SHUT and SWITCHOVER_ACK.
		const request = fromHex('0000000000100000 00001000 06 70632e72616d');
		const all = [
			encodeReturnMessage(ReturnMessage.switchoverAck, new Uint8Array(0)),
			encodeReturnMessage(ReturnMessage.reqPagesId, request),
			encodeReturnWord(ReturnMessage.shut, 7),
		].flatMap((message) => [...message]);
		const seen: string[] = [];
		const reader = new ReturnPathReader((type, data) => seen.push(`${type}:${toHex(data)}`));
		for (let at = 0; at < all.length; at += size) reader.push(Uint8Array.from(all.slice(at, at + size)));
		reader.end();
		expect(seen).toEqual(['7:', `3:${toHex(request)}`, '1:00000007']);
	});

	it.each([
		['type', '0000 0004'],
		['type', '0005 0007'],
		['type', '0008 0000'],
		['type', '4357 0000'],
		['length', '0001 0003'],
		['length', '0007 0001'],
	])('refuses a wrong %s from the header alone: %s', (code, hex) => {
		const reader = new ReturnPathReader(() => {});
		expect(thrown(() => reader.push(fromHex(hex)))).toMatchObject({ name: 'ReturnPathError', code });
	});

	it('refuses to end inside a message', () => {
		const reader = new ReturnPathReader(() => {});
		reader.push(Uint8Array.of(0, 1));
		expect(thrown(() => reader.end())).toMatchObject({ code: 'truncated' });
	});
});

const INPUTS: Record<string, SourceInput> = {
	sent: { type: 'sent' },
	committed: { type: 'committed' },
	pong: { type: 'pong' },
	message: { type: 'message' },
	ack: { type: 'ack' },
	shut0: { type: 'shut', value: 0 },
	shut1: { type: 'shut', value: 1 },
	closed: { type: 'closed' },
	malformed: { type: 'malformed', message: 'x' },
};

describe('the source', () => {
	const legal: Record<string, Record<string, string>> = {
		streaming: { pong: 'streaming', message: 'streaming', sent: 'awaiting-ack' },
		'awaiting-ack': { pong: 'awaiting-ack', message: 'awaiting-ack', ack: 'committing' },
		committing: { pong: 'committing', message: 'committing', committed: 'awaiting-shut' },
		'awaiting-shut': { pong: 'awaiting-shut', message: 'awaiting-shut', shut0: 'completed' },
	};
	const states: SourceState[] = [
		{ at: 'streaming' },
		{ at: 'awaiting-ack' },
		{ at: 'committing' },
		{ at: 'awaiting-shut' },
	];
	for (const state of states) {
		it.each(Object.entries(INPUTS))(`follows its table: ${state.at}, %s`, (name, input) => {
			const next = stepSource('handover', state, input);
			expect(next.at).toBe(legal[state.at]?.[name] ?? 'failed');
			// Only the commit takes the right to run away, and nothing gives it back.
			const committed = state.at === 'awaiting-shut' || next.at === 'awaiting-shut' || next.at === 'completed';
			expect(mayResume(next)).toBe(!committed);
		});
	}

	it('is done, without hand-over, when the target may have everything', () => {
		expect(stepSource('none', { at: 'streaming' }, { type: 'sent' })).toEqual({ at: 'completed' });
		const waiting = stepSource('return-path', { at: 'streaming' }, { type: 'sent' });
		expect(waiting).toEqual({ at: 'awaiting-shut' });
		expect(mayResume(stepSource('return-path', waiting, { type: 'closed' }))).toBe(false);
		expect(mayResume(stepSource('return-path', waiting, { type: 'shut', value: 1 }))).toBe(true);
	});

	it('stays where it ended', () => {
		const ends: SourceState[] = [{ at: 'completed' }, { at: 'failed', code: 'target', message: '', mayResume: true }];
		for (const end of ends) {
			for (const input of Object.values(INPUTS)) expect(stepSource('handover', end, input)).toBe(end);
		}
	});
});

describe('the target', () => {
	const legal: Record<string, Record<string, [TargetState, string | undefined]>> = {
		loading: { loaded: ['awaiting-commit', 'ack'], message: ['loading', undefined] },
		'awaiting-commit': { commit: ['finishing', undefined], message: ['awaiting-commit', undefined] },
		finishing: { finished: ['running', 'shut-success'] },
	};
	const inputs: TargetInput[] = ['loaded', 'message', 'commit', 'finished', 'failed'];
	for (const state of ['loading', 'awaiting-commit', 'finishing', 'running', 'failed'] satisfies TargetState[]) {
		it.each(inputs)(`follows its table: ${state}, %s`, (input) => {
			const { state: next, reply } = stepTarget(true, state, input);
			const ended = state === 'running' || state === 'failed';
			const otherwise: [TargetState, string | undefined] = ended ? [state, undefined] : ['failed', 'shut-failure'];
			expect([next, reply]).toEqual(legal[state]?.[input] ?? otherwise);
		});
	}

	it('does not wait for a commit without hand-over', () => {
		expect(stepTarget(false, 'loading', 'loaded')).toEqual({ state: 'finishing' });
		expect(stepTarget(false, 'loading', 'message').state).toBe('failed');
	});
});
