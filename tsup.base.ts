import type { Options } from 'tsup';

/** Build settings shared by every package: ESM only, one declaration file per entry. */
export const library = (entry: Record<string, string>, extra: Options = {}): Options => ({
	entry,
	format: ['esm'],
	dts: true,
	sourcemap: true,
	clean: true,
	target: 'es2022',
	platform: 'neutral',
	splitting: true,
	silent: true,
	...extra,
});
