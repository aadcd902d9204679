import { execFile } from 'node:child_process';
import { createHash, randomUUID } from 'node:crypto';
import { accessSync, constants, existsSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { DevsevError } from './error.js';

const run = promisify(execFile);

/** Where the C source is: beside a bundle, in the published package, in the repository. */
const SOURCES = ['./shim', '../shim', '../../shim'];
const SOURCE = 'devsev.c';
const HEADER = 'exchange.h';
const COMPILERS = ['cc', 'gcc', 'clang'];
const FLAGS = ['-shared', '-fPIC', '-O2', '-fvisibility=hidden', '-U_FORTIFY_SOURCE'];
const LIBRARIES = ['-ldl', '-pthread'];

/** The first of some files beside this module that exists. @throws Error naming them all if none does */
export function besideThisModule(candidates: readonly string[]): string {
	const paths = candidates.map((name) => fileURLToPath(new URL(name, import.meta.url)));
	const found = paths.find((path) => existsSync(path));
	if (found === undefined)
		throw new DevsevError('system', `incomplete installation: expected one of ${paths.join(', ')}`);
	return found;
}

/** The file that a shell would run for `program`; `undefined` if there is none in the PATH. */
export function findInPath(program: string): string | undefined {
	const places = program.includes('/')
		? ['']
		: (process.env['PATH'] ?? '').split(delimiter).map((dir) => `${dir || '.'}/`);
	return places.map((place) => place + program).find((path) => isExecutable(path));
}

function isExecutable(path: string): boolean {
	try {
		accessSync(path, constants.X_OK);
		return true;
	} catch {
		return false;
	}
}

/** The system's compiler as a command with its first arguments. @throws DevsevError `compiler` */
function chooseCompiler(wanted: string | undefined): readonly string[] {
	const given = (wanted ?? process.env['CC'] ?? '').split(/\s+/).filter((word) => word !== '');
	const [program] = given;
	if (program !== undefined) {
		if (findInPath(program) !== undefined) return given;
		throw new DevsevError(
			'compiler',
			`${program}: no such C compiler (from ${wanted === undefined ? '$CC' : 'compiler'})`,
		);
	}
	const found = COMPILERS.find((name) => findInPath(name) !== undefined);
	if (found !== undefined) return [found];
	throw new DevsevError(
		'compiler',
		`no C compiler: the software /dev/sev builds a small C library; expected ${COMPILERS.join(', ')} in the PATH, ` +
			'or $CC (Debian: apt install gcc libc6-dev)',
	);
}

/**
 * Compiles the shim, unless `folder` has it already.
 *
 * @param wanted a compiler, with arguments separated by blanks; by default $CC, cc, gcc or clang
 * @returns the path of the library
 * @throws DevsevError `compiler`
 */
export async function compileShim(folder: string, wanted?: string): Promise<string> {
	const sources = besideThisModule(SOURCES);
	const source = join(sources, SOURCE);
	const hash = createHash('sha256');
	for (const name of [SOURCE, HEADER]) hash.update(readFileSync(join(sources, name)));
	if (wanted !== undefined) hash.update(wanted);
	const library = join(folder, `shim-${hash.digest('hex').slice(0, 16)}.so`);
	if (existsSync(library)) return library;
	const [program = '', ...first] = chooseCompiler(wanted);
	// Others may compile the same file at the same time; who renames last wins, and all are equal.
	const fresh = `${library}.${randomUUID()}`;
	try {
		await run(program, [...first, ...FLAGS, '-o', fresh, source, ...LIBRARIES]);
		renameSync(fresh, library);
	} catch (error) {
		rmSync(fresh, { force: true });
		const { stderr, message } = error as Error & { stderr?: string };
		const lines = (stderr || message).trim().split('\n');
		const line = lines.find((text) => /error/i.test(text)) ?? lines[0];
		throw new DevsevError('compiler', `${program} could not compile ${source}: ${line}`);
	}
	return library;
}
