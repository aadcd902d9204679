import { HelperCommand, HelperStatus, statusName } from '../../mailbox/abi.js';

/** What a helper, or the host for it, can refuse with. */
export type HelperErrorCode =
	| keyof typeof HelperStatus
	/** No result came in time, or an earlier command is still with the helper. */
	| 'timeout'
	/** The helper does not take commands yet. */
	| 'not-ready'
	/** The helper's answer is none: a length, count or status that the host does not accept from a guest. */
	| 'bad-answer'
	/** What came from the other host is no record or message. */
	| 'bad-record'
	/** The session was given up, by the other helper or by this host, while a result was waited for. */
	| 'aborted';

/** The name of a command, for messages. */
const commandName = (nr: number): string =>
	Object.entries(HelperCommand).find(([, value]) => value === nr)?.[0] ?? `command ${nr}`;

/** What a {@link HelperError} is about. */
export interface HelperErrorDetails {
	readonly helper?: number;
	/** {@link HelperCommand}. */
	readonly nr?: number;
	/** Guest-physical address of the page at fault. */
	readonly gpa?: number;
	readonly expected?: string;
	readonly got?: string;
}

/** A helper that did not do what it was asked to. One line, without anything of the guest in it but an address. */
export class HelperError extends Error {
	override readonly name = 'HelperError';
	readonly code: HelperErrorCode;
	readonly command: string | undefined;
	readonly helper: number | undefined;
	readonly gpa: number | undefined;

	constructor(code: HelperErrorCode, details: HelperErrorDetails = {}) {
		const { helper, nr, gpa } = details;
		const command = nr === undefined ? undefined : commandName(nr);
		const who = helper === undefined ? 'migration helper' : `migration helper ${helper}`;
		const what = command === undefined ? '' : `, ${command}`;
		const where = gpa === undefined ? '' : ` of GPA 0x${gpa.toString(16)}`;
		super(`${who}${what}${where}: expected ${details.expected ?? 'success'}, got ${details.got ?? code}`);
		this.code = code;
		this.command = command;
		this.helper = helper;
		this.gpa = gpa;
	}
}

/** The error that a status stands for: a status that no helper may give is a bad answer. */
export function statusError(status: number, details: HelperErrorDetails): HelperError {
	const name = statusName(status);
	if (Object.hasOwn(HelperStatus, name)) return new HelperError(name as keyof typeof HelperStatus, details);
	return new HelperError('bad-answer', { ...details, expected: 'a status', got: name });
}
