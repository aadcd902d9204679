import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { run } from './programs.js';

/** Where a member stands: offset and size in bytes. */
export type Place = readonly [offset: number, size: number];

/** What to ask a C compiler: structures with their members, and constants. */
export interface Questions {
	readonly structs?: Readonly<Record<string, readonly string[]>>;
	readonly constants?: readonly string[];
}

/** What the compiler says. A constant of C's `int` may be negative. */
interface Answers {
	readonly structs: Readonly<
		Record<string, { readonly size: number; readonly members: Readonly<Record<string, Place>> }>
	>;
	readonly constants: Readonly<Record<string, number>>;
}

/** Compiles a program over some headers that prints sizes, offsets and values, and runs it. */
export function askCompiler(
	folder: string,
	includes: string,
	{ structs = {}, constants = [] }: Questions,
	...flags: string[]
) {
	const member = (type: string, name: string) =>
		`printf("\\"${name}\\": [%zu, %zu]", offsetof(${type}, ${name}), sizeof(((${type} *)0)->${name}));`;
	const comma = 'printf(", ");';
	const prints = [
		'printf("{\\"structs\\": {");',
		Object.entries(structs)
			.map(([name, members]) =>
				[
					`printf("\\"${name}\\": {\\"size\\": %zu, \\"members\\": {", sizeof(struct ${name}));`,
					members.map((m) => member(`struct ${name}`, m)).join(comma),
					'printf("}}");',
				].join('\n'),
			)
			.join(comma),
		'printf("}, \\"constants\\": {");',
		constants.map((name) => `printf("\\"${name}\\": %lld", (long long)(${name}));`).join(comma),
		'printf("}}");',
	];
	const source = join(folder, 'ask.c');
	const program = join(folder, 'ask');
	writeFileSync(
		source,
		`#include <stdio.h>\n#include <stddef.h>\n${includes}\nint main(void) {\n${prints.join('\n')}\nreturn 0;\n}\n`,
	);
	run('gcc', ['-std=gnu11', '-Wall', '-Werror', ...flags, '-o', program, source]);
	return JSON.parse(run(program, [])) as Answers;
}

/**
 * Fetches the kernel's own headers, which no package for programs has, and takes `include/linux/psp-sev.h` and the user
 * header of the same kernel out of them. @returns the include folder
 */
export function kernelHeaders(folder: string): string {
	const meta = run('apt-cache', ['depends', 'linux-headers-amd64']);
	const versioned = /Depends: (linux-headers-\S+)-amd64/.exec(meta)?.[1];
	if (versioned === undefined) throw new Error(`linux-headers-amd64: expected a dependency on a version, got ${meta}`);
	run('sh', [
		'-c',
		'cd "$1" && apt-get download -q -o APT::Sandbox::User=root "$2"',
		'sh',
		folder,
		`${versioned}-common`,
	]);
	const deb = readdirSync(folder).find((name) => name.startsWith(versioned) && name.endsWith('.deb'));
	if (deb === undefined) throw new Error(`${versioned}-common: expected a .deb, got none`);
	// Piped, because the whole package is big and two files of it are wanted.
	const extract =
		'dpkg-deb --fsys-tarfile "$1" | tar -x -C "$2" --wildcards "*/include/linux/psp-sev.h" "*/include/uapi/linux/psp-sev.h"';
	run('sh', ['-c', extract, 'sh', join(folder, deb), folder]);
	return join(folder, 'usr/src', `${versioned}-common`, 'include');
}

/** What a header of the kernel takes for granted. */
export const KERNEL_WORDS = `
#include <linux/types.h>
#define u8 __u8
#define u32 __u32
#define u64 __u64
#define __packed __attribute__((packed))
#define CONFIG_CRYPTO_DEV_SP_PSP 1
struct file;
`;
