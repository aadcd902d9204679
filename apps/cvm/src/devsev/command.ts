import { existsSync, statSync } from 'node:fs';
import {
	DevsevError,
	findInPath,
	type SevDevice,
	type SevDeviceOptions,
	startSevDevice,
	whyUnreachable,
} from '@cvm/devsev';
import { GENERATIONS, type GenerationName } from '@cvm/sev-hw';
import { Command } from 'commander';
import { Failure, Misuse } from '../exit.js';
import { NOT_EXECUTABLE, runProgram } from './run-program.js';

interface GivenOptions {
	readonly state?: string;
	readonly generation?: string;
}

/** What a shell exits with when there is no such program: POSIX.1-2017, Shell Command Language, 2.8.2. */
const NOT_FOUND = 127;

const GENERATION_NAMES = Object.keys(GENERATIONS);
const isGeneration = (name: string): name is GenerationName => Object.hasOwn(GENERATIONS, name);

/** `cvm devsev`. */
export function devsevCommand(exit: (code: number) => void): Command {
	return new Command('devsev')
		.description('run an unmodified Linux program with a software /dev/sev')
		.option('--state <folder>', 'keep the platform here; runs with the same folder share it (default: a new platform)')
		.option('--generation <name>', `processor of a new platform: ${GENERATION_NAMES.join(', ')} (default: milan)`)
		.argument('<command...>', 'the program and its arguments, after --')
		.addHelpText('after', '\nexample:\n  cvm devsev --state ./platform -- sevctl export --full chain.cert\n')
		.action(async (command: readonly string[], { state, generation }: GivenOptions) => {
			if (generation !== undefined && !isGeneration(generation)) {
				throw new Misuse(`--generation: expected one of ${GENERATION_NAMES.join(', ')}, got ${generation}`);
			}
			exit(await runWithDevice(command, { ...(state && { state }), ...(generation && { generation }) }));
		});
}

/** Says what is wrong with a program, as a shell would. @returns the exit code, or undefined if it can be run */
function refuse(program: string): number | undefined {
	const complain = (code: number, text: string): number => {
		process.stderr.write(`cvm: ${program}: ${text}\n`);
		return code;
	};
	const path = findInPath(program);
	if (path === undefined) {
		const there = program.includes('/') && existsSync(program);
		return there ? complain(NOT_EXECUTABLE, 'not executable') : complain(NOT_FOUND, 'command not found');
	}
	return statSync(path).isFile() ? undefined : complain(NOT_EXECUTABLE, 'not a program');
}

async function startDevice(options: SevDeviceOptions): Promise<SevDevice> {
	try {
		return await startSevDevice(options);
	} catch (error) {
		if (!(error instanceof DevsevError)) throw error;
		throw error.code === 'state' ? new Misuse(error.message) : new Failure(error.message);
	}
}

async function runWithDevice([program = '', ...argv]: readonly string[], options: SevDeviceOptions): Promise<number> {
	const refused = refuse(program);
	if (refused !== undefined) return refused;
	const unreachable = whyUnreachable(program);
	if (unreachable !== undefined) throw new Misuse(unreachable);
	const device = await startDevice(options);
	try {
		return await runProgram(program, argv, { ...process.env, ...device.env });
	} finally {
		await device.close();
	}
}
