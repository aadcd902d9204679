import type { Dialect } from '@cvm/qemu-mig';
import type { Finding, Severity, StreamImage, Verification } from '@cvm/qemu-mig/image';
import { openImage, VERIFY_RULES, verifyStream } from '@cvm/qemu-mig/image';
import { Command } from 'commander';
import pc from 'picocolors';
import { FAILED, Misuse } from '../exit.js';
import { print } from '../owner/print.js';
import { judged } from './faults.js';
import { imageInputs } from './image.js';
import { DIALECT_HELP, dialectOf } from './input.js';
import { answerOf } from './target-says.js';
import { hex, plural, printable, size } from './text.js';

interface VerifyOptions {
	readonly dialect?: Dialect;
	readonly as?: Dialect;
	readonly target?: string;
	readonly capability?: readonly string[];
	readonly json?: true;
}

/** `cvm stream verify`. */
export function verifyCommand(exit: (code: number) => void): Command {
	const rules = Object.entries(VERIFY_RULES).map(([id, [severity, title]]) => `  ${id} (${severity}): ${title}`);
	return new Command('verify')
		.description('check syntax and consistency; exit code 1 if something is wrong')
		.argument('<file>', 'the stream, or - for the standard input')
		.argument('[channel...]', 'its multifd channels, or the connections that went on with its postcopy')
		.option('--dialect <name>', DIALECT_HELP, dialectOf)
		.option('--as <dialect>', 'print what a target of this kind would print, and exit as it would', dialectOf)
		.option('--target <file>', 'with --as: a stream of the target: its machine, blocks and devices')
		.option('--capability <name>', 'with --as: on at the target: compress', collect)
		.option('--json', 'print one JSON document')
		.addHelpText(
			'after',
			`\nrules, besides those of syntax:\n${rules.join('\n')}\n\nexample:\n  cvm stream verify --as qemu-7.2 guest.qevm\n`,
		)
		.action(async (file: string, channels: string[], options: VerifyOptions) => {
			refuseForeign(options);
			const { as, target, json } = options;
			const local = target === undefined ? undefined : await targetOf(target);
			const verification = await verify([file, ...channels], options, local);
			if (as === undefined) {
				print(json, verificationJson(verification), verificationLines(verification));
				if (count(verification, 'error') > 0) exit(FAILED);
				return;
			}
			const { lines, failed } = answerOf(verification, local);
			if (json) print(json, { as, lines, exit: failed ? FAILED : 0 }, []);
			else for (const line of lines) process.stdout.write(`${line}\n`);
			if (failed) exit(FAILED);
		});
}

const collect = (name: string, all: readonly string[] = []): string[] => [...all, name];

function refuseForeign({ as, dialect, target, capability = [] }: VerifyOptions): void {
	if (as === undefined && target !== undefined) throw new Misuse('--target: expected --as with it');
	if (as === undefined && capability.length > 0) throw new Misuse('--capability: expected --as with it');
	if (as !== undefined && dialect !== undefined) throw new Misuse('--dialect: expected no --as with it, which says it');
	const unknown = capability.find((name) => name !== 'compress');
	if (unknown !== undefined) throw new Misuse(`--capability: expected compress, got '${unknown}'`);
}

async function verify(
	paths: readonly string[],
	{ dialect, as, capability = [] }: VerifyOptions,
	target: StreamImage | undefined,
): Promise<Verification> {
	const inputs = imageInputs(paths);
	const machineType = target?.configuration?.machineType;
	return await verifyStream(inputs, {
		...(dialect && { dialect }),
		...(as && { as, compress: capability.includes('compress') }),
		...(target && { target: { ...(machineType !== undefined && { machineType }), blocks: target.blocks } }),
	});
}

/** What a target is, from a stream that it wrote. */
async function targetOf(path: string): Promise<StreamImage> {
	const inputs = imageInputs([path]);
	return await judged(`--target: '${path}'`, () => openImage(inputs, { facts: 'kinds' }));
}

const count = ({ findings }: Verification, severity: Severity): number =>
	findings.filter((one) => one.severity === severity).length;
const bytesOf = ({ image }: Verification): number => image.inputs.reduce((sum, { bytes }) => sum + bytes, 0);

const verificationJson = (verification: Verification): object => ({
	bytes: bytesOf(verification),
	dialect: verification.image.dialect,
	valid: count(verification, 'error') === 0,
	complete: verification.complete,
	findings: verification.findings,
	more: verification.more,
});

function verificationLines(verification: Verification): string[] {
	const { findings, more } = verification;
	const [errors, warnings] = [count(verification, 'error'), count(verification, 'warning')];
	const total = [size(bytesOf(verification)), plural(errors, 'error'), plural(warnings, 'warning')].join(', ');
	return [
		...findings.map(findingLine),
		...(more > 0 ? [`… and ${more} more`] : []),
		`${errors === 0 ? 'valid' : 'not valid'}: ${total}`,
	];
}

function findingLine({ rule, severity, offset, input = 0, section, text }: Finding): string {
	const colours = pc.createColors(process.stdout.isTTY === true);
	const paint = { error: colours.red, warning: colours.yellow, info: colours.dim }[severity];
	const where = [
		input > 0 ? ` file ${input + 1}` : '',
		offset === undefined ? '' : ` ${hex(offset)}`,
		section === undefined ? '' : ` ${printable(section)}`,
	];
	return `${paint(severity)}${where.join('')}: ${printable(text)} [${rule}]`;
}
