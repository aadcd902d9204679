// Writes docs/sev-states.md from the firmware's command table, packages/sev-hw/src/abi/commands.ts, and docs/helper-states.md from
// that of the migration helper, packages/ovmf-mh/src/session/transitions.ts:
//   node tools/state-diagrams.mjs            writes them
//   node tools/state-diagrams.mjs --check    fails if they are not what it would write
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const path = (name) => fileURLToPath(new URL(`../${name}`, import.meta.url));

/** A table as the code itself has it: TypeScript, which Node 20 does not read. */
async function load(entry) {
	const { outputFiles } = await build({
		entryPoints: [path(entry)],
		bundle: true,
		write: false,
		format: 'esm',
		conditions: ['@cvm/source'],
		logLevel: 'error',
	});
	return await import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].contents).toString('base64')}`);
}
const { COMMANDS, GuestState, PlatformState } = await load('packages/sev-hw/src/abi/index.ts');
const { SESSION_TABLE } = await load('packages/ovmf-mh/src/session/transitions.ts');
const { HelperCommand, HelperPhase } = await load('packages/ovmf-mh/src/mailbox/abi.ts');

const nameOf = (states, value) => Object.keys(states).find((name) => states[name] === value);
const platformStates = Object.keys(PlatformState);
/** Without UNINIT: no guest is in it. */
const guestStates = Object.keys(GuestState).filter((name) => GuestState[name] !== GuestState.UNINIT);
const NOWHERE = '[*]';

const commands = Object.entries(COMMANDS)
	.map(([name, rule]) => ({ name, ...rule }))
	.sort((a, b) => a.id - b.id);

/** Edges `from → to` with the commands on them, in the order of their ids. */
function diagram(edges) {
	const labels = new Map();
	for (const { from, to, label } of edges) {
		const arrow = `${from} --> ${to}`;
		labels.set(arrow, [...(labels.get(arrow) ?? []), label]);
	}
	const arrows = Array.from(labels, ([arrow, names]) => `    ${arrow} : ${names.join(', ')}`);
	return ['```mermaid', 'stateDiagram-v2', ...arrows, '```'];
}

const platformEdges = commands.flatMap((command) => {
	const from = command.platform.map((state) => nameOf(PlatformState, state));
	const edges = (to, label) => from.map((state) => ({ from: state, to, label }));
	if (command.kind === 'creating') return edges('WORKING', command.name);
	if (command.kind === 'platform') {
		return command.next === undefined ? [] : edges(nameOf(PlatformState, command.next), command.name);
	}
	return command.next === GuestState.UNINIT ? edges('INIT', `${command.name} of the last guest`) : [];
});

const guestEdges = commands.flatMap((command) => {
	if (command.kind === 'platform' || command.next === undefined) return [];
	const to = command.next === GuestState.UNINIT ? NOWHERE : nameOf(GuestState, command.next);
	const from = command.kind === 'creating' ? [NOWHERE] : command.guest.map((state) => nameOf(GuestState, state));
	return from.map((state) => ({ from: state, to, label: command.name }));
});

const NONE = '';
const STAYS = '•';

/** What a command does to the platform in a state, if it is legal there. */
function inPlatform({ kind, platform, next }, state) {
	if (!platform.includes(PlatformState[state])) return NONE;
	const to = kind === 'creating' ? 'WORKING' : kind === 'platform' ? nameOf(PlatformState, next) : undefined;
	return to === undefined || to === state ? STAYS : `→ ${to}`;
}

/** What a command does to its guest in a state, if it is legal there. */
function inGuest({ kind, guest, next }, state) {
	if (kind !== 'guest' || !guest.includes(GuestState[state])) return NONE;
	if (next === GuestState.UNINIT) return '→ gone';
	return next === undefined ? STAYS : `→ ${nameOf(GuestState, next)}`;
}

const row = (cells) => `| ${cells.join(' | ')} |`;
const titles = ['Id', 'Command', 'Buffer', 'Copy-back', ...platformStates, ...guestStates];
const table = [
	row(titles),
	row(titles.map(() => '---')),
	...commands.map((command) =>
		row([
			`0x${command.id.toString(16).padStart(3, '0')}`,
			command.name,
			command.buffer === undefined ? '0' : `${command.buffer.size}`,
			command.copyBack,
			...platformStates.map((state) => inPlatform(command, state)),
			...(command.kind === 'creating'
				? [`makes a guest in ${nameOf(GuestState, command.next)}`, ...guestStates.slice(1).map(() => NONE)]
				: guestStates.map((state) => inGuest(command, state))),
		]),
	),
];

const text = [
	'# States of platform and guests',
	'',
	'Made by `node tools/state-diagrams.mjs` from `packages/sev-hw/src/abi/commands.ts`, the table that the firmware itself',
	'dispatches by. Do not edit. Source of the table: SEV API 0.24 §4.3, §5.1.2 and §6.1.1.',
	'',
	'## Platform',
	'',
	...diagram(platformEdges),
	'',
	'SHUTDOWN destroys all guests. INIT and INIT_EX that fail after their state check leave the platform in UNINIT.',
	'',
	'## Guest',
	'',
	...diagram(guestEdges),
	'',
	'SHUTDOWN ends every guest, in any state.',
	'',
	'## Which command is legal where',
	'',
	`\`${STAYS}\`: legal, the state stays. \`→\`: legal, and the state after success. Empty: INVALID_PLATFORM_STATE for the platform,`,
	'INVALID_GUEST_STATE for a guest; commands that name no guest have empty cells there. GUEST_STATUS takes any handle, valid',
	'or not. A legal command may still be refused, for instance because its guest is not bound to an ASID.',
	'',
	'Buffer: bytes of the command buffer. Copy-back: when the firmware writes the whole command buffer back: `none` and `in` never,',
	'`out` and `inout` on success, `query` on success and on INVALID_LENGTH.',
	'',
	...table,
	'',
].join('\n');

