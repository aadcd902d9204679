/** What the suite needs of a test framework; Vitest's and Jest's functions fit. */
export interface TestFramework {
	describe(name: string, body: () => void): unknown;
	it(name: string, body: () => void): unknown;
	expect(actual: unknown): { toBe(expected: unknown): void };
}

/** The `code` of the error that `action` throws, so that a suite can name the reason it expects. */
export function codeOf(action: () => unknown): unknown {
	try {
		action();
	} catch (error) {
		return error instanceof Error && 'code' in error ? error.code : error;
	}
	return 'nothing thrown';
}
