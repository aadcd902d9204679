import { Failure } from '../exit.js';

/** What a library throws for a stream that it can not take. */
const REFUSALS: readonly string[] = ['StreamError', 'CodecError', 'DescriptionError', 'DeviceStateError', 'ImageError'];

/** An error that is about what was read. */
export interface Refusal extends Error {
	readonly code: string;
	readonly offset?: number;
	readonly section?: string | undefined;
	readonly qemu?: readonly string[];
	readonly strerror?: string;
}

export const isRefusal = (error: unknown): error is Refusal => error instanceof Error && REFUSALS.includes(error.name);

/** Runs what judges contents of a file. @throws Failure in its words, behind the name of the file */
export async function judged<T>(name: string, work: () => T | Promise<T>): Promise<T> {
	try {
		return await work();
	} catch (error) {
		if (!isRefusal(error)) throw error;
		throw new Failure(`${name}: ${error.message}`);
	}
}