const phases = Object.keys(HelperPhase);
/** Each phase is of the source or of the target; a target that runs is `idle`, and so a source. */
const isOfTarget = (name) => HelperPhase[name] >= HelperPhase.empty;
const helperEdges = (belongs) =>
	Object.entries(SESSION_TABLE).flatMap(([label, { next, fatal }]) =>
		Object.entries(next)
			.filter(([from]) => belongs(from))
			.flatMap(([from, to]) => [
				...(from === to ? [] : [{ from, to, label }]),
				...(fatal ? [{ from, to: 'aborted', label: `${label} refused` }] : []),
			]),
	);
const helperRows = Object.entries(SESSION_TABLE).map(([name, { input, by, next, fatal }]) =>
	row([
		`0x${HelperCommand[name].toString(16).padStart(2, '0')}`,
		name,
		input === 'none' ? '' : input,
		by,
		fatal ? 'yes' : '',
		...phases.map((phase) => (next[phase] === undefined ? NONE : next[phase] === phase ? STAYS : `→ ${next[phase]}`)),
	]),
);
const helperTitles = ['Nr', 'Command', 'Input', 'By helper', 'Fatal', ...phases];

const helperText = [
	'# States of the migration helper',
	'',
	'Made by `node tools/state-diagrams.mjs` from `packages/ovmf-mh/src/session/transitions.ts`, the table that the hardened helper itself',
	'dispatches by. Do not edit. The machine is of this project; start and abort tokens are an idea of the TDX module.',
	'',
	'## Source',
	'',
	...diagram(helperEdges((name) => !isOfTarget(name))),
	'',
	'Up to `proven` the source takes its guest back alone. From `committed` on it must not run, unless the target gives ABORT. A source that',
	'is `retired` has neither keys nor memory.',
	'',
	'## Target',
	'',
	...diagram(helperEdges(isOfTarget)),
	'',
	'The guest runs from `idle` on, and may leave again as a source. A target that made ABORT wiped its keys before, so it can never take',
	'START.',
	'',
	'## Which command is legal where',
	'',
	`\`${STAYS}\`: legal, the phase stays. \`→\`: legal, and the phase after success. Empty: refused with \`phase\`, and nothing changes. A legal`,
	'command may still be refused; then too nothing changes, unless it is fatal: that ends the session, with the phase `aborted`.',
	'`run` in `idle` only repeats RUNNING for the START that it answered.',
	'',
	'Input: whether a message comes with it. By helper: the first one for the whole guest, while all others rest, or each for its stream.',
	'',
	row(helperTitles),
	row(helperTitles.map(() => '---')),
	...helperRows,
	'',
].join('\n');

for (const [name, wanted] of [
	['docs/sev-states.md', text],
	['docs/helper-states.md', helperText],
]) {
	if (!process.argv.includes('--check')) writeFileSync(path(name), wanted);
	else if (!existsSync(path(name)) || readFileSync(path(name), 'utf8') !== wanted) {
		console.error(`${name} is out of date: run \`node tools/state-diagrams.mjs\``);
		process.exitCode = 1;
	}
}
