import { vi } from 'vitest';
import { createCli } from '../src/cli.js';
import type { Ended } from './processes.js';

/** Runs `cvm …` in this process and takes what it says. */
export async function inProcess(...argv: readonly string[]): Promise<Ended & { readonly code: number }> {
	const said = { stdout: '', stderr: '' };
	const spies = (['stdout', 'stderr'] as const).map((name) =>
		vi.spyOn(process[name], 'write').mockImplementation((text) => {
			said[name] += String(text);
			return true;
		}),
	);
	try {
		const code = await createCli(argv);
		return { code, ...said };
	} finally {
		for (const spy of spies) spy.mockRestore();
	}
}
