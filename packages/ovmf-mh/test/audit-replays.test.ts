import { describe, expect, it } from 'vitest';
import { HelperStatus } from '../src/mailbox/abi.js';
import { handshake, prove, Side } from './session-rig.js';

/** A source that has given its guest up, and the target that holds it. */
function committed() {
	const [s, t] = [new Side('idle'), new Side('empty')];
	handshake(s, t);
	s.must('freeze');
	s.must('start', prove(s, t));
	return { s, t };
}

describe('a HELLO that is sent again, by whoever recorded it', () => {
	it.each(['abort', 'reset'] as const)('costs the source not the ABORT that it may need: %s', (name) => {
		const recorded = new Side('idle').must('hello', undefined, 1);
		const { s, t } = committed();
		const token = t.must('abort');
		t.must('accept', recorded);
		expect(t.must(name)).toEqual(token);
		expect(t.phase).toBe('aborted');
		s.must('revive', token);
		expect([s.phase, s.gate]).toEqual(['idle', 0]);
	});

	it('nor is that ABORT one of a later session', () => {
		const { s, t } = committed();
		const token = t.must('abort');
		s.must('revive', token);
		handshake(s, t);
		s.must('freeze');
		s.must('start', prove(s, t));
		expect(s.command('revive', token).status).toBe(HelperStatus.authentication);
		expect(t.must('abort')).not.toEqual(token);
	});
});
